"""Channels become separate utterances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.corpora import all_ids, read_corpus, write_scp, write_segments

from e2v_cli.corpus import lists
from e2v_cli.corpus.channels import split_channels
from e2v_cli.corpus.ids import hash_keys
from e2v_cli.errors import CorpusError
from e2v_cli.records import Utterance


def test_channel_has_the_duration_of_its_recording() -> None:
    folder = write_segments("s r1 0 1.5\nt r2 1 -1\n")
    write_scp("a 1.wav\nb 2.wav\n", "list.scp")
    write_scp("b 7\n", "utt2dur")

    corpus = split_channels(read_corpus(["list.scp", folder]), lambda utterance, _: 1 + (utterance.utt_id != "a"), 1)

    assert all_ids(corpus) == [b"a", b"b-1", b"b-2", b"s-1", b"s-2", b"t-1", b"t-2"]
    assert corpus.durations.tolist() == pytest.approx([np.nan, 7, 7, 1.5, 1.5, np.nan, np.nan], nan_ok=True)


def test_channels_become_separate_utterances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the list names the channel, or the audio can't be read."""
    monkeypatch.setattr(lists, "CHUNK_LINES", 2)
    folder = write_segments("s r1 0 1\nt r1 1 2 0\nu r3 0 1\nv r2 0 1\n", recording_channels="r2 call A\n")
    listed = write_scp("mono 1.wav\nstereo 2.wav\ngone 3.wav\nmany 4.wav\n", "list.scp")
    numbers = {"1.wav": 1, "2.wav": 2, "3.wav": 0, "4.wav": 3, "2.mp3": 2}
    asked: list[str] = []

    def count(utterance: Utterance, _stopping: Callable[[], bool]) -> int:
        asked.append(utterance.source)
        return 2 if utterance.segment else numbers[utterance.source]

    corpus = split_channels(read_corpus([listed, folder]), count, 1)

    assert [(utterance.utt_id, utterance.channel) for utterance in map(corpus.__getitem__, range(len(corpus)))] == [
        ("mono", None),
        *(("stereo-1", 0), ("stereo-2", 1)),
        ("gone", None),
        *(("many-1", 0), ("many-2", 1), ("many-3", 2)),
        *(("s-1", 0), ("s-2", 1)),
        *(("t", 0), ("u", None), ("v", None)),
    ]
    assert all_ids(corpus) == [corpus[index].utt_id.encode() for index in range(len(corpus))]
    assert [corpus[index].index for index in range(12)] == list(range(12))
    assert corpus.recording_groups is not None
    assert corpus.recording_groups.tolist() == [0, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5, 6]
    assert asked == ["1.wav", "2.wav", "3.wav", "4.wav", "1.wav"]
    assert corpus.index.find(hash_keys([b"stereo", b"s-2"])).tolist() == [-1, 8]


def test_duplicate_of_an_id_with_channel_is_named() -> None:
    corpus = read_corpus([write_scp("a 1.wav\na-2 2.wav\n")])

    with pytest.raises(CorpusError, match=r'^wav\.scp:2: utt-id "a-2" again \(first at wav\.scp:1\)$'):
        split_channels(corpus, lambda utterance, _: 2 if utterance.index == 0 else 1, 1)
