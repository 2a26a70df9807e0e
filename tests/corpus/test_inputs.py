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

import numpy as np
import pytest

from e2v_cli.corpus import data_dir, lists
from e2v_cli.corpus import inputs as corpus_module
from e2v_cli.corpus.channels import split_channels
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.ids import hash_keys
from e2v_cli.corpus.inputs import AUDIO_SUFFIXES, read_corpus
from e2v_cli.errors import CorpusError
from e2v_cli.records import Segment, Utterance

REFUSED = "is a command; --allow-pipes lets e2v run the commands of a list, for lists that you trust"
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


def pipe_to_stdin(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a 1.wav\nb 2.wav\n", [("a", "1.wav"), ("b", "2.wav")]),
        ("a http://host/1.wav\n", [("a", "http://host/1.wav")]),
        ("a 1.ark:17\nb 1.ark:5[0:9]\n", [("a", "1.ark:17"), ("b", "1.ark:5[0:9]")]),
        ("a | 1.wav\n", [("a", "| 1.wav")]),
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
        (b"a 1.wav\n# b 2.wav\n", "wav.scp:2: begins with #, but Kaldi's lists have no comments"),
        (b"#\n", "wav.scp:1: begins with #, but Kaldi's lists have no comments"),
        (b"a 1.wav\nb\n", 'wav.scp:2: no path behind utt-id "b"; a line is: utt-id path'),
        (b"b \r\n", 'wav.scp:1: no path behind utt-id "b"; a line is: utt-id path'),
        (b"a 1.wav\nb sox 1.mp3 -t wav - |\n", f"wav.scp:2: 'sox 1.mp3 -t wav - |' {REFUSED}"),
        (b"a x| \r\n", f"wav.scp:1: 'x|' {REFUSED}"),
        (b"a |\n", f"wav.scp:1: '|' {REFUSED}"),
        (b"a.wav\nb 1.wav\n", "wav.scp:2: two columns, but the first line has one: write an utt-id in each"),
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
        (
            ["http://host/a.wav", "http://host/a.wav"],
            'http://host/a.wav: utt-id "http://host/a.wav" again (first at http://host/a.wav)',
        ),
        (["empty"], "empty: no utterances there; " + NOTHING),
        (
            ["empty", "texts"],
            "empty, texts: no utterances there; " + NOTHING,
        ),
        (["segmented"], "segmented: no utterances there; " + NOTHING),
        (
            ["columns"],
            "columns/wav.scp: one column, but segments need recording ids before the paths",
        ),
    ],
)
def test_inputs_that_cannot_be_read_are_named(inputs: list[str], message: str) -> None:
    write_scp("a 1.wav\n", "one.scp")
    write_scp("b 1.wav\na 2.wav\n", "two.scp")
    write_scp("a 1.wav\nx/a.wav 2.wav\n", "three.scp")
    touch("x/a.wav", "y/a.wav", "t:1/a.wav", "texts/a.txt", "texts/wav", "segmented/segments", "segmented/wav.scp")
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
    assert [(corpus[index].index, corpus[index].utt_id, corpus[index].source) for index in (4, 1, 0, 3, 2, 1)] == [
        (4, "f", "d/f.wav"),
        (1, "b", "my call.wav"),
        (0, "a", "1.wav"),
        (3, "e", "d/e.wav"),
        (2, "c", "3.wav"),
        (1, "b", "my call.wav"),
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4096])
def test_ids_are_read_some_at_a_time(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_CHUNK", chunk)
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

    def read(content: bytes) -> list[tuple[bool, list[tuple[str, str]] | str]]:
        """Read a list where commands are refused, and where they are allowed, and say whether audio is waited for."""
        taken: list[tuple[bool, list[tuple[str, str]] | str]] = []
        for allow_pipes in (False, True):
            try:
                corpus = read_corpus([write_scp(content)], allow_pipes)
                taken.append((corpus.waits, all_pairs(corpus)))
            except CorpusError as error:
                taken.append((False, str(error)))
        return taken

    contents = [b"".join(generator.choices(PIECES, k=generator.randrange(1, 8))) + b"\n" for _ in range(200)]
    taken = [read(content) for content in contents]
    monkeypatch.setattr(corpus_module, "_PLAIN_LINE", re.compile(b"(?!)"))

    assert taken == [read(content) for content in contents]
    assert {type(said) for item in taken for _, said in item} == {list, str}
    assert {waits for item in taken for waits, _ in item} == {False, True}


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
    assert corpus[1].source == "2.wav"

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
    monkeypatch.setattr(lists, "hash", lambda key: len(key), raising=False)

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


# -- commands, URLs, standard input ------------------------------------------------------------------------------------


def test_commands_are_utterances_where_they_are_allowed() -> None:
    corpus = read_corpus([write_scp("a sox 1.mp3 -t wav - |\nb cat  'my call.wav'|\r\n")], allow_pipes=True)

    assert all_pairs(corpus) == [("a", "sox 1.mp3 -t wav - |"), ("b", "cat  'my call.wav'|")]


@pytest.mark.parametrize(
    ("content", "waits"),
    [("a 1.wav\n", False), ("a cat 1.wav |\n", True), ("a http://host/1.wav\n", True), ("a 1.ark:5\n", False)],
)
def test_commands_and_urls_are_waited_for(content: str, waits: bool) -> None:
    assert read_corpus([write_scp("first 1.wav\n" + content)], allow_pipes=True).waits == waits


def test_ids_of_urls_are_stems_where_those_are_unique() -> None:
    touch("c.wav")
    urls = ["https://host/x/a.wav", "http://host/b%20c.mp3?key=1#2", "http://host/c.wav", "http://other/c.wav"]

    assert read_corpus([urls[0]]).waits
    assert pairs(*urls, "c.wav") == [
        ("a", urls[0]),
        ("b c", urls[1]),
        (urls[2], urls[2]),
        (urls[3], urls[3]),
        ("c.wav", "c.wav"),
    ]


@pytest.mark.parametrize("url", ["http://[1:2]/a.wav", "http://[a.wav", "https://"])
def test_what_is_no_url_fails_alone_and_later(url: str) -> None:
    assert pairs(url, write_scp("b 1.wav\n"))[1:] == [("b", "1.wav")]
    assert [path for _, path in pairs(write_scp(f"1.wav\n{url}\n"))] == ["1.wav", url]


def test_a_list_may_have_paths_alone() -> None:
    """Then ids are those of files that are named themselves."""
    write_scp("\ufeff\n x/a.wav\r\ny/a.wav \n\nhttp://host/b.wav\nc.ogg", "list.scp")

    assert pairs("list.scp") == [
        ("x/a.wav", "x/a.wav"),
        ("y/a.wav", "y/a.wav"),
        ("b", "http://host/b.wav"),
        ("c", "c.ogg"),
    ]


def test_relative_paths_may_mean_the_folder_of_the_list() -> None:
    Path("data").mkdir()
    write_scp("a 1.wav\n", "data/wav.scp")
    write_scp("2.wav\n", "data/paths.scp")
    write_scp("b 3.wav\n", "here.scp")

    corpus = read_corpus(["data", "data/paths.scp", "here.scp"])

    assert [(utterance.source, utterance.folder) for utterance in map(corpus.__getitem__, range(3))] == [
        ("1.wav", "data"),
        ("2.wav", "data"),
        ("3.wav", "."),
    ]


def test_audio_on_standard_input_is_kept_where_workers_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("RIFF", monkeypatch)

    (first, kept) = pairs(write_scp("a 1.wav\nb -\n"))

    assert first == ("a", "1.wav")
    assert kept[0] == "b"
    assert Path(kept[1]).read_bytes() == b"RIFF"


def test_standard_input_is_one_utterance_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("RIFF", monkeypatch)

    message = "wav.scp:3: - is audio on standard input, but that is the audio of another line"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([write_scp("b 1.wav\na -\nc -\n")])


def test_a_list_on_standard_input_leaves_none_for_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("a -\n", monkeypatch)

    message = "<stdin>:1: - is audio on standard input, but that is the list itself"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus(["-"])


# -- segments ----------------------------------------------------------------------------------------------------------


def write_segments(segments: str, recordings: str = "r1 1.wav\nr2 2.mp3\n", recording_channels: str = "") -> str:
    Path("data").mkdir()
    write_scp(recordings, "data/wav.scp")
    write_scp(segments, "data/segments")
    if recording_channels:
        write_scp(recording_channels, "data/reco2file_and_channel")
    return "data"


def test_segments_are_utterances_in_their_own_order() -> None:
    corpus = read_corpus(
        [
            write_segments(
                "b r2 0 1.5\n\n a\tr1 2.25 -1 1\r\nc r2 1e1 2e1 B", recording_channels="r2 call B\nr1 call A\n"
            )
        ]
    )

    assert all_ids(corpus) == [b"b", b"a", b"c"]
    assert [corpus[index] for index in (2, 0, 1)] == [
        Utterance(2, "c", "2.mp3", "data", Segment(10.0, 20.0), channel=1, recording_channel=1),
        Utterance(0, "b", "2.mp3", "data", Segment(0.0, 1.5), recording_channel=1),
        Utterance(1, "a", "1.wav", "data", Segment(2.25, None), channel=1, recording_channel=0),
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a r3 0 1", 'data/segments:2: recording "r3" is not in data/wav.scp'),
        ("a r1 1 1", "data/segments:2: from 1 to 1 s there is nothing"),
        ("a r1 1.5 1.25", "data/segments:2: from 1.5 to 1.25 s there is nothing"),
        ("a r1 -1 2", "data/segments:2: from -1 to 2 s there is nothing"),
    ],
)
def test_a_segment_that_cannot_be_is_at_fault_alone(line: str, fault: str) -> None:
    corpus = read_corpus([write_segments(f"good r1 0 1\n{line}\n")])

    assert (corpus[0].fault, corpus[1].fault) == ("", fault)


@pytest.mark.parametrize(
    "line", ["a r1 0", "a r1 0 one", "a r1 0 1 mix", "a r1 0 1 1 1", "a", "a r1 0 nan", "a r1 0 1 -1"]
)
def test_lines_of_segments_that_have_another_form_are_named(line: str) -> None:
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


@pytest.mark.parametrize("line", ["r1 call", "r1 call I", "r1 call 0", "r1 call 9", "r1 call A A"])
def test_sides_that_have_another_form_are_named(line: str) -> None:
    message = "data/reco2file_and_channel:1: a line is: recording-id file A, or B, 1, 2 …"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([write_segments("a r1 0 1\n", recording_channels=line)])


def test_segments_of_a_recording_are_a_piece() -> None:
    """Pieces are numbered by first appearance, over all inputs; each segment of what is not there is one."""
    folder = write_segments("a r2 0 1\nb r1 0 1\nc r2 1 2\nd r3 0 1\ne r1 1 2\nf r4 0 1\n")
    write_scp("x 1.wav\ny 2.wav\n", "list.scp")

    together = read_corpus(["list.scp", folder, "z.wav"]).recording_groups

    assert together is not None
    assert together.tolist() == [0, 1, 2, 3, 2, 4, 3, 5, 6]
    assert read_corpus(["list.scp", "z.wav"]).recording_groups is None


@pytest.mark.parametrize(
    ("source", "sizes"),
    [("1.wav", [50, 50, 50]), ("1.FLAC", [50, 50, 50]), ("1.mp3", [150]), ("cat 1.wav |", [150])],
)
def test_many_segments_are_several_pieces_where_a_file_can_be_entered(source: str, sizes: list[int]) -> None:
    """Of about the same size, and neighbours in the list."""
    segments = "".join(f"s{number} r1 {number} {number + 1}\nt{number} r2 0 1\n" for number in range(150))
    together = read_corpus([write_segments(segments, f"r1 {source}\nr2 2.mp3\n")], allow_pipes=True).recording_groups

    assert together is not None
    numbers = together[::2].tolist()
    assert [numbers.count(number) for number in dict.fromkeys(numbers)] == sizes
    assert numbers == sorted(numbers)
    assert len(set(together[1::2].tolist()) - set(numbers)) == 1


def test_the_digest_tells_segments_from_whole_files() -> None:
    """And from those of other recordings: they are computed together with others."""
    folder = write_segments("a r1 0 1\nb r1 1 2\nc r2 0 1\n")
    whole = read_corpus([write_scp("a 1.wav\nb 2.wav\nc 3.wav\n")]).digest
    first = read_corpus([folder]).digest
    write_scp("a r1 0 1\nb r2 1 2\nc r2 0 1\n", "data/segments")
    second = read_corpus([folder]).digest
    write_scp("a r1 0 9\nb r2 1 9\nc r2 0 9\n", "data/segments")

    assert len({whole, first, second}) == 3
    assert read_corpus([folder]).digest == second


# -- durations ---------------------------------------------------------------------------------------------------------


def durations(*inputs: str) -> list[float | None]:
    """Read how long utterances are; None where nothing says it."""
    found = read_corpus(inputs, allow_pipes=True).durations
    assert found.dtype == np.float64
    return [None if np.isnan(duration) else duration for duration in found.tolist()]


def test_durations_stand_beside_a_list() -> None:
    """In any order, also of what the list doesn't have; of what is missing nothing is known."""
    folder = write_segments("", "a 1.wav\nb 2.wav\nc cat 3.wav |\nd 4.wav\n")
    Path("data/segments").unlink()
    assert durations(folder) == [None, None, None, None]

    write_scp("d 4\nx 99\n\n b\t.25 \r\na 1e2", "data/utt2dur")
    assert durations(folder) == [100.0, 0.25, None, 4.0]
    assert durations("data/wav.scp") == [100.0, 0.25, None, 4.0]


def test_durations_of_all_inputs_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is named, found or has its list on standard input has none."""
    folder = write_segments("a r1 0.5 2\nb r2 1 -1\n")
    write_scp("b 3.5\nc 99\nd 99\nz 99\n", "data/utt2dur")
    write_scp("c 3.wav\n", "c.scp")
    write_scp("d 7\nz 8\n", "utt2dur")
    write_scp("d 4.wav\n", "d.scp")
    touch("found/z.wav")
    pipe_to_stdin("e 5.wav\n", monkeypatch)

    assert durations(folder, "c.scp", "d.scp", "found", "y.wav", "-") == [1.5, 3.5, None, 7.0, None, None, None]


def test_of_files_in_a_list_of_paths_durations_are_known_by_their_ids() -> None:
    Path("data").mkdir()
    write_scp("one.wav\ntwo.wav\n", "data/list.scp")
    write_scp("two 2\n", "data/utt2dur")

    assert durations("data/list.scp") == [None, 2.0]


def test_a_segment_is_as_long_as_it_says() -> None:
    """Whatever else does: of those that end with their recording alone another file may say it."""
    folder = write_segments("a r1 0 1.5\nb r1 2 -1\nc r1 2 -1.0 A\nd r2 1e1 12.25 1\ne r9 0 4\n")
    write_scp("a 99\nb 8\nd 99\nr1 99\n", "data/utt2dur")

    assert durations(folder) == [1.5, 8.0, None, 2.25, 4.0]


@pytest.mark.parametrize("times", ["2 2", "3 2", "0 1e300", "0 1e999", "1e999 1e999", "-1e300 1", "0 1000000001"])
def test_a_segment_that_cannot_be_takes_no_time(times: str) -> None:
    """It fails alone, and must not have a shard for itself."""
    assert durations(write_segments(f"good r1 0 1\nbad r1 {times}\n")) == [1.0, 0.0]


def test_what_lasts_for_ages_is_no_longer_than_any_recording() -> None:
    """Costs are sums of such numbers."""
    Path("data").mkdir()
    write_scp("a 1.wav\nb 2.wav\nc 3.wav\n", "data/wav.scp")
    write_scp("a 1e9\nb 1e300\nc 1e999\n", "data/utt2dur")

    assert durations("data") == [1e9, 1e9, 1e9]


def test_many_durations_are_looked_up_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_dir, "_CHUNK_BYTES", 20)
    monkeypatch.setattr(lists, "_CHUNK", 2)
    Path("data").mkdir()
    write_scp("".join(f"u{number} {number}.wav\n" for number in range(10)), "data/wav.scp")
    write_scp("".join(f"u{number} {number}\n" for number in range(12, 1, -1)), "data/utt2dur")

    assert durations("data") == [None, None, *map(float, range(2, 10))]

    write_scp("".join(f"s{number} u{number} 1 {number + 2}\n" for number in range(7)), "data/segments")
    assert durations("data") == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize("seed", range(20))
def test_durations_may_be_in_any_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In that of the list, in it for a while, or in another; with lines of others' in between, or blank ones."""
    generator = random.Random(seed)
    monkeypatch.setattr(data_dir, "_CHUNK_BYTES", generator.choice([1, 10, 50, 1000]))
    known = {f"u{number}": round(generator.uniform(0, 30), 2) for number in range(40)}
    listed = [key for key in known if generator.random() < 0.9]
    said = [key for key in known if seed % 4 == 0 or generator.random() < 0.9]
    if seed % 2:
        tail = said[20:]
        generator.shuffle(tail)
        said[20:] = tail
    lines = [f"{key} {known[key]}\n" for key in said]
    if seed % 3 == 0:
        lines.insert(generator.randrange(len(lines)), " \n")
        lines[0] = "\ufeff" + lines[0]
    Path("data").mkdir()
    write_scp("".join(f"{key} {key}.wav\n" for key in listed), "data/wav.scp")
    write_scp("".join(lines), "data/utt2dur")

    assert durations("data") == [known[key] if key in said else None for key in listed]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"a", "'a'"),
        (b"a long", "'a long'"),
        (b"a 1 2", "'a 1 2'"),
        (b"a -1", "'a -1'"),
        (b"a nan", "'a nan'"),
        (b"a inf", "'a inf'"),
        (b"a 1,5", "'a 1,5'"),
        (b"a caf\xe9", r"'a caf\\xe9'"),
    ],
)
def test_durations_that_have_another_form_are_named(line: bytes, shown: str) -> None:
    Path("data").mkdir()
    write_scp("a 1.wav\nb 2.wav\n", "data/wav.scp")
    write_scp(b"\xef\xbb\xbfb 2\n\n" + line + b"\n", "data/utt2dur")
    corpus = read_corpus(["data"])  # they are looked at where they are needed alone

    message = f"data/utt2dur:3: {shown}; a line is: utt-id seconds"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        _ = corpus.durations


def test_durations_that_cannot_be_read_are_named() -> None:
    Path("data/utt2dur").mkdir(parents=True)
    write_scp("a 1.wav\n", "data/wav.scp")

    with pytest.raises(CorpusError, match=r"^data/utt2dur: Is a directory$"):
        _ = read_corpus(["data"]).durations


def test_a_channel_is_as_long_as_its_recording() -> None:
    folder = write_segments("s r1 0 1.5\nt r2 1 -1\n")
    write_scp("a 1.wav\nb 2.wav\n", "list.scp")
    write_scp("b 7\n", "utt2dur")

    corpus = split_channels(read_corpus(["list.scp", folder]), lambda utterance, _: 1 + (utterance.utt_id != "a"), 1)

    assert all_ids(corpus) == [b"a", b"b-1", b"b-2", b"s-1", b"s-2", b"t-1", b"t-2"]
    assert corpus.durations.tolist() == pytest.approx([np.nan, 7, 7, 1.5, 1.5, np.nan, np.nan], nan_ok=True)


# -- channels ----------------------------------------------------------------------------------------------------------


def test_channels_become_utterances_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the list says which it is, or the audio can't be read."""
    monkeypatch.setattr(lists, "_CHUNK", 2)
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


def test_an_id_with_its_channel_may_stand_there_already() -> None:
    corpus = read_corpus([write_scp("a 1.wav\na-2 2.wav\n")])

    with pytest.raises(CorpusError, match=r'^wav\.scp:2: utt-id "a-2" again \(first at wav\.scp:1\)$'):
        split_channels(corpus, lambda utterance, _: 2 if utterance.index == 0 else 1, 1)
