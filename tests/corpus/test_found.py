"""A folder's search leaves nothing out in silence."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from support.corpora import NOTHING, all_pairs, read_corpus, touch, write_scp

from e2v_cli.errors import CorpusError


@pytest.fixture
def notes(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Collect what is logged, which e2v's own logger may keep from pytest's."""
    logging.getLogger("e2v_cli").propagate = True
    return caplog


def test_folder_of_audio_alone_has_no_note(notes: pytest.LogCaptureFixture) -> None:
    touch("d/a.wav", "d/x/b.FLAC", "d/.DS_Store", "d/x/.gitignore")

    assert len(read_corpus(["d"])) == 2
    assert notes.messages == []


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (["b.txt", "x/c.TXT", "x/d.json"], "d: left out 3 files that are not audio: 2 .txt, 1 .json"),
        (["b.txt"], "d: left out 1 file that is not audio: 1 .txt"),
        (
            ["README", "x/c.mid", "z.a\tb"],
            "d: left out 3 files that are not audio: 1 without a suffix, 1 .a%09b, 1 .mid",
        ),
        (
            [f"{number}.s{number % 7}" for number in range(30)],
            "d: left out 30 files that are not audio: 5 .s0, 5 .s1, 4 .s2, 4 .s3, 4 .s4, 8 others",
        ),
        ([".git/annex/b.wav", ".Trash/c"], "d: left out 2 hidden folders, which --hidden searches"),
        (["._a.wav"], "d: left out 1 hidden audio file, which --hidden searches"),
        (
            ["b.txt", "x/.y/c.wav", ".z.mp3", "x/.w.ogg"],
            "d: left out 1 file that is not audio: 1 .txt; 1 hidden folder and 2 hidden audio files, "
            "which --hidden searches",
        ),
    ],
)
def test_folder_notes_the_files_that_it_left_out(files: list[str], note: str, notes: pytest.LogCaptureFixture) -> None:
    touch("d/a.wav", *(f"d/{name}" for name in files))

    assert all_pairs(read_corpus(["d"])) == [("a", "d/a.wav")]
    assert notes.messages == [note]


def test_hidden_files_and_folders_are_searched_on_request(notes: pytest.LogCaptureFixture) -> None:
    touch("d/a.wav", "d/.b.wav", "d/.git/annex/c.wav", "d/.git/HEAD", "d/x/.y/d.wav")

    corpus = read_corpus(["d"], hidden=True)

    assert [path for _, path in all_pairs(corpus)] == ["d/.b.wav", "d/a.wav", "d/.git/annex/c.wav", "d/x/.y/d.wav"]
    assert notes.messages == ["d: left out 1 file that is not audio: 1 without a suffix"]


def test_hidden_folder_may_be_named() -> None:
    touch(".clips/a.wav", ".b.wav")

    assert all_pairs(read_corpus([".clips", ".b.wav"])) == [("a", ".clips/a.wav"), (".b", ".b.wav")]


def test_error_for_no_utterances_lists_the_files_left_out(notes: pytest.LogCaptureFixture) -> None:
    touch("d/a.mid", "d/.git/b.wav")
    message = (
        f"d: no utterances found; {NOTHING}; d: left out 1 file that is not audio: 1 .mid; "
        "1 hidden folder, which --hidden searches"
    )

    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus(["d"])
    assert notes.messages == []


def test_input_without_utterances_is_noted_beside_others(notes: pytest.LogCaptureFixture) -> None:
    touch("a.wav", "empty.scp", "d/b.txt")
    write_scp("utt_id,path\n", "t.csv")

    assert len(read_corpus(["empty.scp", "d", "a.wav", "t.csv"])) == 1
    assert notes.messages == [
        "d: left out 1 file that is not audio: 1 .txt",
        "empty.scp: no utterances found",
        "d: no utterances found",
        "t.csv: no utterances found",
    ]


def test_error_in_a_list_without_ids_names_its_line() -> None:
    Path("list.scp").write_text("x/a.wav\n\nx/a.wav\n")

    with pytest.raises(CorpusError, match=r'^list\.scp:3: utt-id "a" again \(first on line 1\)$'):
        read_corpus(["list.scp"])
