"""Kaldi compatibility: lists, data directories, segments, and the formats of results.

Tables hold the cases of refused lists, list values and segments. Rows of segments and archives are compared with rows
of files with the same samples. Inputs and outputs are read with kaldiio and kaldi_native_io, too; the latter is Kaldi's
own code.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from decimal import Decimal
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
import soundfile
from praatio import textgrid  # type: ignore[import-untyped]
from support.audio_files import RATE, as_float
from support.forkserver import fork_e2v, shared_server
from support.kaldi_folders import (
    COUNT_FRAMES,
    count_frames,
    kaldi_bounds,
    make_speech,
    read_embeddings,
    read_encoded,
    read_pairs,
    read_rows,
    read_tables,
    run_e2v,
    write_audio,
    write_folder,
)
from support.processes import ROOT, Hold, hook, wait_until

pytestmark = pytest.mark.e2e

TIMELINE_HEADER = "utt_id\tstart\tend\tlabel\tscore\t"

ALONE = ("-m", "sample", "-j", "1", "--batch-seconds", "0.01")
"""Batches of one utterance, so that the rest of the list does not change the last bit of a row."""


def predict_rows(
    *args: str | Path, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Run e2v, check its success, and return the rows on standard output."""
    done = run_e2v("predict", *ALONE, *args, stdin=stdin, environment=environment or {})
    assert done.returncode == 0, done.stderr
    return read_rows(done.stdout)


def durations_of(rows: Mapping[str, list[str]]) -> list[tuple[str, float]]:
    return [(key, float(cells[2])) for key, cells in rows.items()]


# -- refused lists -----------------------------------------------------------------------------------------------------

SEGMENTS_FORM = (
    "a line is: utt-id recording-id start end, in seconds, end -1 for the recording's, "
    "and perhaps a channel counted from 0"
)
PIPE_REFUSED = "is a command; --allow-pipes lets e2v run the commands of a list, for lists that you trust"


class Refusal(NamedTuple):
    """Files by name, the expected message, and the inputs and options of the command."""

    files: Mapping[str, bytes]
    message: str
    inputs: tuple[str, ...] = ("wav.scp",)
    options: tuple[str, ...] = ()


def refused_list(content: bytes, message: str, *options: str) -> Refusal:
    return Refusal({"wav.scp": content}, message, options=options)


def refused_folder(message: str, **files: bytes) -> Refusal:
    wav_scp = files.pop("wav_scp", b"rec1 a.wav\nrec2 a.wav\n")
    contents = {f"data/{name}": content for name, content in files.items()}
    return Refusal({"data/wav.scp": wav_scp, **contents}, message, ("data",))


def refused_segment(line: str) -> Refusal:
    segments = f"s1 rec1 0 1\n{line}\n".encode()
    return refused_folder(f"data/segments:2: {line!r}; {SEGMENTS_FORM}", segments=segments)


REFUSALS = {
    "a comment": refused_list(
        b"u1 a.wav\n\n# u2 a.wav\n", "wav.scp:3: begins with #, but Kaldi's lists have no comments"
    ),
    "a line taken out": refused_list(
        b"#u1 a.wav\nu2 a.wav\n", "wav.scp:1: begins with #, but Kaldi's lists have no comments"
    ),
    "a line taken out of paths": refused_list(
        b"a.wav\n#a.wav\n", "wav.scp:2: begins with #, but Kaldi's lists have no comments"
    ),
    "an id alone": refused_list(b"u1 a.wav\nu2\n", 'wav.scp:2: no path after utt-id "u2"; a line is: utt-id path'),
    "an id twice": refused_list(b"u1 a.wav\r\n\r\nu1\tb.wav", 'wav.scp:3: utt-id "u1" again (first on line 1)'),
    "an id in two lists": Refusal(
        {"a.scp": b"u1 a.wav\n", "b.scp": b"u2 a.wav\nu1 a.wav\n"},
        'b.scp:2: utt-id "u1" again (first at a.scp:1)',
        ("a.scp", "b.scp"),
    ),
    "an id that is not UTF-8": refused_list(b"u1 a.wav\n\xff a.wav\n", r"wav.scp:2: utt-id b'\xff' is not UTF-8"),
    "a command": refused_list(b"u1 a.wav\nu2 touch x |\n", f"wav.scp:2: 'touch x |' {PIPE_REFUSED}"),
    "a command before a carriage return": refused_list(b"u1 touch x | \r\n", f"wav.scp:1: 'touch x |' {PIPE_REFUSED}"),
    "a command without blanks": refused_list(b"u1 touch${IFS}x|\n", f"wav.scp:1: 'touch${{IFS}}x|' {PIPE_REFUSED}"),
    "a command among paths": refused_list(b"a.wav\ntouch${IFS}x|\n", f"wav.scp:2: 'touch${{IFS}}x|' {PIPE_REFUSED}"),
    "a command with a time limit": refused_list(
        b"u1 touch x |\n", f"wav.scp:1: 'touch x |' {PIPE_REFUSED}", "--pipe-timeout", "5"
    ),
    "ids behind paths": refused_list(
        b"a.wav\nu2 a.wav\n", "wav.scp:2: two columns, but the first line has one: write an utt-id in each"
    ),
    "standard input twice": refused_list(
        b"u1 -\nu2 a.wav\nu3 -\n",
        "wav.scp:3: - reads audio from standard input, which is already the audio of another line",
    ),
    "a command in a folder": refused_folder(
        f"data/wav.scp:1: 'touch x |' {PIPE_REFUSED}", wav_scp=b"rec1 touch x |\n", segments=b"s1 rec1 0 1\n"
    ),
    "a segment's id twice": refused_folder(
        'data/segments:4: utt-id "s1" again (first on line 1)',
        segments=b"s1 rec1 0 1\n\ns2 rec1 1 2\ns1 rec2 0 1\n",
    ),
    "a recording twice": refused_folder(
        'data/wav.scp:2: utt-id "rec1" again (first on line 1)',
        wav_scp=b"rec1 a.wav\nrec1 b.wav\n",
        segments=b"s1 rec1 0 1\n",
    ),
    "a comment in segments": refused_folder(
        "data/segments:1: begins with #, but Kaldi's lists have no comments", segments=b"# s1 rec1 0 1\n"
    ),
    "no end": refused_segment("s2 rec1 0"),
    "a column too many": refused_segment("s2 rec1 0 1 0 0"),
    "no numbers": refused_segment("s2 rec1 zero one"),
    "a comma": refused_segment("s2 rec1 0,5 1,5"),
    "not a number": refused_segment("s2 rec1 0 nan"),
    "no channel": refused_segment("s2 rec1 0 1 C"),
    "a channel of no file": refused_folder(
        "data/reco2file_and_channel:2: a line is: recording-id file A, or B, 1, 2 …",
        reco2file_and_channel=b"rec1 a A\nrec2 a left\n",
    ),
    "segments of paths": refused_folder(
        "data/wav.scp: one column, but segments need recording ids before the paths",
        wav_scp=b"a.wav\n",
        segments=b"s1 a 0 1\n",
    ),
}


@pytest.mark.parametrize("rule", list(REFUSALS))
def test_list_is_refused(rule: str, tmp_path: Path) -> None:
    """The exit code is 1, the message names the line, and nothing is run or written."""
    files, message, inputs, options = REFUSALS[rule]
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    done = run_e2v("predict", *inputs, "-m", "sample", "-o", "out", *options, cwd=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"e2v: {message}\n")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"u1 -\n", "<stdin>:1: - reads audio from standard input, which is already the list itself"),
        (b"u1 a.wav\nu2 touch x |\n", f"<stdin>:2: 'touch x |' {PIPE_REFUSED}"),
        (b"u1 a.wav\nu1 b.wav\n", '<stdin>:2: utt-id "u1" again (first on line 1)'),
    ],
)
def test_list_on_standard_input_is_refused(stdin: bytes, message: str, tmp_path: Path) -> None:
    done = run_e2v("predict", "-", "-m", "sample", cwd=tmp_path, stdin=stdin)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"e2v: {message}\n")
    assert not (tmp_path / "x").exists()


# -- lists -------------------------------------------------------------------------------------------------------------

FILES = {"a.wav": 1.0, "b c.wav": 1.25, "Ünï.flac": 1.5, "beside/d.wav": 1.75, "both.wav": 2.0, "beside/both.wav": 2.25}
"""Files by their durations in seconds. The lists of LISTS are in ``beside``, and e2v runs in its parent folder."""


class List(NamedTuple):
    """A list, and the file of each id."""

    content: bytes
    files: Mapping[str, str]
    kaldiio: bool = True
    """Whether kaldiio reads it in the same way."""


LISTS = {
    "blanks in paths": List(b"l1-a a.wav\nl1-b   b c.wav\n", {"l1-a": "a.wav", "l1-b": "b c.wav"}),
    "tabs": List(b"l2-a\ta.wav\nl2-b\t \tb c.wav\n", {"l2-a": "a.wav", "l2-b": "b c.wav"}),
    "blanks before and behind": List(b"  l3-a a.wav \t \n", {"l3-a": "a.wav"}, kaldiio=False),
    "Windows": List(b"\xef\xbb\xbfl4-a a.wav\r\nl4-b b c.wav\r\n", {"l4-a": "a.wav", "l4-b": "b c.wav"}, kaldiio=False),
    "blank lines": List(b"\n\nl5-a a.wav\n \t\nl5-b b c.wav\n\n", {"l5-a": "a.wav", "l5-b": "b c.wav"}, kaldiio=False),
    "no line feed at the end": List(b"l6-b b c.wav\nl6-a a.wav", {"l6-b": "b c.wav", "l6-a": "a.wav"}),
    "letters of all kinds": List("l7-Ä Ünï.flac\nl7-音 Ünï.flac\n".encode(), {"l7-Ä": "Ünï.flac", "l7-音": "Ünï.flac"}),
    "relative to the list": List(b"l8-d d.wav\n", {"l8-d": "beside/d.wav"}, kaldiio=False),
    "relative to the current folder first": List(b"l9-both both.wav\n", {"l9-both": "both.wav"}),
    "paths alone": List(
        "Ünï.flac\n\nd.wav\r\n./both.wav".encode(),
        {"Ünï": "Ünï.flac", "d": "beside/d.wav", "both": "both.wav"},
        kaldiio=False,
    ),
}


class Ran(NamedTuple):
    """A run and its folder."""

    done: subprocess.CompletedProcess[str]
    folder: Path


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All lists in one run."""
    folder = tmp_path_factory.mktemp("lists")
    (folder / "beside").mkdir()
    for seed, (name, seconds) in enumerate(FILES.items()):
        write_audio(folder / name, make_speech(seconds, seed=seed))
    for number, case in enumerate(LISTS.values()):
        (folder / "beside" / f"{number}.scp").write_bytes(case.content)
    names = [f"beside/{number}.scp" for number in range(len(LISTS))]
    return Ran(run_e2v("predict", *names, "-m", "sample", "-j", "1", "-q", cwd=folder), folder)


@pytest.mark.parametrize("rule", list(LISTS))
def test_lists_are_read_as_kaldi_reads_them(rule: str, lists: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    case = LISTS[rule]
    expected = [(key, FILES[name]) for key, name in case.files.items()]

    rows = read_rows(lists.done.stdout)

    assert [(key, seconds) for key, seconds in durations_of(rows) if key in case.files] == expected
    if case.kaldiio:
        monkeypatch.chdir(lists.folder)
        path = f"beside/{list(LISTS).index(rule)}.scp"
        read = {key: len(samples) / rate for key, (rate, samples) in kaldiio.load_scp(path).items()}
        assert list(read.items()) == expected


def test_lists_keep_the_order_of_the_command_line(lists: Ran) -> None:
    assert (lists.done.returncode, lists.done.stderr) == (0, "")
    assert list(read_rows(lists.done.stdout)) == [key for case in LISTS.values() for key in case.files]


# -- values of lists ---------------------------------------------------------------------------------------------------

SPEECH = make_speech(3.0, seed=100)
OTHER = make_speech(2.0, seed=101)

VALUES = {
    "a path with blanks": "some where/a b.wav",
    "a command": "cat speech.wav |",
    "a command without a blank": "cat speech.wav|",
    "a command of several": "cat speech.flac | cat - |",
    "a command that complains": "cat speech.wav; echo oh dear >&2 |",
    "a command that leaves something behind": "(sleep 60; echo) & cat speech.wav |",
    "wav in an archive": "{wav}",
    "wav in an archive of Kaldi": "{kaldi}",
    "flac in an archive": "{flac}",
    "a vector": "{vector}",
    "a vector on the scale of 16 bits": "{scaled}",
    "a vector of doubles": "{double}",
    "a matrix of one row": "{row}",
    "a matrix of one column": "{column}",
    "a URL": "{site}/speech.wav",
    "a URL with blanks": "{site}/some%20where/a%20b.wav",
}
"""All of them hold SPEECH."""

BAD_VALUES = {
    "a command that fails in the end": (
        "cat speech.wav; echo no disk >&2; exit 3 |",
        ("pipe failed", "exit code 3: no disk"),
    ),
    "a command that is killed": ("cat speech.wav; kill -9 $$ |", ("pipe failed", "killed by SIGKILL")),
    "a command that is none": ("no-such-command |", ("pipe failed", r"exit code 127: .*no-such-command: not found")),
    "a command that says nothing": ("true |", ("empty", "0 bytes of output")),
    "a command that does not end": ("cat speech.wav; sleep 60 |", ("pipe timed out", "no end after 5 s")),
    "a command that ends early": (
        "head -c 1000 speech.flac |",
        ("truncated", "the frame of sample 4096 is missing: copy the file again"),
    ),
    "a path that is not there": ("nowhere.wav", ("missing", "no such file")),
    "an archive that is not there": ("nowhere.ark:17", ("missing", "no such file")),
    "an offset behind the end": ("wav.ark:99999999", ("truncated", r"the archive has \d+ bytes")),
    "an offset beside a record": ("wav.ark:1", ("not audio", "no WAV or FLAC file, .*")),
    "features": ("{features}", ("not audio", "a matrix of 50 x 40 is not audio")),
    "a part of a record": (
        "{vector}[0:100]",
        ("unreadable", r"\[0:100\]: a part of an archive's record can't be read"),
    ),
    "a URL that is not there": ("{site}/nowhere.wav", ("missing", "HTTP 404 File not found")),
    "a URL of nobody": ("http://127.0.0.1:9/a.wav", ("download failed", "Connection refused")),
}


class QuietHandler(SimpleHTTPRequestHandler):
    """A handler that logs no requests."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with SPEECH in all forms, and the sources of its archive records and the URL of its server."""
    folder = tmp_path_factory.mktemp("values")
    (folder / "some where").mkdir()
    for name in ("speech.wav", "speech.flac", "some where/a b.wav"):
        write_audio(folder / name, SPEECH)
    write_audio(folder / "other.wav", OTHER)
    floats = as_float(SPEECH)
    sources = {
        "wav": save_second(folder / "wav.ark", (RATE, SPEECH)),
        "flac": save_second(
            folder / "flac.ark", (RATE, SPEECH), write_function="soundfile", write_kwargs={"format": "flac"}
        ),
        "vector": save_second(folder / "vector.ark", floats),
        "scaled": save_second(folder / "scaled.ark", SPEECH.astype(np.float32)),
        "double": save_second(folder / "double.ark", floats.astype(np.float64)),
        "row": save_second(folder / "row.ark", floats[None]),
        "column": save_second(folder / "column.ark", floats[:, None]),
        "features": save_second(folder / "features.ark", np.ones((50, 40), np.float32)),
    }
    with kaldi_native_io.WaveWriter(f"ark,scp:{folder}/kaldi.ark,{folder}/kaldi.scp") as writer:
        for key, samples in (("other", OTHER), ("speech", SPEECH)):
            data = samples.astype(np.float32)[None]
            writer.write(key, kaldi_native_io.WaveData(RATE, kaldi_native_io.FloatMatrix(data)))
    sources["kaldi"] = read_pairs(folder / "kaldi.scp")["speech"]
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield folder, {**sources, "site": f"http://127.0.0.1:{server.server_port}"}
        server.shutdown()
        thread.join()


def save_second(path: Path, record: Any, **options: Any) -> str:
    """Write an archive of two records, and return the source of the second."""
    first = (RATE, OTHER) if isinstance(record, tuple) else np.ones(7, np.float32)
    kaldiio.save_ark(str(path), {"first": first, "second": record}, scp=f"{path}.scp", **options)
    return read_pairs(Path(f"{path}.scp"))["second"]


@pytest.fixture(scope="module")
def speech_row(files: tuple[Path, dict[str, str]]) -> list[str]:
    """The row of SPEECH in a plain file."""
    return predict_rows(files[0] / "speech.wav")["speech"]


def key_of(rule: str) -> str:
    return rule.replace(" ", "-")


@pytest.fixture(scope="module")
def values(files: tuple[Path, dict[str, str]]) -> Ran:
    """A run of all list values, good and bad."""
    folder, sources = files
    named = {**VALUES, **{rule: value for rule, (value, _) in BAD_VALUES.items()}}
    # `$$` of the shell is not a format field
    lines = [f"{key_of(rule)} {value.format(**sources)}\n" for rule, value in named.items()]
    (folder / "all.scp").write_text("".join(lines))
    options = ("--allow-pipes", "--pipe-timeout", "5", "--embeddings", "ark")
    command = ("predict", "all.scp", *ALONE, "-o", "out", *options)
    return Ran(run_e2v(*command, cwd=folder, environment={"no_proxy": "127.0.0.1"}), folder)


def test_run_reports_the_number_of_failures(values: Ran) -> None:
    assert values.done.returncode == 3
    last = values.done.stderr.splitlines()[-1]
    assert last == (
        f"e2v: {len(BAD_VALUES)} failed, more than --max-failures 0 allows: see out/failures.tsv; "
        "--retry-failed tries again"
    )
    run = json.loads((values.folder / "out" / "run.json").read_text())
    total = len(VALUES) + len(BAD_VALUES)
    assert run["counts"] == {"input": total, "done": len(VALUES), "failed": len(BAD_VALUES)}
    assert list(read_rows((values.folder / "out" / "predictions.tsv").read_text())) == list(map(key_of, VALUES))
    assert list(read_rows((values.folder / "out" / "failures.tsv").read_text())) == list(map(key_of, BAD_VALUES))


@pytest.mark.parametrize("rule", list(VALUES))
def test_list_value_gives_the_row_of_a_plain_file(rule: str, values: Ran, speech_row: list[str]) -> None:
    """The source of the samples does not change the row."""
    row = read_rows((values.folder / "out" / "predictions.tsv").read_text())[key_of(rule)]

    assert row == speech_row
    assert row[2:4] == ["3.0000", "1"]


@pytest.mark.parametrize("rule", list(BAD_VALUES))
def test_bad_list_value_is_a_row_of_failures(rule: str, values: Ran, files: tuple[Path, dict[str, str]]) -> None:
    value, (reason, detail) = BAD_VALUES[rule]
    row = read_rows((values.folder / "out" / "failures.tsv").read_text())[key_of(rule)]

    assert row[:2] == ["audio", reason]
    source = value.format(**files[1])
    assert row[2].startswith(f"{source}: ")
    assert re.fullmatch(detail, row[2].removeprefix(f"{source}: "))


def test_kaldiio_reads_the_same_samples_from_archives(files: tuple[Path, dict[str, str]]) -> None:
    _, sources = files
    for name, expected in (("wav", SPEECH), ("kaldi", SPEECH), ("flac", as_float(SPEECH))):
        rate, samples = kaldiio.load_mat(sources[name])
        assert rate == RATE
        assert np.array_equal(samples.reshape(-1), expected)
    assert np.array_equal(kaldiio.load_mat(sources["vector"]), as_float(SPEECH))


def test_kaldi_reads_the_same_samples_from_commands(files: tuple[Path, dict[str, str]]) -> None:
    folder, _ = files
    (folder / "kaldi-pipe.scp").write_text(f"u1 cat {folder}/speech.wav |\n")
    with kaldi_native_io.SequentialWaveReader(f"scp:{folder}/kaldi-pipe.scp") as reader:
        for key, wave in reader:  # a value is valid until the next one
            assert (key, wave.sample_freq) == ("u1", RATE)
            assert np.array_equal(wave.data.numpy()[0], SPEECH)
        assert reader.done


def test_url_as_input(files: tuple[Path, dict[str, str]], speech_row: list[str]) -> None:
    _, sources = files
    here, there = sources["site"] + "/speech.wav?token=1", sources["site"] + "/gone.wav"
    done = run_e2v("predict", here, there, *ALONE, environment={"no_proxy": "127.0.0.1"})

    assert done.returncode == 3
    assert read_rows(done.stdout) == {"speech": speech_row}
    assert f"e2v: gone: audio: missing: {there}: HTTP 404 File not found\n" in done.stderr


def test_audio_on_standard_input(files: tuple[Path, dict[str, str]], speech_row: list[str]) -> None:
    folder, _ = files
    (folder / "stdin.scp").write_text("u1 other.wav\nu2 -\nu3 other.wav\n")
    for name in ("speech.wav", "speech.flac"):
        content = (folder / name).read_bytes()
        rows = predict_rows(folder / "stdin.scp", stdin=content)
        assert list(rows) == ["u1", "u2", "u3"]
        assert rows["u2"] == speech_row


def test_empty_standard_input_is_a_row_of_failures(files: tuple[Path, dict[str, str]]) -> None:
    folder, _ = files
    (folder / "stdin1.scp").write_text("u1 -\n")
    done = run_e2v("predict", folder / "stdin1.scp", "-m", "sample", "-j", "1", "-o", folder / "stdin-out")

    assert done.returncode == 3
    (row,) = read_rows((folder / "stdin-out" / "failures.tsv").read_text()).values()
    assert row[:2] == ["audio", "empty"]
    assert row[2].endswith("/standard input: 0 bytes")


def test_command_runs_once_for_all_its_segments(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", SPEECH)
    command = f"echo run >> {tmp_path}/count; cat {tmp_path}/a.wav |"
    segments = [f"s{number} rec {number * 0.1:.1f} {number * 0.1 + 0.5:.1f}" for number in range(20)]
    folder = write_folder(tmp_path / "data", {"rec": command}, segments=segments)

    assert len(predict_rows(folder, "--allow-pipes", "-j", "2")) == 20
    assert (tmp_path / "count").read_text() == "run\n"


# -- segments ----------------------------------------------------------------------------------------------------------

RATES = {"rec8": 8000, "rec16": 16000, "rec22": 22050, "rec44": 44100, "rec48": 48000}
RECORDINGS = {
    key: make_speech(12.0, rate, num_channels=2 if key == "rec48" else 1, seed=rate) for key, rate in RATES.items()
}

SEGMENTS = {
    "the first second": "rec16 0 1",
    "the middle": "rec16 2.25 6.5",
    "to the end": "rec16 9.5 -1",
    "to the end in other words": "rec16 9.5 -1.0",
    "all": "rec16 0 -1",
    "up to the end": "rec16 7.00 12.00",
    "a little over the end": "rec16 10 12.01",
    "a sample less than half a second over the end": "rec16 10 12.49994",
    "digits without end": "rec16 0.3333333333333333 1.6666666666666665",
    "numbers as C writes them": "rec16 +5e-1 .15E+1",
    "half a sample": "rec16 0.00003125 1.00009375",
    "8 kHz": "rec8 1.00013 3.50019",
    "8 kHz to the end": "rec8 8.12 -1",
    "8 kHz over the end": "rec8 11 12.4998",
    "44.1 kHz": "rec44 2.3456 5.6789",
    "44.1 kHz to the end": "rec44 11.00001 -1",
    "44.1 kHz over the end": "rec44 11 12.499",
    "overlaps 1": "rec8 3 7",
    "overlaps 2": "rec8 4 6",
    "overlaps 3": "rec8 4 6",
    # times that are a little less than a sample's in binary, or between two samples
    "two decimals at 8 kHz": "rec8 2.01 4.06",
    "three decimals at 8 kHz": "rec8 1.001 2.323",
    "four decimals at 8 kHz": "rec8 1.0007 2.3331",
    "two decimals at 16 kHz": "rec16 2.03 4.02",
    "three decimals at 16 kHz": "rec16 1.001 2.323",
    "four decimals at 16 kHz": "rec16 1.0006 2.3333",
    "two decimals at 22.05 kHz": "rec22 1.13 2.29",
    "three decimals at 22.05 kHz": "rec22 1.011 2.314",
    "four decimals at 22.05 kHz": "rec22 1.0007 2.3331",
    "two decimals at 44.1 kHz": "rec44 1.13 2.26",
    "three decimals at 44.1 kHz": "rec44 1.007 2.319",
    "four decimals at 44.1 kHz": "rec44 1.0007 2.3331",
    "two decimals at 48 kHz": "rec48 1.13 2.26 1",
    "three decimals at 48 kHz": "rec48 1.001 2.323 1",
    "four decimals at 48 kHz": "rec48 1.0007 2.3331 1",
}
"""The lines are shuffled."""

BAD_SEGMENTS = {
    "more than half a second over": ("rec16 10 12.51", "audio", "beyond the end", "{rec16}: it ends at 12.51 s, {end}"),
    "half a second over": ("rec16 10 12.5", "audio", "beyond the end", "{rec16}: it ends at 12.5 s, {end}"),
    "begins at the end": ("rec16 12 12.3", "audio", "beyond the end", "{rec16}: it begins at 12 s, {end}"),
    "begins behind the end": ("rec16 99 -1", "audio", "beyond the end", "{rec16}: it begins at 99 s, {end}"),
    "no length": ("rec16 2 2.0", "corpus", "bad segment", "{line}: from 2 to 2.0 s: not 0 <= start < end <= 1e9"),
    "backwards": ("rec16 3 2", "corpus", "bad segment", "{line}: from 3 to 2 s: not 0 <= start < end <= 1e9"),
    "before the start": ("rec16 -1 2", "corpus", "bad segment", "{line}: from -1 to 2 s: not 0 <= start < end <= 1e9"),
    "end below 0": ("rec16 0 -2", "corpus", "bad segment", "{line}: from 0 to -2 s: not 0 <= start < end <= 1e9"),
    "less than a sample": ("rec16 1 1.00001", "audio", "zero length", "{rec16}: holds no samples"),
    "too short": (
        "rec16 1 1.02",
        "audio",
        "too short",
        "{rec16}: 320 samples at 16 kHz; the model needs 400 (25 ms)",
    ),
    "nobody": ("rec17 0 1", "corpus", "no recording", '{line}: recording "rec17" is not in {folder}/wav.scp'),
    "a third of two": ("rec48 0 1 2", "audio", "no such channel", "{rec48}: channel 3 of a file with 2 channels{hint}"),
    "a second of one": ("rec16 0 1 1", "audio", "no such channel", "{rec16}: channel 2 of a file with 1 channel{hint}"),
    "of a file that is not there": ("gone 0 1", "audio", "missing", "nowhere.wav: no such file"),
    "also of it": ("gone 1 0", "corpus", "bad segment", "{line}: from 1 to 0 s: not 0 <= start < end <= 1e9"),
}  # fmt: skip

CHANNEL_SEGMENTS = {
    "the first channel": ("1 2.5 0", 0),
    "the second channel": ("1 2.5 1", 1),
    "A": ("1 2.5 A", 0),
    "B": ("1 2.5 B", 1),
    "both": ("1 2.5", None),
}


class SegmentsRun(NamedTuple):
    """A run of all segments, and a reference run of files with their samples."""

    done: subprocess.CompletedProcess[str]
    folder: Path
    out: Path
    references: Path
    lines: list[str]


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> SegmentsRun:
    folder = tmp_path_factory.mktemp("segments")
    paths = {
        key: write_audio(folder / f"{key}.{'flac' if key == 'rec44' else 'wav'}", samples, RATES[key])
        for key, samples in RECORDINGS.items()
    }
    lines = [f"{key_of(rule)} {text}" for rule, text in SEGMENTS.items()]
    lines += [f"{key_of(rule)} {text}" for rule, (text, *_) in BAD_SEGMENTS.items()]
    lines += [f"{key_of(rule)} rec48 {text}" for rule, (text, _) in CHANNEL_SEGMENTS.items()]
    random.Random(0).shuffle(lines)
    write_folder(folder / "data", {**paths, "gone": "nowhere.wav"}, segments=lines)
    (folder / "single").mkdir()
    entries = []
    for line in lines:
        key = line.split()[0]
        if (samples := samples_of(key)) is not None:
            path = folder / "single" / f"{key}.wav"
            write_audio(path, *samples)
            entries.append(f"{key} {path}\n")
    (folder / "single.scp").write_text("".join(entries))
    done = run_e2v("predict", folder / "data", *ALONE, "-o", folder / "out")
    assert run_e2v("predict", folder / "single.scp", *ALONE, "-o", folder / "ref").returncode == 0
    return SegmentsRun(done, folder, folder / "out", folder / "ref", lines)


def samples_of(key: str) -> tuple[np.ndarray, int] | None:
    """Return the expected samples and rate of a segment; None if it should fail."""
    for rule, text in SEGMENTS.items():
        if key == key_of(rule):
            recording, start, end, *channels = text.split()
            samples, rate = RECORDINGS[recording], RATES[recording]
            bounds = kaldi_bounds(start, end, rate, len(samples))
            assert bounds is not None
            part = samples[slice(*bounds)]
            return (part[:, int(channels[0])] if channels else part), rate
    for rule, (_, channel) in CHANNEL_SEGMENTS.items():
        if key == key_of(rule):
            part = RECORDINGS["rec48"][48000:120_000]
            return (mix(part) if channel is None else part[:, channel]), 48000
    return None


def mix(samples: np.ndarray) -> np.ndarray:
    """Average channels of 16 bits, and return floats."""
    mean: np.ndarray = as_float(samples).mean(axis=1, dtype=np.float32)
    return mean


@pytest.mark.parametrize("rule", [*SEGMENTS, *CHANNEL_SEGMENTS])
def test_segment_gives_the_row_of_a_file_of_its_samples(rule: str, segments: SegmentsRun) -> None:
    key = key_of(rule)
    found = samples_of(key)
    assert found is not None
    row = read_rows((segments.out / "predictions.tsv").read_text())[key]

    assert row == read_rows((segments.references / "predictions.tsv").read_text())[key]
    assert row[2] == f"{len(found[0]) / found[1]:.4f}"
    assert read_pairs(segments.out / "utt2dur")[key] == row[2]


@pytest.mark.parametrize("rule", list(BAD_SEGMENTS))
def test_bad_segment_is_a_row_of_failures(rule: str, segments: SegmentsRun) -> None:
    _, stage, reason, detail = BAD_SEGMENTS[rule]
    folder = segments.folder / "data"
    number = next(number for number, line in enumerate(segments.lines, 1) if line.split()[0] == key_of(rule))
    paths = {key: str(segments.folder / f"{key}.wav") for key in ("rec16", "rec48")}
    end, hint = "the recording ends at 12 s", "; files of segments count channels from 0, RTTM from 1"
    expected = detail.format(line=f"{folder}/segments:{number}", folder=folder, end=end, hint=hint, **paths)
    row = read_rows((segments.out / "failures.tsv").read_text())[key_of(rule)]

    assert row == [stage, reason, expected]


def test_segments_are_in_file_order(segments: SegmentsRun) -> None:
    assert segments.done.returncode == 3
    keys = [line.split()[0] for line in segments.lines]
    failed = [key for key in keys if samples_of(key) is None]
    assert len(failed) == len(BAD_SEGMENTS)
    assert list(read_rows((segments.out / "predictions.tsv").read_text())) == [key for key in keys if key not in failed]
    assert list(read_rows((segments.out / "failures.tsv").read_text())) == failed
    counts = json.loads((segments.out / "run.json").read_text())["counts"]
    assert counts == {"input": len(keys), "done": len(keys) - len(failed), "failed": len(failed)}
    summary = f"e2v: {len(keys)} utterances: {len(keys) - len(failed)} done, {len(failed)} failed\n"
    assert summary in segments.done.stderr
    assert "died" not in segments.done.stderr


def test_segments_on_standard_output_are_in_file_order(segments: SegmentsRun) -> None:
    done = run_e2v("predict", segments.folder / "data", *ALONE, "-j", "2", "-q")

    assert done.returncode == 3
    assert done.stdout == (segments.out / "predictions.tsv").read_text()


def test_kaldiio_cuts_the_same_segments(tmp_path: Path) -> None:
    """Also those that end behind their recording, if Kaldi cuts them there."""
    lines = [f"{key_of(rule)} {' '.join(text.split()[:3])}" for rule, text in SEGMENTS.items()]
    paths = {key: write_audio(tmp_path / f"{key}.wav", samples, RATES[key]) for key, samples in RECORDINGS.items()}
    folder = write_folder(tmp_path, paths, segments=lines)
    found = kaldiio.load_scp(str(folder / "wav.scp"), segments=str(folder / "segments"))

    assert list(found) == list(map(key_of, SEGMENTS))
    for key, (rate, samples) in found.items():
        expected = samples_of(key)
        assert expected is not None
        assert rate == expected[1]
        assert np.array_equal(samples[:, 1] if samples.ndim > 1 else samples, expected[0])


@pytest.mark.parametrize("times", ["1e999 -1", "1 1e999", "1e12 2e12"])
def test_segments_with_huge_times_fail_alone(times: str, segments: SegmentsRun, tmp_path: Path) -> None:
    """No worker dies."""
    folder = write_folder(
        tmp_path / "data", {"rec": segments.folder / "rec16.wav"}, segments=["s1 rec 0 1", f"s2 rec {times}"]
    )
    done = run_e2v("predict", folder, *ALONE)

    assert done.returncode == 3
    assert list(read_rows(done.stdout)) == ["s1"]
    assert re.search(r"^e2v: s2: (audio: beyond the end|corpus: bad segment): ", done.stderr, re.MULTILINE)
    assert "died" not in done.stderr


def test_segments_with_byte_order_mark_crlf_and_blank_lines(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", SPEECH)
    for number, text in enumerate(
        [b"\xef\xbb\xbfs1 rec 0 1\r\n\r\ns2\trec\t1  3\r\n", b"\xef\xbb\xbf\n\ns1 rec 0 1 \n \ns2 rec 1 3"]
    ):
        folder = write_folder(tmp_path / str(number), {"rec": "../a.wav"})
        (folder / "segments").write_bytes(text)
        write_audio(tmp_path / "a.wav", SPEECH)
        (folder / "wav.scp").write_bytes(f"\ufeff\r\nrec {tmp_path}/a.wav\r\n".encode())
        assert durations_of(predict_rows(folder)) == [("s1", 1.0), ("s2", 2.0)]


def test_recordings_are_found_beside_their_list(tmp_path: Path) -> None:
    """Two folders have recordings with the same file name."""
    left = write_folder(tmp_path / "left", {"rec1": "a.wav"}, segments=["s1 rec1 0 -1"])
    right = write_folder(tmp_path / "right", {"rec2": "a.wav"}, segments=["s2 rec2 0 -1"])
    write_audio(left / "a.wav", SPEECH)
    write_audio(right / "a.wav", np.stack([OTHER, OTHER], axis=1))

    assert durations_of(predict_rows(left, right)) == [("s1", 3.0), ("s2", 2.0)]
    split = [("s1", 3.0), ("s2-1", 2.0), ("s2-2", 2.0)]
    assert durations_of(predict_rows(left, right, "--channel", "split")) == split


# -- channels ----------------------------------------------------------------------------------------------------------

STEREO = make_speech(3.0, num_channels=2, seed=7)
SOUNDS: dict[str, np.ndarray] = {"left": STEREO[:, 0], "right": STEREO[:, 1], "both": mix(STEREO), "mono": SPEECH}
PIECE = (0.5, 2.25)

CHANNELS: dict[str, dict[str, str]] = {
    "": {"st": "both", "mo": "mono", "st-seg": "both", "mo-seg": "mono", "st-B": "right"},
    "mix": {"st": "both", "mo": "mono", "st-seg": "both", "mo-seg": "mono", "st-B": "right"},
    "1": {"st": "left", "mo": "mono", "st-seg": "left", "mo-seg": "mono", "st-B": "right"},
    "A": {"st": "left", "mo": "mono", "st-seg": "left", "mo-seg": "mono", "st-B": "right"},
    "2": {"st": "right", "mo": "", "st-seg": "right", "mo-seg": "", "st-B": "right"},
    "B": {"st": "right", "mo": "", "st-seg": "right", "mo-seg": "", "st-B": "right"},
    "split": {
        "st-1": "left",
        "st-2": "right",
        "mo": "mono",
        "st-seg-1": "left",
        "st-seg-2": "right",
        "mo-seg": "mono",
        "st-B": "right",
    },
}
"""The expected sound of each utterance by ``--channel``; empty if the channel does not exist."""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("channels")
    write_audio(folder / "st.wav", STEREO)
    write_audio(folder / "mo.wav", SPEECH)
    lines = []
    for name, samples in SOUNDS.items():
        write_audio(folder / f"{name}.wav", samples)
        write_audio(folder / f"{name}-seg.wav", samples[int(PIECE[0] * RATE) : int(PIECE[1] * RATE)])
        lines += [f"{name} {folder}/{name}.wav\n", f"{name}-seg {folder}/{name}-seg.wav\n"]
    (folder / "sounds.scp").write_text("".join(lines))
    (folder / "whole.scp").write_text("st st.wav\nmo mo.wav\n")
    write_folder(
        folder / "data",
        {"st": folder / "st.wav", "mo": folder / "mo.wav"},
        segments=[f"st-seg st {PIECE[0]} {PIECE[1]}", f"mo-seg mo {PIECE[0]} {PIECE[1]}", "st-B st 0.5 2.25 1"],
    )
    return Ran(run_e2v("predict", folder / "sounds.scp", *ALONE), folder)


@pytest.mark.parametrize("channel", list(CHANNELS))
def test_channel_option_selects_channels(channel: str, sounds: Ran) -> None:
    references = read_rows(sounds.done.stdout)
    expected = CHANNELS[channel]
    options = ("--channel", channel) if channel else ()

    folder = sounds.folder
    done = run_e2v("predict", folder / "whole.scp", folder / "data", *ALONE, *options)

    rows = read_rows(done.stdout)
    assert list(rows) == [key for key, sound in expected.items() if sound]
    for key, row in rows.items():
        sound = expected[key] + ("-seg" if "seg" in key or key == "st-B" else "")
        assert row == references[sound], key
    failed = [key for key, sound in expected.items() if not sound]
    assert done.returncode == (3 if failed else 0)
    for key in failed:
        path = "mo.wav" if key == "mo" else folder / "mo.wav"
        said = f"e2v: {key}: audio: no such channel: {path}: channel 2 of a file with 1 channel\n"
        assert said in done.stderr


@pytest.mark.parametrize("channel", ["0", "C1", "left", "", "-1"])
def test_invalid_channels_are_refused(channel: str) -> None:
    done = run_e2v("predict", "sample_data", "-m", "sample", "--channel", channel)
    assert done.returncode == 2
    message = f"{channel!r} is not mix, split, A, B, or a number counted from 1 (see: e2v predict --help)"
    assert message in " ".join(done.stderr.replace("│", "").split())


@pytest.mark.parametrize(("option", "names"), [("mix", ("A", "B")), ("1", ("1", "2")), ("split", ("A", "B"))])
def test_reco2file_and_channel_selects_channels(
    option: str, names: tuple[str, str], sounds: Ran, tmp_path: Path
) -> None:
    """The channel of a recording is ignored if its file has only one."""
    folder = write_folder(
        tmp_path / "data",
        {
            "call-A": sounds.folder / "st.wav",
            "call-B": sounds.folder / "st.wav",
            "cut-B": sounds.folder / "mo.wav",
            "free": sounds.folder / "mo.wav",
        },
        reco2file_and_channel=[f"call-A call {names[0]}", f"call-B call {names[1]}", f"cut-B cut {names[1]}"],
    )
    expected = {"call-A": "left", "call-B": "right", "cut-B": "mono", "free": "mono"}
    references = read_rows(sounds.done.stdout)

    assert predict_rows(folder, "--channel", option) == {key: references[name] for key, name in expected.items()}

    noted = run_e2v("predict", folder, "-m", "sample", "--channel", option).stderr
    note = "e2v: --channel is not for channels that lists name: call-A is channel 1\n"
    assert noted.startswith(note) == (option != "mix")

    segments = [f"{key}-x {key} {PIECE[0]} {PIECE[1]}" for key in expected]
    write_folder(folder, read_pairs(folder / "wav.scp"), segments=segments)
    cuts = {f"{key}-x": references[f"{name}-seg"] for key, name in expected.items()}
    assert predict_rows(folder, "--channel", option) == cuts


def test_duplicate_id_of_a_split_channel_is_refused(sounds: Ran, tmp_path: Path) -> None:
    scp = tmp_path / "wav.scp"
    scp.write_text(f"call {sounds.folder}/st.wav\ncall-2 {sounds.folder}/mo.wav\n")
    done = run_e2v("predict", scp, "-m", "sample", "--channel", "split")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f'e2v: {scp}:2: utt-id "call-2" again (first at {scp}:1)\n'


# -- the same bytes with jobs, shards, kills and more segments ---------------------------------------------------------

RUN = (
    *("-m", "sample", "--embeddings", "ark", "--timeline", "0.5", "--timeline", "60"),
    *("--timeline-format", "rttm,audacity,textgrid"),
)
MORE = ("timeline-0.5.tsv", "timeline-60.tsv", "timeline-0.5.rttm", "frame_shift")


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of shuffled segments of long and short recordings, at several rates, some of them bad."""
    folder = tmp_path_factory.mktemp("calls")
    recordings, lines = {}, []
    generator = random.Random(1)
    for number, (seconds, rate, suffix) in enumerate(
        [(200, 16000, "wav"), (70, 8000, "flac"), (30, 44100, "flac"), (9, 16000, "ogg"), (8, 16000, "wav")]
    ):
        path = folder / f"call{number}.{suffix}"
        samples = make_speech(seconds, rate, seed=number)
        if suffix == "ogg":
            soundfile.write(path, samples, rate, format="OGG", subtype="VORBIS")
        else:
            write_audio(path, samples, rate)
        recordings[f"call{number}"] = path
        for part in range(seconds):
            start = generator.uniform(0, seconds - 1.2)
            end = min(seconds, start + generator.choice([0.01, 0.5, 1, 1, 2, 3.3]))
            lines.append(f"call{number}-{part:03d} call{number} {start:.3f} {end:.3f}")
    lines.append("long call0 3.1 99.9")  # longer than a window
    lines.append("late call0 199 250")
    generator.shuffle(lines)
    speakers = [f"{line.split()[0]} {generator.choice(['anna', 'bob'])}" for line in lines]
    return write_folder(folder / "data", recordings, segments=lines, utt2spk=speakers)


@pytest.fixture(scope="module")
def reference_run(calls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with one job."""
    out = tmp_path_factory.mktemp("once") / "out"
    done = run_e2v("predict", calls, *RUN, "-o", out, "-j", "1")
    assert done.returncode == 3, done.stderr
    return out


def assert_same(out: Path, reference_run: Path) -> None:
    assert read_tables(out, *MORE) == read_tables(reference_run, *MORE)
    assert read_by_recording(out) == read_by_recording(reference_run)
    ours, theirs = read_embeddings(out), read_embeddings(reference_run)
    assert list(ours) == list(theirs)
    assert [key for key in theirs if ours[key] != theirs[key]] == []


def read_by_recording(out: Path) -> dict[str, bytes]:
    """Read the files of timelines that each recording has."""
    paths = [path for folder in ("audacity", "textgrid") for path in out.glob(f"{folder}-*/*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def test_timelines_of_shuffled_segments_are_by_recording(reference_run: Path) -> None:
    assert read_by_recording(reference_run).keys() == {
        f"{folder}-{seconds}/call{number}.{suffix}"
        for folder, suffix in (("audacity", "txt"), ("textgrid", "TextGrid"))
        for seconds in ("0.5", "60")
        for number in range(5)
    }


def test_segments_with_several_jobs(calls: Path, reference_run: Path, tmp_path: Path) -> None:
    done = run_e2v("predict", calls, *RUN, "-o", tmp_path / "out", "-j", "2")
    assert done.returncode == 3
    assert_same(tmp_path / "out", reference_run)


def test_segments_in_shards(calls: Path, reference_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for index, jobs in ((2, "1"), (3, "2"), (1, "1")):
        done = run_e2v("predict", calls, *RUN, "-o", out, "--shard", f"{index}/3", "-j", jobs)
        assert done.returncode == 3
    assert_same(out, reference_run)
    encoded = read_encoded(out)
    assert len(encoded) == len(set(encoded))
    (out / "predictions.tsv").unlink()
    assert run_e2v("merge", out, "--max-failures", "100%").returncode == 0
    assert_same(out, reference_run)


@pytest.mark.kill
@pytest.mark.parametrize("shards", [1, 2])
def test_killed_runs_of_segments_end_with_the_same_bytes(
    shards: int, calls: Path, reference_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    hold = Hold(tmp_path / "hold", "call4.")  # keeps a run from ending before it is killed
    for index in range(1, shards + 1):
        command = ("predict", calls, *RUN, "-o", out, "-j", "2", "--shard", f"{index}/{shards}")
        for _ in range(3):
            process = fork_e2v(*command, **hold.environment)
            before = count_finished(out)
            wait_until(lambda before=before: count_finished(out) > before + 20)  # type: ignore[misc]
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        assert not (out / "predictions.tsv").exists()
        assert run_e2v(*command).returncode == 3
    assert_same(out, reference_run)


def count_finished(out: Path) -> int:
    journals = b"".join(path.read_bytes() for path in out.glob("journal.*"))
    return journals.count(b"\tdone\t") + journals.count(b"\tfailed\t")


def test_only_new_segments_are_computed(calls: Path, reference_run: Path, tmp_path: Path) -> None:
    lines = (calls / "segments").read_text().splitlines()
    recordings = read_pairs(calls / "wav.scp")
    folder = write_folder(tmp_path / "data", recordings, segments=lines[::2])
    out = tmp_path / "out"
    assert run_e2v("predict", folder, *RUN, "-o", out, "-j", "2").returncode == 3
    first = read_rows((out / "predictions.tsv").read_text())
    encoded = read_encoded(out)
    write_folder(folder, recordings, segments=lines)

    done = run_e2v("predict", folder, *RUN, "-o", out, "-j", "2")

    assert done.returncode == 3
    rows, expected = (read_rows((path / "predictions.tsv").read_text()) for path in (out, reference_run))
    assert list(rows) == list(expected)
    assert {key: rows[key] for key in first} == first
    for key, row in expected.items():
        assert (rows[key][0], rows[key][2:4]) == (row[0], row[2:4])
        assert list(map(float, rows[key][4:])) == pytest.approx(list(map(float, row[4:])), abs=1e-5)
    assert sorted(encoded) == sorted(first)
    assert sorted(read_encoded(out)) == sorted(expected)
    name = "timeline-0.5.tsv"
    starts = [line.split("\t")[:2] for line in (out / name).read_text().splitlines()[1:]]
    assert starts == [line.split("\t")[:2] for line in (reference_run / name).read_text().splitlines()[1:]]


def test_shuffled_segments_are_decoded_once(tmp_path: Path) -> None:
    """Their order in the file is not their order in the recording."""
    samples = make_speech(60.0)
    write_audio(tmp_path / "a.wav", np.tile(samples, 20))
    lines = [f"s{number:03d} rec {number * 12} {number * 12 + 3}" for number in range(100)]
    random.Random(0).shuffle(lines)
    folder = write_folder(tmp_path / "data", {"rec": tmp_path / "a.wav"}, segments=lines)

    environment = {"COUNT": str(tmp_path / "count"), **hook(tmp_path / "hook", COUNT_FRAMES)}
    rows = predict_rows(folder, "-j", "2", environment=environment)

    assert list(rows) == [line.split()[0] for line in lines]
    assert count_frames(tmp_path / "count") <= 1.1 * 20 * len(samples)


RUN_PL = """
import re, subprocess, sys
job, log, *command = sys.argv[1:]
name, first, last = re.fullmatch(r"(\\w+)=(\\d+):(\\d+)", job).groups()
started = []
for number in range(int(first), int(last) + 1):
    path, *words = (word.replace(name, str(number)) for word in (log, *command))
    with open(path, "w") as file:
        started.append(subprocess.Popen(words, stdout=file, stderr=file))
sys.exit(any([process.wait() for process in started]))
"""


def test_recipe_with_run_pl(calls: Path, reference_run: Path, tmp_path: Path) -> None:
    """``run.pl JOB=1:4 log/e2v.JOB.log e2v predict --shard JOB/4 …`` runs all shards at once, each with a log."""
    (tmp_path / "run.pl").write_text(RUN_PL)
    (tmp_path / "log").mkdir()
    e2v = shared_server().write_command(tmp_path / "bin" / "e2v")
    recipe = ("JOB=1:4", "log/e2v.JOB.log", e2v, "predict", calls, "--shard", "JOB/4", *RUN, "-j", "1", "-o", "out")

    done = subprocess.run(
        [sys.executable, "run.pl", *map(str, recipe), "--max-failures", "100%"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=120,
    )

    logs = [(tmp_path / "log" / f"e2v.{number}.log").read_text() for number in range(1, 5)]
    assert done.returncode == 0, logs
    assert all(re.search(r"e2v: \d+ utterances: \d+ done, \d+ failed\n", log) for log in logs)
    merged = run_e2v("merge", "out", "--max-failures", "100%", cwd=tmp_path)
    assert merged.returncode == 0, merged.stderr
    assert_same(tmp_path / "out", reference_run)


# -- reading OUT with Kaldi and other tools ----------------------------------------------------------------------------

FORMATS = ("rttm", "audacity", "textgrid")


class Outs(NamedTuple):
    """Runs of the same utterances with different options."""

    matrices: Path
    text: Path
    compressed: Path


@pytest.fixture(scope="module")
def outs(segments: SegmentsRun, tmp_path_factory: pytest.TempPathFactory) -> Outs:
    folder = tmp_path_factory.mktemp("outs")
    options = {
        "matrices": ("--granularity", "frame", "--embeddings", "ark", "--timeline", "0.4", *all_formats()),
        "text": ("--embeddings", "ark,t", "--timeline", "0.4", "--join"),
        "compressed": ("--granularity", "frame", "--embeddings", "ark", "--compress"),
    }
    for name, chosen in options.items():
        done = run_e2v(
            "predict", segments.folder / "single.scp", "-m", "sample", "-j", "2", "-o", folder / name, *chosen
        )
        assert done.returncode == 0, done.stderr
    return Outs(*(folder / name for name in options))


def all_formats() -> list[str]:
    return [word for name in FORMATS for word in ("--timeline-format", name)]


def read_matrices(out: Path) -> dict[str, np.ndarray]:
    with kaldi_native_io.SequentialFloatMatrixReader(f"scp:{out}/embeddings.scp") as reader:
        return {key: np.array(matrix) for key, matrix in reader}


def test_frame_embeddings_are_valid_kaldi_feats(outs: Outs, tmp_path: Path) -> None:
    """``embeddings.scp`` is a ``feats.scp``, beside ``utt2num_frames``, ``frame_shift`` and ``utt2emo``."""
    out = outs.matrices
    (tmp_path / "feats.scp").write_bytes((out / "embeddings.scp").read_bytes())
    with kaldi_native_io.SequentialFloatMatrixReader(f"scp:{tmp_path}/feats.scp") as reader:
        found = {key: np.array(matrix) for key, matrix in reader}
    rows = read_rows((out / "predictions.tsv").read_text())

    assert list(found) == list(rows)
    assert (out / "frame_shift").read_text() == "0.02\n"
    num_frames, durations = read_pairs(out / "utt2num_frames"), read_pairs(out / "utt2dur")
    assert {key: str(len(matrix)) for key, matrix in found.items()} == num_frames
    assert durations == {key: row[2] for key, row in rows.items()}
    for key, count in num_frames.items():
        assert 0 <= float(durations[key]) - int(count) * 0.02 < 0.03
    assert read_pairs(out / "utt2emo") == {key: row[0] for key, row in rows.items()}
    for key, matrix in kaldiio.load_scp(str(tmp_path / "feats.scp")).items():
        assert np.array_equal(matrix, found[key])


def test_text_archives_hold_the_same_numbers(outs: Outs) -> None:
    """The bits are the same for kaldiio and for Kaldi."""
    means = {key: matrix.mean(axis=0) for key, matrix in read_matrices(outs.matrices).items()}
    by_kaldiio = dict(kaldiio.load_scp(str(outs.text / "embeddings.scp")))
    with kaldi_native_io.SequentialFloatVectorReader(f"scp:{outs.text}/embeddings.scp") as reader:
        by_kaldi = {key: np.array(vector) for key, vector in reader}

    assert list(by_kaldiio) == list(by_kaldi) == list(means)
    for key, mean in means.items():
        assert by_kaldiio[key].astype(np.float32).tobytes() == by_kaldi[key].tobytes()
        assert np.allclose(by_kaldi[key], mean, atol=1e-5)
    for archive in outs.text.glob("embeddings.*.ark"):
        assert archive.read_text().isprintable() or "[" in archive.read_text()
        with kaldi_native_io.SequentialFloatVectorReader(f"ark,t:{archive}") as reader:
            for key, vector in reader:
                assert np.array_equal(np.array(vector), by_kaldi[key])


def test_compressed_matrices_are_small_and_close(outs: Outs) -> None:
    """Compression gives a quarter of the size, and kaldiio and Kaldi read nearly the original values."""
    whole, by_kaldi = read_matrices(outs.matrices), read_matrices(outs.compressed)
    by_kaldiio = dict(kaldiio.load_scp(str(outs.compressed / "embeddings.scp")))

    assert list(by_kaldiio) == list(by_kaldi) == list(whole)
    for key, matrix in whole.items():
        assert by_kaldi[key].shape == by_kaldiio[key].shape == matrix.shape
        step = np.ptp(matrix) / 64
        assert np.allclose(by_kaldi[key], matrix, atol=step)
        assert np.allclose(by_kaldiio[key], by_kaldi[key], atol=1e-4)
    sizes = [
        sum(path.stat().st_size for path in out.glob("embeddings.*.ark")) for out in (outs.matrices, outs.compressed)
    ]
    assert sizes[1] < 0.35 * sizes[0]
    tables = read_tables(outs.matrices)
    assert read_tables(outs.compressed) == tables


class Span(NamedTuple):
    """A row of ``timeline.tsv``."""

    start: Decimal
    end: Decimal
    label: str
    score: float
    probabilities: tuple[float, ...]


def read_timeline(out: Path) -> dict[str, list[Span]]:
    header, *lines = (out / "timeline.tsv").read_text().splitlines()
    assert header.startswith(TIMELINE_HEADER)
    spans: dict[str, list[Span]] = {}
    for line in lines:
        key, start, end, label, score, *probabilities, recording, in_recording, _ = line.split("\t")
        assert (recording, in_recording) == (key, start)
        span = Span(Decimal(start), Decimal(end), label, float(score), tuple(map(float, probabilities)))
        spans.setdefault(key, []).append(span)
    return spans


def test_timeline_spans_are_contiguous(outs: Outs) -> None:
    """Spans begin at multiples of the span length, have no gaps, and end with the utterance."""
    labels = json.loads((outs.matrices / "run.json").read_text())["model"]["labels"]
    timeline = read_timeline(outs.matrices)
    rows = read_rows((outs.matrices / "predictions.tsv").read_text())

    assert list(timeline) == list(rows)
    for key, spans in timeline.items():
        assert [span.start for span in spans] == [Decimal("0.4") * number for number in range(len(spans))]
        assert all(before.end == after.start for before, after in pairwise(spans))
        assert spans[-1].end == Decimal(rows[key][2])
        assert spans[-1].end - spans[-1].start < Decimal("0.5")
        for span in spans:
            assert sum(span.probabilities) == pytest.approx(1, abs=1e-5)
            assert (span.label, span.score) == (labels[int(np.argmax(span.probabilities))], max(span.probabilities))


def test_joined_timeline_covers_the_same_spans(outs: Outs) -> None:
    """Neighbours with the same label are one span with their weighted mean probabilities."""
    single, joined = read_timeline(outs.matrices), read_timeline(outs.text)

    assert list(joined) == list(single)
    assert sum(map(len, joined.values())) < sum(map(len, single.values()))
    for key, spans in joined.items():
        assert all(before.label != after.label for before, after in pairwise(spans))
        assert all(before.end == after.start for before, after in pairwise(spans))
        assert (spans[0].start, spans[-1].end) == (single[key][0].start, single[key][-1].end)
        for span in spans:
            parts = [part for part in single[key] if span.start <= part.start < span.end]
            assert {part.label for part in parts} == {span.label}
            weights = [float(part.end - part.start) for part in parts]
            means = np.average([part.probabilities for part in parts], axis=0, weights=weights)
            assert span.probabilities == pytest.approx(means, abs=2e-6)


def test_rttm_matches_the_timeline(outs: Outs) -> None:
    """Each span has a line with its start and length."""
    spans = {
        (key, span.start, span.end, span.label): span.score
        for key, part in read_timeline(outs.matrices).items()
        for span in part
    }
    rttm = {}
    for line in (outs.matrices / "timeline.rttm").read_text().splitlines():
        kind, key, channel, start, length, _, _, label, score, last = line.split(" ")
        assert (kind, channel, last) == ("SPEAKER", "1", "<NA>")
        rttm[key, Decimal(start), Decimal(start) + Decimal(length), label] = float(score)
    assert list(rttm.items()) == list(spans.items())


def test_text_grids_and_audacity_files_match_the_timeline(outs: Outs) -> None:
    """Each utterance has a file for Praat and a file for Audacity."""
    timeline = read_timeline(outs.matrices)
    for folder, suffix in (("textgrid", ".TextGrid"), ("audacity", ".txt")):
        assert sorted(path.name for path in (outs.matrices / folder).iterdir()) == sorted(
            f"{key}{suffix}" for key in timeline
        )
    for key, spans in timeline.items():
        expected = [(float(span.start), float(span.end), span.label) for span in spans]
        grid = textgrid.openTextgrid(str(outs.matrices / f"textgrid/{key}.TextGrid"), includeEmptyIntervals=True)
        tier = grid.getTier(grid.tierNames[0])
        assert [tuple(interval) for interval in tier.entries] == expected
        labels = (outs.matrices / f"audacity/{key}.txt").read_text().splitlines()
        cells = [line.split("\t") for line in labels]
        assert [(float(start), float(end), label) for start, end, label in cells] == expected


def digests(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("log/worker.*.log")}


def test_another_timeline_format_computes_nothing(segments: SegmentsRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("predict", segments.folder / "single.scp", "-m", "sample", "-j", "1", "-o", out, "--timeline", "0.4")
    assert run_e2v(*command).returncode == 0
    predictions, timeline = ((out / name).read_bytes() for name in ("predictions.tsv", "timeline.tsv"))
    logs = digests(out)

    assert run_e2v(*command, "--timeline-format", "rttm").returncode == 0
    assert (out / "timeline.rttm").exists()
    assert (out / "timeline.tsv").read_bytes() == timeline

    assert run_e2v(*command, "--timeline-format", "textgrid", "--join").returncode == 0
    assert len(list(out.glob("textgrid/*.TextGrid"))) == len(read_timeline(out))
    assert len((out / "timeline.tsv").read_bytes()) < len(timeline)

    assert run_e2v(*command).returncode == 0
    assert (out / "timeline.tsv").read_bytes() == timeline
    assert (out / "predictions.tsv").read_bytes() == predictions
    assert digests(out) == logs


def test_all_timeline_files_agree_with_the_table(segments: SegmentsRun, tmp_path: Path) -> None:
    """Files of an earlier run in other formats are removed, or agree with the table."""
    out = tmp_path / "out"
    command = ("predict", segments.folder / "single.scp", "-m", "sample", "-j", "1", "-o", out, "--timeline", "0.4")
    assert run_e2v(*command, "--timeline-format", "rttm").returncode == 0
    assert run_e2v(*command, "--join").returncode == 0

    rows = (out / "timeline.tsv").read_text().count("\n") - 1
    assert not (out / "timeline.rttm").exists() or (out / "timeline.rttm").read_text().count("\n") == rows


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--timeline", "0.4", "--window", "30"), "window was 60.0, is 30.0"),
        (("--timeline", "0.4", "--channel", "1"), "channel was mix, is 1"),
        (("--timeline", "0.4", "--channel", "split"), "channel was mix, is split"),
    ],
)
def test_other_options_are_refused_as_another_run(
    options: tuple[str, ...], difference: str, outs: Outs, segments: SegmentsRun
) -> None:
    before = read_tables(outs.matrices, "timeline.tsv")
    chosen = ("--granularity", "frame", "--embeddings", "ark", *options)
    done = run_e2v("predict", segments.folder / "single.scp", "-m", "sample", "-o", outs.matrices, *chosen)

    assert done.returncode == 4
    assert done.stderr == (
        f"e2v: {outs.matrices} holds a different run: {difference}. "
        "Choose another -o, or delete that run with --overwrite\n"
    )
    assert read_tables(outs.matrices, "timeline.tsv") == before
