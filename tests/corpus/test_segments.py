"""Segments become utterances, in groups that are decoded together; errors name the line."""

from __future__ import annotations

import re

import pytest
from support.corpora import all_ids, read_corpus, touch, write_scp, write_segments

from e2v_cli.errors import CorpusError
from e2v_cli.records import Segment, Utterance


def test_segments_become_utterances_in_file_order() -> None:
    corpus = read_corpus(
        [
            write_segments(
                "b r2 0 1.5\n\n a\tr1 2.25 -1 1\r\nc r2 1e1 2e1 B", recording_channels="r2 call B\nr1 call A\n"
            )
        ]
    )

    assert all_ids(corpus) == [b"b", b"a", b"c"]
    assert [corpus[index] for index in (2, 0, 1)] == [
        Utterance(2, "c", "2.mp3", "data", Segment(10.0, 20.0), channel=1, recording_channel=1, recording_id="r2"),
        Utterance(0, "b", "2.mp3", "data", Segment(0.0, 1.5), recording_channel=1, recording_id="r2"),
        Utterance(1, "a", "1.wav", "data", Segment(2.25, None), channel=1, recording_channel=0, recording_id="r1"),
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a r3 0 1", 'data/segments:2: recording "r3" is not in data/wav.scp'),
        ("a r1 1 1", "data/segments:2: from 1 to 1 s: not 0 <= start < end <= 1e9"),
        ("a r1 1.5 1.25", "data/segments:2: from 1.5 to 1.25 s: not 0 <= start < end <= 1e9"),
        ("a r1 -1 2", "data/segments:2: from -1 to 2 s: not 0 <= start < end <= 1e9"),
    ],
)
def test_invalid_segment_fails_alone(line: str, fault: str) -> None:
    corpus = read_corpus([write_segments(f"good r1 0 1\n{line}\n")])

    assert (corpus[0].fault, corpus[1].fault) == ("", fault)


@pytest.mark.parametrize(
    "line", ["a r1 0", "a r1 0 one", "a r1 0 1 mix", "a r1 0 1 1 1", "a", "a r1 0 nan", "a r1 0 1 -1"]
)
def test_malformed_line_of_segments_is_named(line: str) -> None:
    message = (
        f"data/segments:2: {line!r}; a line is: utt-id recording-id start end, in seconds, "
        "end -1 for the recording's, and perhaps a channel counted from 0"
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([write_segments(f"b r1 0 1\n{line}\n")])


@pytest.mark.parametrize(
    ("segments", "recordings", "message"),
    [
        ("a r1 0 1\na r1 1 2\n", "r1 1.wav\n", 'data/segments:2: utt-id "a" again (first on line 1)'),
        ("a r1 0 1\n", "r1 1.wav\nr1 2.wav\n", 'data/wav.scp:2: utt-id "r1" again (first on line 1)'),
        ("# r1 0 1\n", "r1 1.wav\n", "data/segments:1: begins with #, but Kaldi's lists have no comments"),
    ],
)
def test_errors_in_segments_name_the_line(segments: str, recordings: str, message: str) -> None:
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([write_segments(segments, recordings)])


def test_segments_of_a_recording_form_a_group() -> None:
    """Groups are numbered by first appearance, over all inputs; a segment without a recording is a group of its own."""
    folder = write_segments("a r2 0 1\nb r1 0 1\nc r2 1 2\nd r3 0 1\ne r1 1 2\nf r4 0 1\n")
    write_scp("x 1.wav\ny 2.wav\n", "list.scp")
    touch("z.wav")

    together = read_corpus(["list.scp", folder, "z.wav"]).recording_groups

    assert together is not None
    assert together.tolist() == [0, 1, 2, 3, 2, 4, 3, 5, 6]
    assert read_corpus(["list.scp", "z.wav"]).recording_groups is None


@pytest.mark.parametrize(
    ("source", "sizes"),
    [("1.wav", [50, 50, 50]), ("1.FLAC", [50, 50, 50]), ("1.mp3", [150]), ("cat 1.wav |", [150])],
)
def test_many_segments_of_a_seekable_file_form_several_groups(source: str, sizes: list[int]) -> None:
    """Groups have about the same size, and follow the order of the list."""
    segments = "".join(f"s{number} r1 {number} {number + 1}\nt{number} r2 0 1\n" for number in range(150))
    together = read_corpus([write_segments(segments, f"r1 {source}\nr2 2.mp3\n")], allow_pipes=True).recording_groups

    assert together is not None
    numbers = together[::2].tolist()
    assert [numbers.count(number) for number in dict.fromkeys(numbers)] == sizes
    assert numbers == sorted(numbers)
    assert len(set(together[1::2].tolist()) - set(numbers)) == 1


def test_digest_distinguishes_segments_from_whole_files() -> None:
    """It also depends on the recordings, which form the groups, but not on times."""
    folder = write_segments("a r1 0 1\nb r1 1 2\nc r2 0 1\n")
    whole = read_corpus([write_scp("a 1.wav\nb 2.wav\nc 3.wav\n")]).digest
    first = read_corpus([folder]).digest
    write_scp("a r1 0 1\nb r2 1 2\nc r2 0 1\n", "data/segments")
    second = read_corpus([folder]).digest
    write_scp("a r1 0 9\nb r2 1 9\nc r2 0 9\n", "data/segments")

    assert len({whole, first, second}) == 3
    assert read_corpus([folder]).digest == second
