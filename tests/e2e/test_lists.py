"""Lists that another system wrote, links that lead nowhere, and ids made of file names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import kaldi_native_io
import kaldiio
import pytest
from support.audio_files import encode, noisy_tone
from support.kaldi_folders import read_rows, write_folder
from support.processes import E2v

pytestmark = pytest.mark.e2e

RUN = ("-m", "sample", "-j", "1", "-q")

STEREO = encode(noisy_tone(16_000, 2))
"""The channels have different pitches."""

LISTS = ("wav.scp", "segments", "reco2file_and_channel", "utt2dur", "utt2spk")

CONTENT = {
    "segments": "u1 r1 0 -1\nu2 r2 0 -1\n",
    "reco2file_and_channel": "r1 call B\nr2 call B\n",
    "utt2dur": "u1 1.0\nu2 1.0\n",
    "utt2spk": "u1 s1\nu2 s2\n",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with all lists, of two recordings that are the second channel of a file."""
    (tmp_path / "a.wav").write_bytes(STEREO)
    path = tmp_path / "a.wav"
    return write_folder(tmp_path / "data", {"r1": path, "r2": path}, **CONTENT)


@pytest.mark.parametrize("name", LISTS)
def test_list_from_windows_is_read_the_same(name: str, data: Path, e2v: E2v) -> None:
    """With a byte order mark, CRLF, and no line break at the end."""
    expected = [e2v(command, data, *options) for command, *options in (("predict", *RUN), ("plan",))]
    text = (data / name).read_text()

    (data / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").rstrip().encode())

    found = [e2v(command, data, *options) for command, *options in (("predict", *RUN), ("plan",))]
    for done, before in zip(found, expected, strict=True):
        assert (done.returncode, done.stdout, done.stderr) == (0, before.stdout, "")
    first, second = read_rows(found[0].stdout).values()
    assert first == second


def test_byte_order_mark_on_standard_input_is_skipped(data: Path, e2v: E2v) -> None:
    found = e2v("predict", "-", *RUN, stdin="\ufeffu1 a.wav\r\nu2 a.wav", cwd=data.parent)

    assert (found.returncode, list(read_rows(found.stdout))) == (0, ["u1", "u2"])


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a dangling link": (
        lambda path: path.symlink_to("../far/away"),
        "a link to {folder}/far/away, which does not exist; mend or remove the link",
    ),
    "a circular link": (
        lambda path: path.symlink_to(path),
        "Too many levels of symbolic links; a list must be a file that can be read",
    ),
    "a folder": (Path.mkdir, "Is a directory; a list must be a file that can be read"),
    "a secret": (
        lambda path: path.touch(mode=0),
        "Permission denied; a list must be a file that can be read",
    ),
}
"""What is made in place of a list, and its error."""


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_list_is_an_error_and_not_an_absence(kind: str, name: str, data: Path, e2v: E2v) -> None:
    if kind == "a secret" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    make, message = UNREADABLE[kind]
    (data / name).unlink()
    make(data / name)
    durations = ("--shard", "1/2") if name == "utt2dur" else ()  # which are read where shards are dealt
    command = ("plan", data) if name == "utt2spk" else ("predict", data, *RUN, "-o", data.parent / "out", *durations)

    done = e2v(*command)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"e2v: {data / name}: {message.format(folder=data.parent)}\n"


def test_dangling_link_to_a_list_is_named(data: Path, e2v: E2v) -> None:
    (data / "my.scp").symlink_to("gone.scp")

    done = e2v("predict", "my.scp", *RUN, cwd=data)

    message = f"a link to {data}/gone.scp, which does not exist; mend or remove the link"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"e2v: my.scp: {message}\n")


NAMES = {
    "a b": "a%20b",
    "a%20b": "a%2520b",
    "a%2520b": "a%252520b",
    "a\u00a0b": "a%C2%A0b",
    "a%C2%A0b": "a%25C2%25A0b",
    "a\u2028b": "a%E2%80%A8b",
    "100%": "100%25",
    "plain": "plain",
    "ünï": "ünï",
}
"""Stems of files, and the ids made of them."""

FILES_OF_IDS = ("utt2dur", "utt2num_frames", "utt2emo", "embeddings.scp", "timeline.rttm")


@pytest.mark.parametrize("kind", ["ark", "npy"])
def test_utterance_has_one_id_in_all_files(kind: str, tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "d").mkdir()
    for number, stem in enumerate(NAMES):
        (tmp_path / "d" / f"{stem}.wav").write_bytes(encode(noisy_tone(8_000 + 400 * number)))
    (tmp_path / "d" / "no audio.wav").write_bytes(b"")
    out = tmp_path / "out"
    options = ("--embeddings", kind, "--timeline", "10", "--timeline-format", "rttm", "--timeline-format", "textgrid")

    assert e2v("predict", *sorted((tmp_path / "d").iterdir()), *RUN, "-o", out, *options).returncode == 3

    ids = [NAMES[stem] for stem in sorted(NAMES)]
    assert list(read_rows((out / "predictions.tsv").read_text())) == ids
    assert list(read_rows((out / "failures.tsv").read_text())) == ["no%20audio"]
    assert list(read_rows((out / "timeline.tsv").read_text())) == ids
    assert sorted(unquote(path.stem) for path in (out / "textgrid").iterdir()) == sorted(ids)
    rows = {name: (out / name).read_text().splitlines() for name in FILES_OF_IDS if (out / name).exists()}
    column = {"timeline.rttm": 1}
    assert {name: [line.split()[column.get(name, 0)] for line in lines] for name, lines in rows.items()} == (
        dict.fromkeys([name for name in FILES_OF_IDS if kind == "ark" or name != "embeddings.scp"], ids)
    )
    if kind == "npy":
        pairs = [line.split("\t") for line in (out / "embeddings.tsv").read_text().splitlines()]
        assert [(key, unquote(Path(path).stem)) for key, path in pairs] == [(key, key) for key in ids]
        return
    assert list(kaldiio.load_scp(str(out / "embeddings.scp"))) == ids
    for specifier in (f"scp:{out}/embeddings.scp", f"ark:{out}/embeddings.1-of-1.1.ark"):
        with kaldi_native_io.SequentialFloatVectorReader(specifier) as reader:
            assert sorted(key for key, _ in reader) == sorted(ids)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with audio in another one."""
    for number, name in enumerate(("a.wav", "new/b.wav")):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noisy_tone(8_000 + 400 * number)))
    return tmp_path / "d"


def test_folder_that_grows_keeps_its_ids_and_results(folder: Path, e2v: E2v) -> None:
    formats = ("--embeddings", "npy", "--timeline", "10", "--timeline-format", "rttm,textgrid,audacity")
    options = ("-o", "out", *RUN, *formats)
    cwd = folder.parent
    assert e2v("predict", "d", *options, cwd=cwd).returncode == 0
    first = read_rows((cwd / "out/predictions.tsv").read_text())
    (folder / "new" / "a.wav").write_bytes(STEREO)

    done = e2v("predict", "d", *options, cwd=cwd)

    assert (done.returncode, done.stderr) == (0, "")
    second = read_rows((cwd / "out/predictions.tsv").read_text())
    assert list(second) == ["a", "new/a", "new/b"]
    assert {key: second[key] for key in first} == first
    journals = [path.read_text() for path in sorted((cwd / "out").glob("journal.*"))]
    assert [text.count("done\t") for text in journals] == [2, 1]
    for kind, suffix in (("embeddings", "npy"), ("textgrid", "TextGrid"), ("audacity", "txt")):
        names = sorted(path.name for path in (cwd / "out" / kind).iterdir())
        assert names == [f"a.{suffix}", f"new%2Fa.{suffix}", f"new%2Fb.{suffix}"]
    assert [line.split()[1] for line in (cwd / "out/timeline.rttm").read_text().splitlines()] == list(second)


def test_ids_that_collide_are_named_and_another_form_is_chosen(folder: Path, e2v: E2v) -> None:
    (folder / "a.flac").write_bytes(encode(noisy_tone(8_000), "FLAC"))
    cwd = folder.parent

    refused = e2v("predict", "d", *RUN, cwd=cwd)
    done = e2v("predict", "d", *RUN, "--id", "name", "-o", "out", cwd=cwd)
    other = e2v("predict", "d/new", *RUN, "-o", "out", cwd=cwd)

    message = 'e2v: d/a.flac and d/a.wav have the same id, "a"; --id name tells them apart\n'
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", message)
    assert (done.returncode, list(read_rows((cwd / "out/predictions.tsv").read_text()))) == (
        0,
        ["a.flac", "a.wav", "b.wav"],
    )
    assert (other.returncode, other.stderr) == (
        4,
        "e2v: out holds a different run: id was name, is default. Choose another -o, or delete that run with "
        "--overwrite\n",
    )
