"""A diarisation of recordings → utterances, and the lists and timelines of a run."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
from support.kaldi_folders import make_speech, write_audio
from support.processes import E2v

pytestmark = pytest.mark.e2e

RTTM = """SPEAKER call 1 0.500 1.250 <NA> <NA> SPEAKER_00 <NA> <NA>
SPEAKER call 1 2.000 0.900 <NA> <NA> SPEAKER_01 <NA> <NA>
SPEAKER call 1 1.500 0.700 <NA> <NA> SPEAKER_01 <NA> <NA>
SPEAKER other 1 0.000 1.000 <NA> <NA> SPEAKER_00 <NA> <NA>
"""

IDS = [
    *("call-SPEAKER_00-0000500-0001750", "call-SPEAKER_01-0002000-0002900", "call-SPEAKER_01-0001500-0002200"),
    "other-SPEAKER_00-0000000-0001000",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two recordings, and their diarisation beside it."""
    (tmp_path / "calls").mkdir()
    write_audio(tmp_path / "calls" / "call.wav", make_speech(3.0, seed=1))
    write_audio(tmp_path / "calls" / "other.wav", make_speech(1.0, seed=2))
    (tmp_path / "d.rttm").write_text(RTTM)
    return tmp_path


def read_ids(text: str) -> list[str]:
    return [row["utt_id"] for row in csv.DictReader(StringIO(text), delimiter="\t")]


def test_turns_have_the_results_of_the_same_segments(data: Path, e2v: E2v) -> None:
    (data / "kaldi").mkdir()
    (data / "kaldi" / "wav.scp").write_text("call calls/call.wav\nother calls/other.wav\n")
    done = e2v("predict", "calls", "-m", "sample", "-o", "out", "--segments-rttm", "d.rttm", cwd=data)
    assert (done.returncode, read_ids((data / "out/predictions.tsv").read_text())) == (0, IDS)

    (data / "kaldi" / "segments").write_bytes((data / "out" / "segments").read_bytes())
    again = e2v("predict", "kaldi", "-m", "sample", "-o", "again", cwd=data)

    assert again.returncode == 0
    for name in ("predictions.tsv", "utt2emo", "utt2dur"):
        assert (data / "again" / name).read_bytes() == (data / "out" / name).read_bytes()
    assert (data / "out" / "segments").read_text() == (
        f"{IDS[0]} call 0.5 1.75\n{IDS[1]} call 2 2.9\n{IDS[2]} call 1.5 2.2\n{IDS[3]} other 0 1\n"
    )
    assert (data / "out" / "utt2spk").read_text() == (
        f"{IDS[0]} call-SPEAKER_00\n{IDS[1]} call-SPEAKER_01\n{IDS[2]} call-SPEAKER_01\n{IDS[3]} other-SPEAKER_00\n"
    )
    assert json.loads((data / "out" / "run.json").read_text())["options"]["segments-rttm"] == "yes"


def test_speakers_are_tiers_of_the_recording(data: Path, e2v: E2v) -> None:
    formats = ("--timeline", "1", "--timeline-format", "textgrid,rttm")
    done = e2v("predict", "calls", "-m", "sample", "-o", "out", "--segments-rttm", "d.rttm", *formats, cwd=data)

    assert done.returncode == 0
    grid = (data / "out" / "textgrid" / "call.TextGrid").read_text()
    names = [line.split('"')[1] for line in grid.splitlines() if line.startswith("        name")]
    assert names == ["call-SPEAKER_00", "call-SPEAKER_01", "call-SPEAKER_01 (2)"]
    turns = [line.split()[:5] for line in (data / "out" / "timeline.rttm").read_text().splitlines()]
    assert turns[:2] == [["SPEAKER", "call", "1", "0.5000", "1.0000"], ["SPEAKER", "call", "1", "1.5000", "0.2500"]]


def test_plan_and_submission_take_the_same_utterances(data: Path, e2v: E2v) -> None:
    options = ("calls", "-m", "sample", "-o", "out", "--segments-rttm", "d.rttm")

    plan = e2v("plan", *options, cwd=data)
    submitted = e2v("submit", *options, "--jobs", "1", "--dry-run", cwd=data)

    assert (plan.returncode, submitted.returncode) == (0, 0)
    facts = plan.stdout.splitlines()
    assert facts[:3] == ["utterances    4", "recordings    2", "speakers      3"]
    assert facts[-1] == "e2v predict calls -o out -m sample --segments-rttm d.rttm"
    scripts = [path.read_text() for path in (data / "out" / "slurm").iterdir()]
    assert any("--segments-rttm d.rttm" in script for script in scripts)


def test_rows_go_to_standard_output(data: Path, e2v: E2v) -> None:
    done = e2v("predict", "calls/call.wav", "-m", "sample", "-q", "--segments-rttm", "d.rttm", cwd=data)

    assert done.returncode == 3
    assert read_ids(done.stdout) == IDS[:3]
    why = 'corpus: no recording: d.rttm:4: recording "other" is not in INPUT'
    assert done.stderr.splitlines()[0] == f"e2v: {IDS[3]}: {why}"


def test_resume_without_the_diarisation_is_refused(data: Path, e2v: E2v) -> None:
    command = ("predict", "calls", "-m", "sample", "-o", "out")
    assert e2v(*command, "--segments-rttm", "d.rttm", cwd=data).returncode == 0

    refused = e2v(*command, cwd=data)

    assert refused.returncode == 4
    assert refused.stderr == (
        "e2v: out holds a different run: segments-rttm was yes, is no. "
        "Choose another -o, or delete that run with --overwrite\n"
    )
    assert e2v(*command, "--overwrite", cwd=data).returncode == 0
    assert not (data / "out" / "utt2spk").exists()

    (data / "out" / "utt2spk").write_text("call anna\n")
    assert e2v(*command, "--overwrite", cwd=data).returncode == 0
    assert (data / "out" / "utt2spk").read_text() == "call anna\n"


def test_changed_turn_is_another_utterance(data: Path, e2v: E2v) -> None:
    """What was done is kept."""
    command = ("predict", "calls", "-m", "sample", "-o", "out", "--segments-rttm", "d.rttm")
    assert e2v(*command, cwd=data).returncode == 0
    (data / "d.rttm").write_text(RTTM.replace("0.900", "0.950"))

    assert e2v(*command, cwd=data).returncode == 0

    changed = [utt_id.replace("0002900", "0002950") for utt_id in IDS]
    assert read_ids((data / "out/predictions.tsv").read_text()) == changed
    assert [line.split()[0] for line in (data / "out/utt2spk").read_text().splitlines()] == changed


def test_job_has_no_pipe_to_read_the_diarisation_from(data: Path, e2v: E2v) -> None:
    done = e2v("submit", "calls", "-o", "out", "--jobs", "1", "--segments-rttm", "/dev/stdin", cwd=data)

    assert done.returncode == 2
    assert "/dev/stdin: a job can't read from this process; save the list in a file" in done.stderr
