"""Lists, folders and files become utterances, or an error that names the line."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from e2v_cli import corpus as corpus_module
from e2v_cli.corpus import AUDIO_SUFFIXES, Corpus, read_corpus
from e2v_cli.errors import CorpusError
from e2v_cli.keys import hash_keys

NOTHING = "a list has lines like: utt-id path, and folders are searched for " + " ".join(sorted(AUDIO_SUFFIXES))


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in messages are those that a user would have typed."""
    monkeypatch.chdir(tmp_path)


def pairs(*inputs: str) -> list[tuple[str, str]]:
    """Read inputs: (utt-id, path) of each utterance."""
    return all_pairs(read_corpus(inputs))


def all_pairs(corpus: Corpus) -> list[tuple[str, str]]:
    utterances = [corpus[index] for index in range(len(corpus))]
    assert [utterance.index for utterance in utterances] == list(range(len(corpus)))
    return [(utterance.utt_id, utterance.path) for utterance in utterances]


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


def pipe_to_stdin(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a 1.wav\nb 2.wav\n", [("a", "1.wav"), ("b", "2.wav")]),
        ("b 1.wav\na 2.wav\n", [("b", "1.wav"), ("a", "2.wav")]),
        ("a 1.wav", [("a", "1.wav")]),
        ("a\t1.wav\n", [("a", "1.wav")]),
        ("a \t  1.wav\n", [("a", "1.wav")]),
        ("  a 1.wav  \n", [("a", "1.wav")]),
        ("a my call.wav\n", [("a", "my call.wav")]),
        ("a two  blanks\tand a tab.wav\n", [("a", "two  blanks\tand a tab.wav")]),
        ("a 1.wav\r\nb 2.wav\r\n", [("a", "1.wav"), ("b", "2.wav")]),
        ("\ufeffa 1.wav\nb 2.wav\n", [("a", "1.wav"), ("b", "2.wav")]),
        ("\n\na 1.wav\n  \t\n\r\nb 2.wav\n\n", [("a", "1.wav"), ("b", "2.wav")]),
        ("a 1.wav\nb 1.wav\n", [("a", "1.wav"), ("b", "1.wav")]),
        ("ü/笑 день.wav\n", [("ü/笑", "день.wav")]),
        ("non\u00a0breaking 1.wav\n", [("non\u00a0breaking", "1.wav")]),
        ("a /abs/1.wav\nb ../2.wav\n", [("a", "/abs/1.wav"), ("b", "../2.wav")]),
        ("../x 1.wav\n/etc/x 2.wav\n", [("../x", "1.wav"), ("/etc/x", "2.wav")]),
        ("a 1|2.wav\n", [("a", "1|2.wav")]),
        ("a http.wav\n", [("a", "http.wav")]),
        ("a#1 1.wav\n", [("a#1", "1.wav")]),
        ("a 1.wav\x00\n", [("a", "1.wav\x00")]),
    ],
)
def test_lists_are_read_as_kaldi_reads_them(content: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(write_scp(content)) == expected


def test_paths_in_lists_may_be_any_bytes() -> None:
    (pair,) = pairs(write_scp(b"a caf\xe9 \xff.wav\n"))

    assert pair == ("a", os.fsdecode(b"caf\xe9 \xff.wav"))
    assert os.fsencode(pair[1]) == b"caf\xe9 \xff.wav"


def test_audio_in_lists_is_not_looked_at() -> None:
    """Ten million files would take minutes; what is missing fails alone, later."""
    assert pairs(write_scp("a nowhere/1.wav\n")) == [("a", "nowhere/1.wav")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1.wav\nb 2.wav\n\na 3.wav\n", 'wav.scp:4: utt-id "a" again (first on line 1)'),
        (b"\xef\xbb\xbfa 1.wav\na 1.wav\n", 'wav.scp:2: utt-id "a" again (first on line 1)'),
        (b"a 1.wav\n# b 2.wav\n", "wav.scp:2: begins with #, but a .scp list has no comments"),
        (b"#\n", "wav.scp:1: begins with #, but a .scp list has no comments"),
        (b"a 1.wav\nb\n", 'wav.scp:2: no path behind utt-id "b"; a line is: utt-id path'),
        (b"b \r\n", 'wav.scp:1: no path behind utt-id "b"; a line is: utt-id path'),
        (
            b"a sox 1.mp3 -t wav - |\n",
            "wav.scp:1: commands are not run by this version; write their output to files first",
        ),
        (b"a x|\n", "wav.scp:1: commands are not run by this version; write their output to files first"),
        (b"a\x07b 1.wav\n", "wav.scp:1: control characters in utt-id 'a\\x07b'"),
        (b"a\x00 1.wav\n", "wav.scp:1: control characters in utt-id 'a\\x00'"),
        (b"a\rb 1.wav\n", "wav.scp:1: control characters in utt-id 'a\\rb'"),
        (b"a 1.wav\ncaf\xe9 2.wav\n", "wav.scp:2: utt-id b'caf\\xe9' is not UTF-8"),
        (
            b"",
            "wav.scp: no utterances there; " + NOTHING,
        ),
        (
            b"\n\r\n",
            "wav.scp: no utterances there; " + NOTHING,
        ),
    ],
)
def test_lines_that_cannot_be_read_are_named(content: bytes, message: str) -> None:
    name = write_scp(content)

    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([name])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["one.scp", "two.scp"], 'two.scp:2: utt-id "a" again (first at one.scp:1)'),
        (["one.scp", "one.scp"], 'one.scp:1: utt-id "a" again (first on line 1)'),
        (["three.scp", "x/a.wav"], 'x/a.wav: utt-id "x/a.wav" again (first at three.scp:2)'),
        (["x/a.wav", "x/a.wav"], 'x/a.wav: utt-id "x/a.wav" again (first at x/a.wav)'),
        (["t:1", "t:1"], 't:1/a.wav: utt-id "t:1/a.wav" again (first at t:1/a.wav)'),
        (
            ["nothing.scp"],
            "nothing.scp: No such file or directory; INPUT is audio, a folder, a .scp list or - for standard input",
        ),
        (["nothing"], "nothing: no such file or folder"),
        (["nothing.txt"], "nothing.txt: no such file or folder"),
        (["http://host/a.wav"], "http://host/a.wav: URLs are not read by this version; download the file and name it"),
        (
            ["https://host/wav.scp"],
            "https://host/wav.scp: URLs are not read by this version; download the file and name it",
        ),
        (["empty"], "empty: no utterances there; " + NOTHING),
        (
            ["empty", "texts"],
            "empty, texts: no utterances there; " + NOTHING,
        ),
        (["segmented"], "segmented/segments: data directories with segments are not read by this version"),
    ],
)
def test_inputs_that_cannot_be_read_are_named(inputs: list[str], message: str) -> None:
    write_scp("a 1.wav\n", "one.scp")
    write_scp("b 1.wav\na 2.wav\n", "two.scp")
    write_scp("a 1.wav\nx/a.wav 2.wav\n", "three.scp")
    touch("x/a.wav", "y/a.wav", "t:1/a.wav", "texts/a.txt", "texts/wav", "segmented/segments", "segmented/wav.scp")
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
        ("z", "d/c/z.sph"),
        ("1", "d/x/1.MP3"),
        ("2", "d/x/2.ogg"),
        ("0", "d/x/y/0.opus"),
    ]


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES))
def test_audio_in_folders_is_known_by_its_suffix(suffix: str) -> None:
    touch(f"d/lower{suffix}", f"d/upper{suffix.upper()}", f"d/other{suffix}.bak")

    assert pairs("d") == [("lower", f"d/lower{suffix}"), ("upper", f"d/upper{suffix.upper()}")]


def test_ids_in_folders_are_stems_where_those_are_unique() -> None:
    touch("d/1/a.wav", "d/2/a.wav", "d/2/b.wav", "d/c.wav", "d/c.flac")

    assert pairs("d") == [
        ("c.flac", "d/c.flac"),
        ("c.wav", "d/c.wav"),
        ("1/a.wav", "d/1/a.wav"),
        ("2/a.wav", "d/2/a.wav"),
        ("b", "d/2/b.wav"),
    ]


@pytest.mark.parametrize(
    ("inputs", "ids"),
    [
        (["x/a.wav"], ["a"]),
        (["x", "y"], ["x/a.wav", "b", "my call", "tab%09newline%0A", "two.dots", "%FF", "y/a.wav"]),
        (["x/b.wav", "x/a.wav"], ["b", "a"]),
        (["x/a.wav", "y/a.wav"], ["x/a.wav", "y/a.wav"]),
        (["x/a.wav", "y/a.wav", "x/b.wav"], ["x/a.wav", "y/a.wav", "b"]),
        (["x/../y/a.wav", "./x/a.wav"], ["y/a.wav", "x/a.wav"]),
        (["x/no_suffix"], ["no_suffix"]),
        (["x/two.dots.wav"], ["two.dots"]),
        (["x/my call.wav"], ["my call"]),
        (["x/tab\tnewline\n.wav"], ["tab%09newline%0A"]),
        ([os.fsdecode(b"x/\xff.wav")], ["%FF"]),
        (["list.scp", "x/a.wav"], ["a", "x/a.wav"]),
        (["x/a.wav", "list.scp"], ["x/a.wav", "a"]),
    ],
)
def test_ids_of_single_files_are_stems_where_those_are_unique(inputs: list[str], ids: list[str]) -> None:
    touch("x/a.wav", "y/a.wav", "x/b.wav", "x/no_suffix", "x/two.dots.wav", "x/my call.wav", "x/tab\tnewline\n.wav")
    touch(os.fsdecode(b"x/\xff.wav"))
    write_scp("a 1.wav\n", "list.scp")

    assert [utt_id for utt_id, _ in pairs(*inputs)] == ids


def test_a_single_file_of_any_path_keeps_its_path() -> None:
    touch("x/a.wav")

    assert pairs("./x/../x/a.wav") == [("a", "./x/../x/a.wav")]


def test_audio_that_is_missing_becomes_an_utterance() -> None:
    """It fails alone, and leaves the others their results."""
    touch("a.wav")

    assert pairs("a.wav", "missing.wav", "missing.FLAC") == [
        ("a", "a.wav"),
        ("missing.wav", "missing.wav"),
        ("missing.FLAC", "missing.FLAC"),
    ]


@pytest.mark.parametrize("make", [lambda: None, lambda: touch("data/text", "data/utt2spk", "data/a.wav")])
def test_a_kaldi_data_directory_is_its_wav_scp(make: Callable[[], None]) -> None:
    Path("data").mkdir()
    make()
    write_scp("b 1.wav\na 2.wav\n", "data/wav.scp")

    assert pairs("data") == pairs("data/") == [("b", "1.wav"), ("a", "2.wav")]


def test_linked_folders_are_searched_once() -> None:
    touch("x/a.wav", "far/b.wav")
    Path("x/far").symlink_to("../far")
    Path("x/round").symlink_to("../x")
    Path("far/back").symlink_to("../x")

    assert pairs("x") == [("a", "x/a.wav"), ("b", "x/far/b.wav")]


def test_errors_in_a_data_directory_name_its_list() -> None:
    Path("data").mkdir()
    write_scp("a 1.wav\na 2.wav\n", "data/wav.scp")

    with pytest.raises(CorpusError, match=r'^data/wav\.scp:2: utt-id "a" again \(first on line 1\)$'):
        read_corpus(["data"])


def test_a_list_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("\ufeffa 1.wav\r\nb my call.wav", monkeypatch)

    assert pairs("-") == [("a", "1.wav"), ("b", "my call.wav")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1.wav\na 2.wav\n", '<stdin>:2: utt-id "a" again (first on line 1)'),
        ("a\n", '<stdin>:1: no path behind utt-id "a"; a line is: utt-id path'),
        ("", "-: no utterances there; " + NOTHING),
    ],
)
def test_errors_on_standard_input_name_the_line(content: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin(content, monkeypatch)

    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus(["-"])


def test_inputs_of_all_kinds_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_utterances_may_be_read_in_any_order() -> None:
    write_scp("a 1.wav\n\n  b\tmy call.wav \r\n\r\nc 3.wav", "list.scp")
    touch("d/e.wav", "d/f.wav")

    corpus = read_corpus(["list.scp", "d"])

    assert len(corpus) == 5
    assert [(corpus[index].index, corpus[index].utt_id, corpus[index].path) for index in (4, 1, 0, 3, 2, 1)] == [
        (4, "f", "d/f.wav"),
        (1, "b", "my call.wav"),
        (0, "a", "1.wav"),
        (3, "e", "d/e.wav"),
        (2, "c", "3.wav"),
        (1, "b", "my call.wav"),
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4096])
def test_ids_are_read_some_at_a_time(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "_CHUNK", chunk)
    write_scp("a 1.wav\n\nb\t2.wav\r\n c 3.wav\n\n\nd 4.wav\ne 5.wav", "list.scp")
    touch("x/my call.wav", "x/f\n.wav")

    corpus = read_corpus(["list.scp", "x"])

    assert all_ids(corpus) == [b"a", b"b", b"c", b"d", b"e", b"f%0A", b"my call"]
    assert max(map(len, corpus.ids())) <= chunk


def test_ids_are_found_in_the_index() -> None:
    corpus = read_corpus([write_scp("z 1.wav\nü 2.wav\na 3.wav\n")])

    assert corpus.index.find(hash_keys([b"a", b"b", b"z", "ü".encode()])).tolist() == [2, -1, 0, 1]


def test_the_digest_is_that_of_the_ids_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What predictions.tsv has rows of: not where audio is, nor how the list was written."""
    digest = hashlib.sha256("a\nmy call\nü\n".encode()).hexdigest()
    touch("one/a.wav", "two/my call.wav", "two/ü.flac")
    write_scp("a elsewhere.wav\r\n\r\n", "list.scp")
    pipe_to_stdin("a x.wav", monkeypatch)

    assert read_corpus(["one", "two"]).digest == digest
    assert read_corpus(["list.scp", "two"]).digest == digest
    assert read_corpus(["-", "two"]).digest == digest
    assert read_corpus(["two", "one"]).digest == hashlib.sha256("my call\nü\na\n".encode()).hexdigest()


def test_a_long_list_is_read_as_it_stands() -> None:
    """Ten thousand lines of all kinds."""
    generator = random.Random(0)
    expected = [(f"speaker{number % 97}/utt{number}", f"audio/{'x' * (number % 50)}.wav") for number in range(10_000)]
    gaps, ends = ("", "  ", "\t"), ("\n", "\r\n", " \n", "\n\n", "\n \t\n")
    lines = (
        f"{generator.choice(gaps)}{utt_id} {generator.choice(gaps)}{path}{generator.choice(ends)}"
        for utt_id, path in expected
    )
    corpus = read_corpus([write_scp("".join(lines))])

    assert all_ids(corpus) == [utt_id.encode() for utt_id, _ in expected]
    assert all_pairs(corpus) == expected


PIECES = [
    *(
        b"a",
        b"b",
        b"12",
        b" ",
        b"\t",
        b"\v",
        b"\f",
        b"\r",
        b"\0",
        b"\x07",
        b"\x1c",
        b"\x85",
        b"\xa0",
        b"\xe9",
        b"\xc3\xbc",
    ),
    *(b"#", b"|", b"http://", b"https://", b"://", b".ark:", b"[1:2]", b"/", b".wav", b"~", b"!", b"\x7f"),
]


@pytest.mark.parametrize("seed", range(20))
def test_lines_that_need_no_closer_look_are_taken_as_those_that_do(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(seed)

    def read(content: bytes) -> list[tuple[str, str]] | str:
        try:
            return pairs(write_scp(content))
        except CorpusError as error:
            return str(error)

    contents = [b"".join(generator.choices(PIECES, k=generator.randrange(1, 8))) + b"\n" for _ in range(200)]
    taken = [read(content) for content in contents]
    monkeypatch.setattr(corpus_module, "_PLAIN_LINE", re.compile(b"(?!)"))

    assert taken == [read(content) for content in contents]
    assert any(isinstance(item, list) for item in taken)


@pytest.mark.parametrize(
    "content",
    [
        b"a 1.wav\nx 2.wav\nc 3.wav\n",
        b"a 1.wav\nbb 2.wav\nc 3.wav\n",
        b"a 1.wav\n",
        b"a 1.wav\nb",
        b"",
        b"\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n",
    ],
)
def test_a_list_that_changes_while_it_is_in_use_is_named(content: bytes) -> None:
    corpus = read_corpus([write_scp("a 1.wav\nb 2.wav\nc 3.wav\n")])
    assert corpus[1].path == "2.wav"

    write_scp(content)

    message = "wav.scp: it changed while it was read; run the same command again"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        corpus[1]


@pytest.mark.parametrize("content", [b"", b"a 1.wav\n", b"\n" * 24, b"x 1.wav\nb 2.wav\nc 3.wav\n"])
def test_a_list_that_changed_before_its_digest_was_made_is_named(content: bytes) -> None:
    corpus = read_corpus([write_scp("a 1.wav\nb 2.wav\nc 3.wav\n")])

    write_scp(content)

    message = "wav.scp: it changed while it was read; run the same command again"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        all_ids(corpus)


def test_a_list_may_be_replaced_or_removed_while_it_is_in_use() -> None:
    """Whoever writes a new one and renames it does no harm."""
    corpus = read_corpus([write_scp("a 1.wav\nb 2.wav\n")])
    write_scp("x 1.wav\n", "new.scp")
    Path("new.scp").replace("wav.scp")

    assert all_pairs(corpus) == [("a", "1.wav"), ("b", "2.wav")]
    Path("wav.scp").unlink()
    assert all_ids(corpus) == [b"a", b"b"]


def test_a_list_may_come_through_a_pipe() -> None:
    """What can be read only once is read as often as needed."""
    os.mkfifo("list.scp")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(Path("list.scp").write_bytes, b"a 1.wav\nb 2.wav\n")
        corpus = read_corpus(["list.scp"])
        written.result(10)

    assert all_pairs(corpus) == all_pairs(corpus) == [("a", "1.wav"), ("b", "2.wav")]


def test_errors_in_a_list_through_a_pipe_name_the_line() -> None:
    os.mkfifo("list.scp")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(Path("list.scp").write_bytes, b"a 1.wav\n\na 2.wav\n")
        with pytest.raises(CorpusError, match=r'^list\.scp:3: utt-id "a" again \(first on line 1\)$'):
            read_corpus(["list.scp"])
        written.result(10)


def test_the_first_id_that_stands_twice_is_named() -> None:
    name = write_scp("a 1.wav\nb 2.wav\nc 3.wav\nc 4.wav\na 5.wav\na 6.wav\n")

    with pytest.raises(CorpusError, match=r'^wav\.scp:4: utt-id "c" again \(first on line 3\)$'):
        read_corpus([name])


def test_ids_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared itself; only those that are really the same are refused."""
    monkeypatch.setattr(corpus_module, "hash", lambda key: len(key), raising=False)

    assert pairs(write_scp("a 1.wav\nb 2.wav\ncc 3.wav\n")) == [("a", "1.wav"), ("b", "2.wav"), ("cc", "3.wav")]
    with pytest.raises(CorpusError, match=r'^wav\.scp:3: utt-id "b" again \(first on line 2\)$'):
        read_corpus([write_scp("a 1.wav\nb 2.wav\nb 3.wav\n")])


def test_files_are_closed_when_a_corpus_is_not_needed_any_more() -> None:
    def open_files() -> int:
        return len(os.listdir("/dev/fd"))

    touch("x/a.wav")
    before = open_files()
    corpus = read_corpus([write_scp("b 1.wav\n"), "x"])
    assert open_files() == before + 2
    assert all_ids(corpus) == [b"b", b"a"]

    del corpus

    assert open_files() == before
    for _ in range(3):
        with pytest.raises(CorpusError):
            read_corpus([write_scp("b 1.wav\nb 2.wav\n"), "x"])
    assert open_files() == before
