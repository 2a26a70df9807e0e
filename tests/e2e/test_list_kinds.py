"""Lists of all kinds, under all names, from files and pipes: the same results, resumed like any other list."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.audio_files import encode, noisy_tone
from support.kaldi_folders import read_rows, write_folder
from support.processes import ROOT, E2v

pytestmark = pytest.mark.e2e

RUN = ("-m", "sample", "-j", "1", "-q")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder ``x`` with two files, one of them of a second, the other of three."""
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "a.wav").write_bytes(encode(noisy_tone(16_000)))
    (folder / "b.wav").write_bytes(encode(noisy_tone(48_000)))
    return tmp_path


LISTS = {
    "list.txt": "u1 x/a.wav\nu2 x/b.wav\n",
    "LIST.SCP": "u1\tx/a.wav\r\nu2\tx/b.wav",
    "funasr.jsonl": '{"key": "u1", "source": "x/a.wav"}\n{"key": "u2", "source": "x/b.wav"}\n',
    "emobox.jsonl": '{"key": "u1", "wav": "x/a.wav", "emo": "sad"}\n{"key": "u2", "wav": "x/b.wav", "emo": "sad"}\n',
    "table.csv": "utt_id,path\nu1,x/a.wav\nu2,x/b.wav\n",
}


def test_list_has_the_same_results_in_all_forms(clips: Path, e2v: E2v) -> None:
    (clips / "wav.scp").write_text(LISTS["list.txt"])
    expected = e2v("predict", "wav.scp", *RUN, cwd=clips)
    assert (expected.returncode, list(read_rows(expected.stdout))) == (0, ["u1", "u2"])

    for name, content in LISTS.items():
        (clips / name).write_text(content)
        (clips / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        for item in (name, f"{name}.gz", f"scp:{name}"):
            done = e2v("predict", item, *RUN, cwd=clips)
            assert (done.returncode, done.stdout, done.stderr) == (0, expected.stdout, "")
        assert e2v("predict", "-", *RUN, cwd=clips, stdin=content).stdout == expected.stdout


def test_list_is_read_from_a_process_of_the_shell(clips: Path) -> None:
    """Also audio on standard input, named by such a list."""
    (clips / "list.gz").write_bytes(gzip.compress(LISTS["list.txt"].encode()))
    (clips / "out.sh").write_text(
        f'e2v() {{ "{sys.executable}" -m e2v_cli predict "$@" -m sample -q -j 1 | cut -f 1,4; }}\n'
        "e2v <(grep u2 list.txt) <(cat list.gz | gunzip | grep u1) <(echo u3 -) < x/b.wav\n"
    )
    (clips / "list.txt").write_text(LISTS["list.txt"])

    done = subprocess.run(
        ["bash", "out.sh"],
        cwd=clips,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("utt_id\tduration\nu2\t3.0000\nu1\t1.0000\nu3\t3.0000\n", "")


def test_nemo_offsets_are_cut_like_segments_of_kaldi(clips: Path, e2v: E2v) -> None:
    times = [(0.7, 0.1), (0.25, 2.5), (2.9, None), (1, 1.0000001)]
    records = [{"audio_filepath": "x/b.wav", "offset": start, "duration": seconds} for start, seconds in times]
    (clips / "m.json").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    segments = "s0 r 0.7 0.8\ns1 r 0.25 2.75\ns2 r 2.9 -1\ns3 r 1 2.0000001\n"
    data = write_folder(clips / "data", {"r": clips / "x" / "b.wav"}, segments=segments)

    manifest, kaldi = e2v("predict", "m.json", *RUN, cwd=clips), e2v("predict", data, *RUN, cwd=clips)

    assert (manifest.returncode, manifest.stderr) == (0, "")
    rows = read_rows(manifest.stdout)
    assert list(rows) == ["b-0000700-0000800", "b-0000250-0002750", "b-0002900-end", "b-0001000-0002000"]
    assert list(rows.values()) == list(read_rows(kaldi.stdout).values())


def test_bad_segment_of_a_manifest_fails_alone(clips: Path, e2v: E2v) -> None:
    records = [{"key": f"u{number}", "wav": "x/a.wav", "offset": number, "duration": 0.5} for number in (0, -1, 5)]
    (clips / "m.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))

    done = e2v("predict", "m.jsonl", *RUN, "-o", "out", cwd=clips)

    assert done.returncode == 3
    failures = read_rows((clips / "out" / "failures.tsv").read_text())
    assert failures["u-1"][:2] == ["corpus", "bad segment"]
    assert failures["u-1"][2] == "m.jsonl:2: from -1 to -0.5 s: not 0 <= start < end <= 1e9"
    assert failures["u5"][:2] == ["audio", "beyond the end"]


@pytest.mark.parametrize("form", ["FunASR", "NeMo", "table"])
def test_same_list_resumes_and_changed_audio_is_noticed(form: str, clips: Path, e2v: E2v) -> None:
    (clips / "x" / "c.wav").write_bytes(encode(noisy_tone(20_000)))
    path, out = clips / "list", clips / "out"

    def write(*names: str) -> None:
        lines = {
            "FunASR": [json.dumps({"key": f"u{number}", "source": f"x/{name}"}) for number, name in enumerate(names)],
            "NeMo": [
                json.dumps({"id": f"u{number}", "audio_filepath": f"x/{name}", "offset": 0.1, "duration": 0.5})
                for number, name in enumerate(names)
            ],
            "table": ["id,file", *(f"u{number},x/{name}" for number, name in enumerate(names))],
        }[form]
        path.write_text("\n".join(lines))

    write("a.wav", "b.wav")
    assert e2v("predict", path, *RUN, "-o", out, cwd=clips).returncode == 0
    path.write_bytes(gzip.compress(path.read_bytes()))
    again = e2v("predict", path, *RUN[:-1], "-o", out, cwd=clips)
    assert (again.returncode, again.stderr.splitlines()[0]) == (0, f"e2v: {out} is complete: nothing to do")

    write("a.wav", "c.wav")
    changed = e2v("predict", path, *RUN, "-o", out, cwd=clips)
    assert changed.returncode == 4
    assert "the list names other audio now for 1 of the 2 utterances that are done: u1." in changed.stderr


def test_files_that_a_folder_leaves_out_are_noted_unless_quiet(clips: Path, e2v: E2v) -> None:
    for name in ("notes.txt", "labels.TXT", "x/a.json"):
        (clips / name).touch()
    (clips / ".Trash").mkdir()
    (clips / ".Trash" / "c.wav").write_bytes(encode(noisy_tone(16_000)))
    note = "e2v: .: left out 3 files that are not audio: 2 .txt, 1 .json; 1 hidden folder, which --hidden searches\n"

    done, quiet = e2v("predict", ".", *RUN[:-1], cwd=clips), e2v("predict", ".", *RUN, cwd=clips)
    assert done.stderr.startswith(f"{note}e2v: 2 utterances: 2 done")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")
    planned = e2v("plan", ".", "-m", "sample", cwd=clips)
    assert (planned.stderr, planned.stdout.splitlines()[0].split()) == (note, ["utterances", "2"])

    searched = e2v("predict", ".", *RUN, "--hidden", cwd=clips)
    assert (list(read_rows(searched.stdout)), searched.stderr) == ([".Trash/c", "x/a", "x/b"], "")
    planned = e2v("plan", ".", "-m", "sample", "--hidden", cwd=clips)
    assert planned.stdout.splitlines()[0].split() == ["utterances", "3"]
    assert planned.stdout.endswith("e2v predict . -o OUT -m sample --hidden\n")


def test_neither_audio_nor_list_is_a_usage_error(clips: Path, e2v: E2v) -> None:
    (clips / "README").write_text("Clips of two speakers.\n")

    done = e2v("predict", "x/a.wav", "README", *RUN, cwd=clips)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "e2v: README: neither audio nor a list: its first line is 'Clips of two speakers.'; a list has lines like "
    )


def test_segments_alone_are_no_list(clips: Path, e2v: E2v) -> None:
    (clips / "segments").write_text("u1 call 0 1.5\n")

    done = e2v("predict", "segments", *RUN, cwd=clips)

    problem = "neither audio nor a list: its first line is 'u1 call 0 1.5'; name its folder, in which wav.scp is"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"e2v: segments: {problem}\n"


def test_list_without_room_for_its_copy_names_the_folder(clips: Path) -> None:
    """A file may have a limit of a megabyte, as if that were the room on the disk."""
    (clips / "list.gz").write_bytes(gzip.compress(b"u1 x/a.wav\n" * 1_000_000))
    command = f'ulimit -f 1024; trap "" XFSZ; exec "{sys.executable}" -m e2v_cli plan list.gz'

    done = subprocess.run(
        ["bash", "-c", command],
        cwd=clips,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(clips)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == f"e2v: {clips}: File too large; lists are copied there to be read again: set TMPDIR\n"


def test_pipe_is_refused_for_jobs_and_read_here(clips: Path, e2v: E2v) -> None:
    os.mkfifo(clips / "fifo")
    (clips / "list.txt").write_text(LISTS["list.txt"])

    for item in ("fifo", "scp:fifo", "/dev/fd/63", "/dev/stdin", "scp:-"):
        refused = e2v("submit", item, "-o", "out", "-m", "sample", "--jobs", "2", "--dry-run", cwd=clips)
        message = f"e2v: {item}: a job can't read from this process; save the list in a file\n"
        assert (refused.returncode, refused.stderr) == (2, message)
    with ThreadPoolExecutor(1) as pool:
        pool.submit((clips / "fifo").write_text, LISTS["list.txt"])
        done = e2v("predict", "fifo", *RUN, cwd=clips)
    assert list(read_rows(done.stdout)) == ["u1", "u2"]
