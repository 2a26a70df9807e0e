"""A list is told by its content, whatever its name; what is neither audio nor a list is refused."""

from __future__ import annotations

import gzip
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.audio_files import encode, noisy_tone
from support.corpora import all_pairs, pairs, pipe_to_stdin, read_corpus, touch, write_scp

from e2v_cli.errors import CorpusError, UsageError

FORMS = (
    'a list has lines like \'utt1 a.wav\', or paths alone, or JSON like {"key": "utt1", "source": "a.wav"}, '
    "or is a table (CSV) with a header like utt_id,path"
)

AUDIO = encode(noisy_tone(800))

CONTENTS = {
    "scp": "a x/1.wav\nb x/2.wav\n",
    "CRLF": "\ufeffa x/1.wav\r\n\r\nb x/2.wav",
    "FunASR": '{"key": "a", "source": "x/1.wav", "source_len": 7}\n\n{"source": "x/2.wav", "key": "b"}',
    "EmoBox": '{"key": "a", "dataset": "d", "wav": "x/1.wav", "emo": "neutral", "length": 1.5}\n'
    '{"key": "b", "dataset": "d", "wav": "x/2.wav", "emo": "sad", "length": 2}\n',
    "CSV": "utt_id,path\na,x/1.wav\nb,x/2.wav\n",
    "TSV": "emotion\tWav\tID\nsad\tx/1.wav\ta\nhappy\tx/2.wav\tb\n",
}
"""The same list in all forms."""

NAMES = ["list", "list.txt", "list.SCP", "list.scp.gz", "list.jsonl", "list.json", "list.csv", "list.tsv", "scp", "a b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", CONTENTS)
def test_list_is_told_by_its_content(content: str, name: str) -> None:
    expected = read_corpus([write_scp(CONTENTS["scp"])])
    write_scp(CONTENTS[content], name)
    write_scp(gzip.compress(CONTENTS[content].encode()), f"{name}.gz")

    for path in (name, f"{name}.gz", f"scp:{name}"):
        corpus = read_corpus([path])
        assert all_pairs(corpus) == [("a", "x/1.wav"), ("b", "x/2.wav")]
        assert corpus.digest == expected.digest
        assert corpus.checksums.tolist() == expected.checksums.tolist()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a http://host/x\n", [("a", "http://host/x")]),
        ("a 1.ark:17\n", [("a", "1.ark:17")]),
        ("a 1.ark:17[0:9]\n", [("a", "1.ark:17[0:9]")]),
        ("a my call.WAV\n", [("a", "my call.WAV")]),
        ("a /data/1\nb 2\n", [("a", "/data/1"), ("b", "2")]),
        ("x/1\ny/2.wav\n", [("1", "x/1"), ("2", "y/2.wav")]),
        ("http://host/1\n", [("1", "http://host/1")]),
        ("path\nx/1.wav\n", [("1", "x/1.wav")]),
        ("file_name,text\n1.wav,hello\n", [("1", "1.wav")]),
        (b"a caf\xe9.wav\n", [("a", os.fsdecode(b"caf\xe9.wav"))]),
    ],
)
def test_lists_of_any_audio_are_told(content: str | bytes, expected: list[tuple[str, str]]) -> None:
    assert pairs(write_scp(content, "list.txt")) == pairs(write_scp(content, "list.scp")) == expected


def test_commands_are_told_and_refused_in_any_list() -> None:
    refused = "--allow-pipes lets e2v run the commands of a list, for lists that you trust"
    for content, line in (
        ("a cat 1.wav |\n", 1),
        ('{"key": "a", "source": "cat 1.wav |"}\n', 1),
        ('\n{"audio_filepath": "cat 1.wav | "}\n', 2),
        ("utt_id,path\na,cat 1.wav |\n", 2),
        ("x/1.wav\ncat|\n", 2),
    ):
        write_scp(content, "list.txt")
        with pytest.raises(CorpusError, match=rf"^list\.txt:{line}: 'cat.*' is a command; {refused}$"):
            read_corpus(["list.txt"])
        corpus = read_corpus(["list.txt"], allow_pipes=True)
        assert corpus.waits
        assert corpus[len(corpus) - 1].source.startswith("cat")


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("is_gzip", [False, True])
def test_list_is_told_on_a_pipe_and_on_standard_input(
    content: str, is_gzip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy can be read again; relative paths are not searched beside the pipe of a shell."""
    written = gzip.compress(CONTENTS[content].encode()) if is_gzip else CONTENTS[content].encode()
    os.mkfifo("fifo")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Path("fifo").write_bytes, written)
        corpus = read_corpus(["fifo"])
    read, write = os.pipe()
    os.write(write, written)
    os.close(write)
    described = read_corpus([f"/dev/fd/{read}"])
    os.close(read)
    pipe_to_stdin(written, monkeypatch)
    given = read_corpus(["-"])

    for each in (corpus, described, given):
        assert all_pairs(each) == all_pairs(each) == [("a", "x/1.wav"), ("b", "x/2.wav")]
    assert [each[0].folder for each in (corpus, described)] == [".", ""]


def test_standard_input_may_be_named_as_in_kaldi(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_to_stdin("a 1.wav\n", monkeypatch)

    assert pairs("scp:-") == [("a", "1.wav")]


@pytest.mark.parametrize("name", ["x.txt", "x", "x.csv", "x.json"])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF", "W64", "AU", "NIST"])
def test_audio_of_any_name_is_audio(kind: str, name: str) -> None:
    subtype = "VORBIS" if kind == "OGG" else "PCM_16"
    write_scp(encode(noisy_tone(8000), kind, subtype), name)

    assert pairs(name) == [("x", name)]


def test_audio_suffix_and_empty_files_are_audio() -> None:
    """They fail alone, and don't pass for a list of none."""
    write_scp(CONTENTS["scp"], "list.WAV")
    touch("empty", "empty.txt")
    write_scp("\n \n", "blank.txt")

    assert pairs("list.WAV", "empty", "blank.txt") == [
        ("list", "list.WAV"),
        ("empty", "empty"),
        ("blank", "blank.txt"),
    ]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"hello\n", "'hello'"),
        (
            b"\n  Dear reader, this is no list of audio and/or of paths\n",
            "'Dear reader, this is no list of audio an…'",
        ),
        (b"utt1 spk1\nutt2 spk2\n", "'utt1 spk1'"),
        (b"utt1 rec1 0.0 1.5\n", "'utt1 rec1 0.0 1.5'"),
        (b"utt1 1.5\n", "'utt1 1.5'"),
        (b"utt1 he said\n", "'utt1 he said'"),
        (b"id,label\n1,sad\n", "'id,label'"),
        (b'[{"source": "x/a.wav"}]\n', '\'[{"source": "x/a.wav"}]\''),
        (b"#!/bin/sh\n", "'#!/bin/sh'"),
        (b"<html/>\n", "'<html/>'"),
        (b"caf\xe9 \x9b31m\n", "'caf\\\\xe9 \\\\x9b31m'"),
    ],
)
def test_neither_audio_nor_list_is_refused(content: bytes, shown: str) -> None:
    for name, written in (("x.txt", content), ("x", content), ("x.gz", gzip.compress(content))):
        Path(name).write_bytes(written)
        message = f"{name}: neither audio nor a list: its first line is {shown}; {FORMS}"
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            read_corpus([name])


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40] + b"\0\0\0" + data[43:]])
def test_damaged_gzip_is_named(damage: object) -> None:
    lines = "".join(f"utt{random.Random(number).random()} x/{number}.wav\n" for number in range(1000))
    assert callable(damage)
    write_scp(damage(gzip.compress(lines.encode())), "list.gz")

    with pytest.raises(CorpusError, match=r"^list\.gz: damaged gzip: .+; compress the list again$"):
        read_corpus(["list.gz"])


def test_gzip_of_no_list_is_refused_before_it_is_decompressed() -> None:
    """Ten gigabytes would take a minute, and the disk."""
    megabyte = gzip.compress(bytes(1 << 20))
    write_scp(megabyte * 10_000, "zeros.gz")
    write_scp(gzip.compress(AUDIO), "a.wav.gz")

    for name in ("zeros.gz", "a.wav.gz"):
        message = f"{name}: gzip of audio or another file, not of a list; decompress it first"
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            read_corpus([name])


def test_audio_on_pipes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo("fifo")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Path("fifo").write_bytes, AUDIO)
        message = "fifo: audio from a pipe; save it, or name it in a list: e2v predict <(echo utt1 -) < AUDIO"
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            read_corpus(["fifo"])
    pipe_to_stdin(AUDIO, monkeypatch)
    message = "-: not text, but a list is read from here; for audio: e2v predict <(echo utt1 -) < AUDIO"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        read_corpus(["-"])


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("scp,p:list.scp", UsageError, "scp,p:list.scp: of Kaldi's specifiers, e2v takes scp:PATH alone"),
        ("ark:x.ark", UsageError, "ark:x.ark: of Kaldi's specifiers, e2v takes scp:PATH alone"),
        ("scp:d", CorpusError, "d: Is a directory; a list must be a file that can be read"),
        (
            "scp:zcat x.gz |",
            CorpusError,
            "scp:zcat x.gz |: a command can only stand in a list: e2v predict <(zcat x.gz)",
        ),
    ],
)
def test_other_specifiers_are_refused(item: str, error: type[Exception], message: str) -> None:
    Path("d").mkdir()

    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        read_corpus([item])


def test_existing_file_is_not_taken_for_a_specifier() -> None:
    touch("ark:x.wav", "scp:y.wav")

    assert pairs("ark:x.wav", "scp:y.wav") == [("ark:x", "ark:x.wav"), ("scp:y", "scp:y.wav")]
