"""What a run was made of, read again: speakers, transcripts, and utterances with their audio."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.corpora import read_corpus
from support.journals import INVOCATION, header

from e2v_cli.analysis.reading.originals import (
    NOT_LISTED,
    find_lists,
    find_utterances,
    make_input_options,
    read_transcripts,
    working_folder_of,
)
from e2v_cli.corpus.lists import mix_checksums
from e2v_cli.journal.journal import Header
from e2v_cli.options import InputOptions, Invocation
from e2v_cli.records import Segment


def header_of(*inputs: str, folder: Path | str = "") -> Header:
    """Make the header of a run over inputs."""
    return replace(header(), invocation=replace(INVOCATION, inputs=inputs, folder=str(folder)))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory in the current folder, with two speakers and a transcript."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text("a x/a.wav\nb x/b.wav\nc x/c.wav\n")
    (folder / "utt2spk").write_text("b berta\na anna\n")
    (folder / "text").write_text("a  So it is.\nb <b>&amp; \u2028\nd not of this run\n")
    return folder


@pytest.mark.parametrize("item", ["data", "data/wav.scp", "scp:data/wav.scp"])
def test_lists_are_beside_the_inputs(data: Path, item: str) -> None:
    out = data.parent / "out"
    assert find_lists(out, header_of(item, "-", "http://x/y.wav"), "text") == [Path("data/text")]
    assert find_lists(out, header_of(item, folder=data.parent), "utt2spk") == [data / "utt2spk"]
    assert find_lists(out, header_of(item), "spk2gender") == []


def test_lists_in_out_count_alone(data: Path) -> None:
    assert find_lists(data, header_of("data/wav.scp"), "text") == [data / "text"]


def test_transcripts_are_of_the_first_list_that_has_them(data: Path) -> None:
    (data / "more").write_text("a again\nc\n\n  b\t x  y \n")
    texts = read_transcripts([data / "text", data / "more"], ["a", "b", "c"])
    assert texts == {"a": "So it is.", "b": "<b>&amp;", "c": ""}


def test_run_works_where_it_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with working_folder_of(header_of(folder=tmp_path)):
        assert os.getcwd() == str(tmp_path)
    assert os.getcwd() == "/"
    with working_folder_of(header_of(folder=tmp_path / "gone")):
        assert os.getcwd() == "/"


@pytest.mark.usefixtures("data")
def test_utterances_are_found_by_id_and_source() -> None:
    known = read_corpus(["data"]).checksums.tolist()
    found = find_utterances(InputOptions(("data",)), ["c", "a", "z", "b"], [known[2], None, None, known[1] ^ 1])
    assert [item if isinstance(item, str) else item.source for item in found] == [
        "x/c.wav",
        "x/a.wav",
        NOT_LISTED,
        "the list names other audio now",
    ]


def test_channels_of_a_split_run_are_found(data: Path) -> None:
    (data / "segments").write_text("a-1 a 0.5 2\n")
    known = mix_checksums(read_corpus(["data"]).checksums, np.array([1]))
    options = make_input_options(
        replace(header_of("data"), fingerprint={**header_of().fingerprint, "channel": "split"}), False
    )
    (found,) = find_utterances(options, ["a-1-2"], [int(known[0])])
    assert not isinstance(found, str)
    assert (found.utt_id, found.channel, found.segment) == ("a-1-2", 1, Segment(0.5, 2.0))


def test_options_are_those_of_the_run() -> None:
    head = header()
    head = replace(
        head,
        fingerprint={**head.fingerprint, "channel": 2, "resampler": "torchaudio", "id": "stem"},
        invocation=Invocation(inputs=("x", "y"), hidden=True, segments_rttm="turns.rttm"),
    )
    assert make_input_options(head, allow_pipes=False) == InputOptions(
        ("x", "y"), channel=1, resampler="torchaudio", hidden=True, id_form="stem", segments_rttm=Path("turns.rttm")
    )
    assert make_input_options(header_of("x"), allow_pipes=True) == InputOptions(("x",), pipe_seconds=600.0)


def test_commands_are_not_run_unless_allowed(data: Path) -> None:
    (data / "wav.scp").write_text("a cat x/a.wav |\n")
    (reason,) = find_utterances(InputOptions(("data",)), ["a"], [None])
    assert reason == (
        "data/wav.scp:1: 'cat x/a.wav |' is a command; --allow-pipes lets e2v run the commands of a list, "
        "for lists that you trust"
    )
    (found,) = find_utterances(InputOptions(("data",), pipe_seconds=1.0), ["a"], [None])
    assert not isinstance(found, str)


def test_secrets_of_lists_stay_in_them(data: Path) -> None:
    (data / "wav.scp").write_text("a curl -s https://anna:secret@x.org/a.wav?key=secret |\n")
    (reason,) = find_utterances(InputOptions(("data",)), ["a"], [None])
    assert isinstance(reason, str)
    assert reason.startswith("data/wav.scp:1: 'curl -s https://***@x.org/a.wav?***")
    assert "secret" not in reason


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (("gone.scp",), "gone.scp: no such file or folder; INPUT is audio, a folder, a list or - for standard input"),
        (("-",), "the list was piped in (-), and is gone"),
        (("data", "/dev/fd/63"), "the list was piped in (/dev/fd/63), and is gone"),
    ],
)
def test_inputs_that_are_gone_have_a_reason(inputs: tuple[str, ...], reason: str) -> None:
    assert find_utterances(InputOptions(inputs), ["a", "b"], [None, None]) == [reason, reason]
