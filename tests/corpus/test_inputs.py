"""Files, folders, URLs and standard input become utterances; errors name the input."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.corpora import NOTHING, all_ids, all_pairs, pairs, pipe_to_stdin, read_corpus, touch, write_scp

from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.options import IdForm

NO_INPUT = "no such file or folder; INPUT is audio, a folder, a list or - for standard input"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["one.scp", "two.scp"], 'two.scp:2: utt-id "a" again (first at one.scp:1)'),
        (["one.scp", "one.scp"], 'one.scp:1: utt-id "a" again (first on line 1)'),
        (["one.scp", "x/a.wav"], 'one.scp:1 and x/a.wav have the same id, "a"; --id path tells them apart'),
        (["x/a.wav", "two.scp"], 'x/a.wav and two.scp:2 have the same id, "a"; --id path tells them apart'),
        (["three.scp"], 'x/a.wav and http://host/a.wav have the same id, "a"; --id path tells them apart'),
        (["x/a.wav", "./y/a.wav"], 'x/a.wav and ./y/a.wav have the same id, "a"; --id path tells them apart'),
        (["x/a.wav", "x/a.flac"], 'x/a.wav and x/a.flac have the same id, "a"; --id name tells them apart'),
        (["both"], 'both/1/a.flac and both/1/a.wav have the same id, "1/a"; --id name tells them apart'),
        (
            ["both/2", "y"],
            'both/2/a.wav and y/a.wav have the same id, "a"; '
            "name the folder that holds both, or list them with other ids, as in: utt-id path",
        ),
        (["x/a.wav", "x/a.wav"], 'x/a.wav: utt-id "a" again (first at x/a.wav)'),
        (["t:1", "t:1"], 't:1/a.wav: utt-id "a" again (first at t:1/a.wav)'),
        (
            ["http://host/a.wav", "http://host/a.wav"],
            'http://host/a.wav: utt-id "a" again (first at http://host/a.wav)',
        ),
        (["empty"], "empty: no utterances found; " + NOTHING),
        (
            ["empty", "texts"],
            f"empty, texts: no utterances found; {NOTHING}; "
            "texts: left out 2 files that are not audio: 1 without a suffix, 1 .txt",
        ),
        (["segmented"], "segmented: no utterances found; " + NOTHING),
        (
            ["columns"],
            "columns/wav.scp: one column, but segments need recording ids before the paths",
        ),
    ],
)
def test_unreadable_inputs_are_named(inputs: list[str], message: str) -> None:
    write_scp("a 1.wav\n", "one.scp")
    write_scp("b 1.wav\na 2.wav\n", "two.scp")
    write_scp("x/a.wav\nb.wav\nhttp://host/a.wav\n", "three.scp")
    touch("x/a.wav", "y/a.wav", "t:1/a.wav", "texts/a.txt", "texts/wav", "segmented/segments", "segmented/wav.scp")
    touch("x/a.flac", "both/1/a.flac", "both/1/a.wav", "both/2/a.wav")
    touch("columns/segments")
    write_scp("a.wav\n", "columns/wav.scp")
    Path("empty").mkdir()

    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus(inputs)


def test_folders_are_searched_for_audio_in_a_fixed_order() -> None:
    touch(
        "d/b.wav", "d/a.flac", "d/x/2.ogg", "d/x/1.MP3", "d/x/y/0.opus", "d/c/z.sph", "d/notes.txt", "d/wav", "d/.h.wav"
    )

    assert pairs("d") == [
        ("a", "d/a.flac"),
        ("b", "d/b.wav"),
        ("c/z", "d/c/z.sph"),
        ("x/1", "d/x/1.MP3"),
        ("x/2", "d/x/2.ogg"),
        ("x/y/0", "d/x/y/0.opus"),
    ]


@pytest.mark.parametrize("suffix", sorted(audio_suffixes()))
def test_audio_in_folders_is_known_by_its_suffix(suffix: str) -> None:
    touch(f"d/lower{suffix}", f"d/upper{suffix.upper()}", f"d/other{suffix}.bak")

    assert pairs("d") == [("lower", f"d/lower{suffix}"), ("upper", f"d/upper{suffix.upper()}")]


def test_ids_in_a_folder_are_paths_and_do_not_change_when_it_grows() -> None:
    touch("d/2/a.wav", "d/c.wav", "d/2/my call.v2.wav")
    before = pairs("d")

    touch("d/1/a.wav", "d/new/c.flac", "a.wav")
    after = pairs("d", "a.wav")

    assert before == [("c", "d/c.wav"), ("2/a", "d/2/a.wav"), ("2/my%20call.v2", "d/2/my call.v2.wav")]
    assert after == [
        ("c", "d/c.wav"),
        ("1/a", "d/1/a.wav"),
        *before[1:],
        ("new/c", "d/new/c.flac"),
        ("a", "a.wav"),
    ]


@pytest.mark.parametrize(
    ("form", "ids"),
    [
        (None, ["1/b.c", "a", "d", "s", "u%20v"]),
        ("path", ["1/b.c", "x/a", "../d", "y/z/s", "https://host/w/u%2520v.mp3?key=1#2"]),
        ("stem", ["b.c", "a", "d", "s", "u%20v"]),
        ("name", ["b.c.wav", "a.wav", "d.wav", "s.flac", "u%20v.mp3"]),
    ],
)
def test_ids_of_audio_are_made_of(form: IdForm | None, ids: list[str]) -> None:
    """In order: in a folder, typed, typed, listed, and a URL."""
    touch("folder/1/b.c.wav", "x/a.wav", "../d.wav")
    write_scp("y/./z/s.flac\n", "list.scp")
    inputs = ["folder", "./x/a.wav", "../d.wav", "list.scp", "https://host/w/u%20v.mp3?key=1#2"]

    corpus = read_corpus(inputs, id_form=form)

    assert [key.decode() for key in all_ids(corpus)] == ids


@pytest.mark.parametrize(
    ("inputs", "ids"),
    [
        (["x/a.wav"], ["a"]),
        (["x"], ["a", "b", "my%20call", "tab%09newline%0A", "two.dots", "%FF"]),
        (["x/b.wav", "x/a.wav"], ["b", "a"]),
        (["x/no_suffix"], ["no_suffix"]),
        (["x/two.dots.wav"], ["two.dots"]),
        (["x/my call.wav"], ["my%20call"]),
        (["x/tab\tnewline\n.wav"], ["tab%09newline%0A"]),
        ([os.fsdecode(b"x/\xff.wav")], ["%FF"]),
        (["list.scp", "x/a.wav"], ["c", "a"]),
        (["x/a.wav", "list.scp"], ["a", "c"]),
    ],
)
def test_ids_of_single_files_are_stems(inputs: list[str], ids: list[str]) -> None:
    touch("x/a.wav", "x/b.wav", "x/no_suffix", "x/two.dots.wav", "x/my call.wav", "x/tab\tnewline\n.wav")
    touch(os.fsdecode(b"x/\xff.wav"))
    write_scp("c 1.wav\n", "list.scp")

    assert [utt_id for utt_id, _ in pairs(*inputs)] == ids


def test_single_file_keeps_its_path() -> None:
    touch("x/a.wav")

    assert pairs("./x/../x/a.wav") == [("a", "./x/../x/a.wav")]


def test_missing_audio_of_a_list_becomes_an_utterance() -> None:
    """It fails alone; the others get results."""
    assert pairs(write_scp("a.wav\nmissing.FLAC\n")) == [("a", "a.wav"), ("missing", "missing.FLAC")]


def test_inputs_that_do_not_exist_are_all_named() -> None:
    touch("a.wav")
    write_scp("b 1.wav\n", "b.scp")

    message = f"nothing, missing.wav, scp:no.scp: {NO_INPUT}"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        read_corpus(["a.wav", "nothing", "http://host/c.wav", "missing.wav", "scp:b.scp", "-", "scp:no.scp"])


@pytest.mark.parametrize("make", [lambda: None, lambda: touch("data/text", "data/utt2spk", "data/a.wav")])
def test_kaldi_data_directory_is_read_by_its_wav_scp(make: Callable[[], None]) -> None:
    Path("data").mkdir()
    make()
    write_scp("b 1.wav\na 2.wav\n", "data/wav.scp")

    assert pairs("data") == pairs("data/") == [("b", "1.wav"), ("a", "2.wav")]


def test_linked_folders_are_searched_once() -> None:
    touch("x/a.wav", "far/b.wav")
    Path("x/far").symlink_to("../far")
    Path("x/round").symlink_to("../x")
    Path("far/back").symlink_to("../x")

    assert pairs("x") == [("a", "x/a.wav"), ("far/b", "x/far/b.wav")]


def test_errors_in_a_data_directory_name_its_list() -> None:
    Path("data").mkdir()
    write_scp("a 1.wav\na 2.wav\n", "data/wav.scp")

    with pytest.raises(CorpusError, match=r'^data/wav\.scp:2: utt-id "a" again \(first on line 1\)$'):
        read_corpus(["data"])


def test_list_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("\ufeffa 1.wav\r\nb my call.wav", monkeypatch)

    assert pairs("-") == [("a", "1.wav"), ("b", "my call.wav")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1.wav\na 2.wav\n", '<stdin>:2: utt-id "a" again (first on line 1)'),
        ("a\n", '<stdin>:1: no path after utt-id "a"; a line is: utt-id path'),
        ("", "-: no utterances found; " + NOTHING),
    ],
)
def test_errors_on_standard_input_name_the_line(content: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin(content, monkeypatch)

    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus(["-"])


def test_inputs_of_all_kinds_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("in 1.wav\n", monkeypatch)
    write_scp("list 2.wav\n", "list.scp")
    touch("d/folder.wav", "single.wav")
    Path("data").mkdir()
    write_scp("data 3.wav\n", "data/wav.scp")

    assert pairs("single.wav", "data", "-", "d", "list.scp") == [
        ("single", "single.wav"),
        ("data", "3.wav"),
        ("in", "1.wav"),
        ("folder", "d/folder.wav"),
        ("list", "2.wav"),
    ]


def test_allowed_commands_become_utterances() -> None:
    corpus = read_corpus([write_scp("a sox 1.mp3 -t wav - |\nb cat  'my call.wav'|\r\n")], allow_pipes=True)

    assert all_pairs(corpus) == [("a", "sox 1.mp3 -t wav - |"), ("b", "cat  'my call.wav'|")]


@pytest.mark.parametrize(
    ("content", "waits"),
    [("a 1.wav\n", False), ("a cat 1.wav |\n", True), ("a http://host/1.wav\n", True), ("a 1.ark:5\n", False)],
)
def test_commands_and_urls_set_waits(content: str, waits: bool) -> None:
    assert read_corpus([write_scp("first 1.wav\n" + content)], allow_pipes=True).waits == waits


def test_ids_of_urls_are_stems() -> None:
    urls = ["https://host/x/a.wav", "http://host/b%20c.mp3?key=1#2", "http://host/"]

    assert read_corpus([urls[0]]).waits
    assert pairs(*urls) == [("a", urls[0]), ("b%20c", urls[1]), (urls[2], urls[2])]


@pytest.mark.parametrize("url", ["http://[1:2]/a.wav", "http://[a.wav", "https://"])
def test_invalid_url_becomes_an_utterance(url: str) -> None:
    assert pairs(url, write_scp("b 1.wav\n"))[1:] == [("b", "1.wav")]
    assert [path for _, path in pairs(write_scp(f"1.wav\n{url}\n"))] == ["1.wav", url]


def test_audio_on_standard_input_is_copied_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("RIFF", monkeypatch)

    (first, kept) = pairs(write_scp("a 1.wav\nb -\n"))

    assert first == ("a", "1.wav")
    assert kept[0] == "b"
    assert Path(kept[1]).read_bytes() == b"RIFF"


def test_standard_input_is_only_one_utterance(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("RIFF", monkeypatch)

    message = "wav.scp:3: - reads audio from standard input, which is already the audio of another line"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([write_scp("b 1.wav\na -\nc -\n")])


def test_standard_input_is_not_both_list_and_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("a -\n", monkeypatch)

    message = "<stdin>:1: - reads audio from standard input, which is already the list itself"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus(["-"])
