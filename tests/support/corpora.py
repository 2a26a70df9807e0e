"""Lists and data directories in the current folder, and the utterances that a corpus reads from them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.corpus import inputs as corpus_inputs
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.options import PIPE_SECONDS, IdForm, InputOptions
from support.processes import ROOT

_WAV = sorted((ROOT / "sample_data" / "wav").iterdir())

CLIPS = [*_WAV[:6], *_WAV[18:22]]
"""Ten clips of the sample corpus, at 8, 16 and 44.1 kHz."""


def write_takes(path: Path, times: int) -> Path:
    """Write a list that names the sample corpus several times; return its path."""
    lines = (ROOT / "sample_data" / "wav.scp").read_text().splitlines()
    path.write_text("".join(f"take{take}-{line}\n" for take in range(times) for line in lines))
    return path


NOTHING = "a list has lines like: utt-id path, and folders are searched for " + " ".join(sorted(audio_suffixes()))


def read_corpus(
    inputs: Sequence[str],
    allow_pipes: bool = False,
    hidden: bool = False,
    id_form: IdForm | None = None,
    segments_rttm: Path | None = None,
) -> Corpus:
    """Read inputs, as ``e2v predict`` does with these options."""
    options = InputOptions(
        tuple(inputs),
        pipe_seconds=PIPE_SECONDS if allow_pipes else None,
        hidden=hidden,
        id_form=id_form,
        segments_rttm=segments_rttm,
    )
    return corpus_inputs.read_corpus(options)


def pairs(*inputs: str) -> list[tuple[str, str]]:
    """Read inputs: (utt-id, path) of each utterance."""
    return all_pairs(read_corpus(inputs))


def all_pairs(corpus: Corpus) -> list[tuple[str, str]]:
    utterances = [corpus[index] for index in range(len(corpus))]
    assert [utterance.index for utterance in utterances] == list(range(len(corpus)))
    return [(utterance.utt_id, utterance.source) for utterance in utterances]


def all_ids(corpus: Corpus) -> list[bytes]:
    return list(itertools.chain(*corpus.ids()))


def write_scp(content: bytes | str, name: str = "wav.scp") -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def pipe_to_stdin(content: bytes | str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = content if isinstance(content, bytes) else content.encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(written)))


def write_segments(segments: str, recordings: str = "r1 1.wav\nr2 2.mp3\n", recording_channels: str = "") -> str:
    Path("data").mkdir()
    write_scp(recordings, "data/wav.scp")
    write_scp(segments, "data/segments")
    if recording_channels:
        write_scp(recording_channels, "data/reco2file_and_channel")
    return "data"
