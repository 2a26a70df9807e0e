"""Lists become utterances, line by line; errors name the line."""

from __future__ import annotations

import hashlib
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.corpora import NOTHING, all_ids, all_pairs, pairs, pipe_to_stdin, read_corpus, touch, write_scp

from e2v_cli.corpus import inputs, lists
from e2v_cli.corpus.ids import hash_keys
from e2v_cli.errors import CorpusError

NO_WORD = "white space or control characters in utt-id"
REFUSED = "is a command; --allow-pipes lets e2v run the commands of a list, for lists that you trust"


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


def test_audio_in_lists_is_not_checked() -> None:
    """Ten million files would take minutes; a missing one fails alone, later."""
    assert pairs(write_scp("a nowhere/1.wav\n")) == [("a", "nowhere/1.wav")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1.wav\nb 2.wav\n\na 3.wav\n", 'wav.scp:4: utt-id "a" again (first on line 1)'),
        (b"\xef\xbb\xbfa 1.wav\na 1.wav\n", 'wav.scp:2: utt-id "a" again (first on line 1)'),
        (b"a 1.wav\n# b 2.wav\n", "wav.scp:2: begins with #, but Kaldi's lists have no comments"),
        (b"#\n", "wav.scp:1: begins with #, but Kaldi's lists have no comments"),
        (b"a 1.wav\nb\n", 'wav.scp:2: no path after utt-id "b"; a line is: utt-id path'),
        (b"b \r\n", 'wav.scp:1: no path after utt-id "b"; a line is: utt-id path'),
        (b"a 1.wav\nb sox 1.mp3 -t wav - |\n", f"wav.scp:2: 'sox 1.mp3 -t wav - |' {REFUSED}"),
        (b"a x| \r\n", f"wav.scp:1: 'x|' {REFUSED}"),
        (b"a |\n", f"wav.scp:1: '|' {REFUSED}"),
        (b"a.wav\nb 1.wav\n", "wav.scp:2: two columns, but the first line has one: write an utt-id in each"),
        (b"a\x07b 1.wav\n", f"wav.scp:1: {NO_WORD} 'a\\x07b'; rename it"),
        (b"a\x00 1.wav\n", f"wav.scp:1: {NO_WORD} 'a\\x00'; rename it"),
        (b"a\rb 1.wav\n", f"wav.scp:1: {NO_WORD} 'a\\rb'; rename it"),
        ("a 1.wav\nnon\u00a0breaking 2.wav\n".encode(), f"wav.scp:2: {NO_WORD} 'non\\xa0breaking'; rename it"),
        ("a 1.wav\n\ufeffb 2.wav\n".encode(), f"wav.scp:2: {NO_WORD} '\\ufeffb'; rename it"),
        (b"a 1.wav\ncaf\xe9 2.wav\n", "wav.scp:2: utt-id b'caf\\xe9' is not UTF-8"),
        (
            b"",
            "wav.scp: no utterances found; " + NOTHING,
        ),
        (
            b"\n\r\n",
            "wav.scp: no utterances found; " + NOTHING,
        ),
    ],
)
def test_malformed_lines_are_named(content: bytes, message: str) -> None:
    name = write_scp(content)

    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([name])


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
def test_ids_are_read_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "CHUNK_LINES", chunk)
    write_scp("a 1.wav\n\nb\t2.wav\r\n c 3.wav\n\n\nd 4.wav\ne 5.wav", "list.scp")
    touch("x/my call.wav", "x/f\n.wav")

    corpus = read_corpus(["list.scp", "x"])

    assert all_ids(corpus) == [b"a", b"b", b"c", b"d", b"e", b"f%0A", b"my%20call"]
    assert max(map(len, corpus.ids())) <= chunk


def test_ids_are_found_in_the_index() -> None:
    corpus = read_corpus([write_scp("z 1.wav\nü 2.wav\na 3.wav\n")])

    assert corpus.index.find(hash_keys([b"a", b"b", b"z", "ü".encode()])).tolist() == [2, -1, 0, 1]


def test_digest_depends_on_ids_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of audio and the form of the list make no difference."""
    digest = hashlib.sha256("a\nmy%20call\nü\n".encode()).hexdigest()
    touch("one/a.wav", "two/my call.wav", "two/ü.flac")
    write_scp("a elsewhere.wav\r\n\r\n", "list.scp")
    pipe_to_stdin("a x.wav", monkeypatch)

    assert read_corpus(["one", "two"]).digest == digest
    assert read_corpus(["list.scp", "two"]).digest == digest
    assert read_corpus(["-", "two"]).digest == digest
    assert read_corpus(["two", "one"]).digest == hashlib.sha256("my%20call\nü\na\n".encode()).hexdigest()


def test_list_of_10_000_lines_is_read_unchanged() -> None:
    """White space and line ends are of all kinds."""
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


FRAGMENTS = [
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
def test_plain_lines_are_read_the_same_with_all_checks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(seed)

    def read(content: bytes) -> list[tuple[bool, list[tuple[str, str]] | str]]:
        """Read a list with commands refused, then allowed: (waits, utterances or error) of each."""
        taken: list[tuple[bool, list[tuple[str, str]] | str]] = []
        for allow_pipes in (False, True):
            try:
                corpus = read_corpus([write_scp(content)], allow_pipes)
                taken.append((corpus.waits, all_pairs(corpus)))
            except CorpusError as error:
                taken.append((False, str(error)))
        return taken

    contents = [b"".join(generator.choices(FRAGMENTS, k=generator.randrange(1, 8))) + b"\n" for _ in range(200)]
    taken = [read(content) for content in contents]
    monkeypatch.setattr(inputs, "_PLAIN_LINE", re.compile(b"(?!)"))

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
def test_list_that_changes_while_in_use_is_named(content: bytes) -> None:
    corpus = read_corpus([write_scp("a 1.wav\nb 2.wav\nc 3.wav\n")])
    assert corpus[1].source == "2.wav"

    write_scp(content)

    message = "wav.scp: it changed while it was read; run the same command again"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        corpus[1]


@pytest.mark.parametrize("content", [b"", b"a 1.wav\n", b"\n" * 24, b"x 1.wav\nb 2.wav\nc 3.wav\n"])
def test_list_that_changes_before_its_digest_is_named(content: bytes) -> None:
    corpus = read_corpus([write_scp("a 1.wav\nb 2.wav\nc 3.wav\n")])

    write_scp(content)

    message = "wav.scp: it changed while it was read; run the same command again"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        all_ids(corpus)


def test_list_may_be_replaced_or_removed_while_in_use() -> None:
    """The open file stays the old one."""
    corpus = read_corpus([write_scp("a 1.wav\nb 2.wav\n")])
    write_scp("x 1.wav\n", "new.scp")
    Path("new.scp").replace("wav.scp")

    assert all_pairs(corpus) == [("a", "1.wav"), ("b", "2.wav")]
    Path("wav.scp").unlink()
    assert all_ids(corpus) == [b"a", b"b"]


def test_list_is_read_from_a_pipe() -> None:
    """Its copy can be read again."""
    os.mkfifo("list.scp")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(Path("list.scp").write_bytes, b"a 1.wav\nb 2.wav\n")
        corpus = read_corpus(["list.scp"])
        written.result(10)

    assert all_pairs(corpus) == all_pairs(corpus) == [("a", "1.wav"), ("b", "2.wav")]


def test_errors_in_a_list_from_a_pipe_name_the_line() -> None:
    os.mkfifo("list.scp")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(Path("list.scp").write_bytes, b"a 1.wav\n\na 2.wav\n")
        with pytest.raises(CorpusError, match=r'^list\.scp:3: utt-id "a" again \(first on line 1\)$'):
            read_corpus(["list.scp"])
        written.result(10)


def test_first_duplicate_id_is_named() -> None:
    name = write_scp("a 1.wav\nb 2.wav\nc 3.wav\nc 4.wav\na 5.wav\na 6.wav\n")

    with pytest.raises(CorpusError, match=r'^wav\.scp:4: utt-id "c" again \(first on line 3\)$'):
        read_corpus([name])


def test_ids_with_colliding_hashes_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only equal ids are refused."""
    monkeypatch.setattr(lists, "hash", lambda key: len(key), raising=False)

    assert pairs(write_scp("a 1.wav\nb 2.wav\ncc 3.wav\n")) == [("a", "1.wav"), ("b", "2.wav"), ("cc", "3.wav")]
    with pytest.raises(CorpusError, match=r'^wav\.scp:3: utt-id "b" again \(first on line 2\)$'):
        read_corpus([write_scp("a 1.wav\nb 2.wav\nb 3.wav\n")])


def test_files_are_closed_when_a_corpus_is_deleted() -> None:
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


def test_list_of_paths_needs_no_ids() -> None:
    """Ids are those of single files."""
    write_scp("\ufeff\n x/a.wav\r\ny/d.wav \n\nhttp://host/b.wav\nc.ogg", "list.scp")

    assert pairs("list.scp") == [
        ("a", "x/a.wav"),
        ("d", "y/d.wav"),
        ("b", "http://host/b.wav"),
        ("c", "c.ogg"),
    ]


def test_utterances_keep_the_folder_of_their_list() -> None:
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
