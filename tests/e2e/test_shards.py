"""Sharded runs: dealt from the list alone, and merged to the bytes of a single run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import kaldiio
import pytest
from support.corpora import write_takes
from support.forkserver import ForkedCommand, fork_e2v
from support.processes import ROOT, E2v, on_opening, start_e2v, wait_until

pytestmark = pytest.mark.e2e

SAMPLE_SCP = ROOT / "sample_data" / "wav.scp"
LINES = SAMPLE_SCP.read_text().splitlines(keepends=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, e2v: E2v) -> Path:
    """A run of the sample corpus without shards, with one job."""
    out = tmp_path_factory.mktemp("whole")
    done = e2v("predict", SAMPLE_SCP, "-m", "sample", "-o", out, "--embeddings", "ark", "-j", "1")
    assert done.returncode == 0, done.stderr
    return out


def assert_same(out: Path, whole: Path) -> None:
    for name in ("predictions.tsv", "failures.tsv", "utt2dur", "utt2num_frames"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (dict(kaldiio.load_scp(str(folder / "embeddings.scp"))) for folder in (out, whole))
    assert list(ours) == list(theirs)
    assert all(ours[utt_id].tobytes() == theirs[utt_id].tobytes() for utt_id in theirs)


def predict(out: Path, *options: str, scp: Path = SAMPLE_SCP) -> tuple[str | Path, ...]:
    return ("predict", scp, "-m", "sample", "-o", out, "--embeddings", "ark", "-j", "1", *options)


def test_last_shard_merges(whole: Path, tmp_path: Path, e2v: E2v) -> None:
    for index, count in ((3, 13), (1, 14)):
        done = e2v(*predict(tmp_path, "--shard", f"{index}/3"))
        assert done.returncode == 0
        assert re.fullmatch(
            rf"e2v: shard {index}/3 is complete; {tmp_path} is merged when all are\n"
            rf"e2v: {count} utterances: {count} done, 0 failed\ne2v: .*\n",
            done.stderr,
        )
        assert not (tmp_path / "predictions.tsv").exists()
    refused = e2v("merge", tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"e2v: {tmp_path} is not complete: 13 of 40 utterances are left; "
        "run e2v predict again with --shard 2/3 (13 left)\n"
    )
    last = e2v(*predict(tmp_path, "--shard", "2/3"))
    assert last.returncode == 0
    assert last.stderr.startswith(f"e2v: all 3 shards are complete: {tmp_path} is merged\ne2v: 13 utterances: 13 done")
    assert_same(tmp_path, whole)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["counts"] == {"input": 40, "done": 40, "failed": 0}
    assert run["audio_seconds"] == json.loads((whole / "run.json").read_text())["audio_seconds"]

    again = e2v(*predict(tmp_path, "--shard", "2/3"))
    assert again.returncode == 0
    assert again.stderr.startswith(f"e2v: {tmp_path} is complete: nothing to do\n")
    merged = e2v("merge", tmp_path)
    assert (merged.returncode, merged.stdout) == (0, "")
    counts = "e2v: 40 utterances: 40 done, 0 failed\ne2v: 150.2 s of audio at "
    assert merged.stderr.startswith(f"e2v: {tmp_path} is complete: nothing to do\n{counts}")
    before = (tmp_path / "predictions.tsv").read_bytes()
    (tmp_path / "predictions.tsv").unlink()
    merged = e2v("merge", tmp_path)
    assert merged.returncode == 0
    assert merged.stderr.startswith(counts)
    assert (tmp_path / "predictions.tsv").read_bytes() == before


def test_concurrent_shards_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    commands = [predict(tmp_path, "--shard", f"{index}/4") for index in range(1, 5)]
    processes: list[subprocess.Popen[str] | ForkedCommand] = [start_e2v(*commands[0])]
    processes += [fork_e2v(*command) for command in commands[1:]]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert_same(tmp_path, whole)
    assert not list(tmp_path.glob(".*.part"))


def test_results_count_for_another_shard_count(whole: Path, tmp_path: Path, e2v: E2v) -> None:
    assert e2v(*predict(tmp_path, "--shard", "1/2")).returncode == 0
    assert e2v(*predict(tmp_path, "--shard", "3/5")).returncode == 0
    done = e2v(*predict(tmp_path))
    assert done.returncode == 0
    assert_same(tmp_path, whole)
    journals = b"".join(path.read_bytes() for path in tmp_path.glob("journal.*"))
    assert journals.count(b"\tdone\t") == 40


def test_more_shards_than_blocks(tmp_path: Path, e2v: E2v) -> None:
    scp, out, whole = tmp_path / "wav.scp", tmp_path / "out", tmp_path / "whole"
    scp.write_text("".join(LINES[:5]))
    for index in (4, 1, 7, 5, 3, 6, 2):
        assert not (out / "predictions.tsv").exists()
        assert e2v(*predict(out, "--shard", f"{index}/7", scp=scp)).returncode == 0
    assert e2v(*predict(whole, scp=scp)).returncode == 0
    assert_same(out, whole)


def test_shards_on_standard_output_add_up_to_the_whole(whole: Path, e2v: E2v) -> None:
    rows: list[str] = []
    for index, count in ((1, 20), (2, 20)):
        done = e2v("predict", SAMPLE_SCP, "-m", "sample", "--shard", f"{index}/2")
        assert done.returncode == 0
        header, *part = done.stdout.splitlines()
        assert len(part) == count
        rows += part
    table = (whole / "predictions.tsv").read_text().splitlines()
    assert sorted(rows) == sorted(table[1:])
    assert header == table[0]


def test_slurm_deals_no_shards_without_out(e2v: E2v) -> None:
    """Rows on standard output can't be merged: each task computes its whole input."""
    command = ("predict", *(line.split()[1] for line in LINES[:5]), "-m", "sample", "-q")
    variables = [element(2, 3), {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}]
    whole = e2v(*command)
    assert whole.stdout.count("\n") == 6
    for environment in ({}, *variables, {**element(3, 2), "SLURM_ARRAY_TASK_MAX": "7"}):
        done = e2v(*command, **environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, whole.stdout, "")
    part = e2v(*command, "--shard", "2/3", **variables[0])
    assert 1 < part.stdout.count("\n") < 6


def test_failures_of_a_shard_count_only_for_that_shard(tmp_path: Path, e2v: E2v) -> None:
    scp = tmp_path / "wav.scp"
    scp.write_text("".join([*LINES[:8], "gone nowhere.wav\n"]))  # blocks of one: the ninth is shard 1's
    out = tmp_path / "out"
    assert e2v(*predict(out, "--shard", "1/2", scp=scp)).returncode == 3
    assert e2v(*predict(out, "--shard", "2/2", scp=scp)).returncode == 0
    merged = e2v("merge", out)
    assert merged.returncode == 3
    assert merged.stderr.endswith(f"e2v: 1 failed, more than --max-failures 0 allows: see {out}/failures.tsv\n")
    assert e2v("merge", out, "--max-failures", "10%").returncode == 3
    assert e2v("merge", out, "--max-failures", "1").returncode == 0
    assert (out / "failures.tsv").read_text().splitlines()[1:] == ["gone\taudio\tmissing\tnowhere.wav: no such file"]
    shutil.copy(ROOT / LINES[0].split()[1], tmp_path / "there.wav")
    scp.write_text("".join([*LINES[:8], f"gone {tmp_path}/there.wav\n"]))
    assert e2v(*predict(out, "--shard", "2/2", "--retry-failed", scp=scp)).returncode == 0
    assert e2v(*predict(out, "--shard", "1/2", "--retry-failed", scp=scp)).returncode == 0
    assert (out / "predictions.tsv").read_text().count("\n") == 10
    assert (out / "failures.tsv").read_text().count("\n") == 1


@pytest.mark.parametrize(("first", "second"), [(["1/2", "2/2"], ["1/1"]), (["1/1"], ["1/2", "2/2"])])
def test_retry_with_another_shard_count_publishes_the_newer_reason(
    first: list[str], second: list[str], tmp_path: Path, e2v: E2v
) -> None:
    scp, out, audio = tmp_path / "wav.scp", tmp_path / "out", tmp_path / "late.wav"
    scp.write_text("".join([*LINES[:8], f"late {audio}\n"]))
    for shard in first:
        assert e2v(*predict(out, "--shard", shard, scp=scp)).returncode in (0, 3)
    assert (out / "failures.tsv").read_text().splitlines()[1:] == [f"late\taudio\tmissing\t{audio}: no such file"]
    audio.touch()

    for shard in second:
        assert e2v(*predict(out, "--shard", shard, "--retry-failed", scp=scp)).returncode in (0, 3)

    assert (out / "failures.tsv").read_text().splitlines()[1:] == [f"late\taudio\tempty\t{audio}: 0 bytes"]


def test_grown_list_computes_only_new_utterances(tmp_path: Path, e2v: E2v) -> None:
    """The list grows in the middle. Merging waits until all shards have seen the new list."""
    scp, out = tmp_path / "wav.scp", tmp_path / "out"
    scp.write_text("".join(LINES[::2]))
    assert e2v(*predict(out, "--shard", "1/2", scp=scp)).returncode == 0
    assert e2v(*predict(out, "--shard", "2/2", scp=scp)).returncode == 0
    first = (out / "predictions.tsv").read_text().splitlines()
    scp.write_text("".join(LINES))
    done = e2v(*predict(out, "--shard", "1/2", scp=scp))
    assert done.returncode == 0
    assert "e2v: 10 utterances: 10 done" in done.stderr
    refused = e2v("merge", out)
    assert refused.returncode == 1
    assert "10 of 40 utterances are left; run e2v predict again with --shard 2/2 (10 left)\n" in refused.stderr
    assert e2v(*predict(out, "--shard", "2/2", scp=scp)).returncode == 0
    table = (out / "predictions.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in table[1:]] == [line.split()[0] for line in LINES]
    assert table[1::2] == first[1:]
    journals = b"".join(path.read_bytes() for path in out.glob("journal.*"))
    assert journals.count(b"\tdone\t") == 40


def test_shortened_list_publishes_only_its_utterances(tmp_path: Path, e2v: E2v) -> None:
    scp, out = tmp_path / "wav.scp", tmp_path / "out"
    scp.write_text("".join(reversed(LINES)))
    assert e2v(*predict(out, scp=scp)).returncode == 0
    scp.write_text("".join(LINES[10:20]))
    assert e2v(*predict(out, scp=scp)).returncode == 0
    table = (out / "predictions.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in table[1:]] == [line.split()[0] for line in LINES[10:20]]
    assert len(list(out.glob("input.*"))) == 2  # ids, and checksums of sources


@pytest.mark.parametrize("value", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/5", ""])
def test_invalid_shards_are_refused(value: str, e2v: E2v) -> None:
    done = e2v("predict", SAMPLE_SCP, "-m", "sample", "--shard", value)
    assert done.returncode == 2
    assert (
        f"{value!r} is not a part and a number of parts like 2/3, counted from 1 (see: e2v predict --help)"
        in " ".join(done.stderr.split())
    )


def test_overwrite_of_a_shard_is_refused(tmp_path: Path, e2v: E2v) -> None:
    done = e2v(*predict(tmp_path, "--shard", "1/2", "--overwrite"))
    assert done.returncode == 2
    assert "--overwrite with --shard would delete the results of other shards: remove OUT first instead" in done.stderr


def test_another_run_is_refused_while_shards_work(tmp_path: Path, e2v: E2v) -> None:
    scp, out = write_takes(tmp_path / "wav.scp", 4), tmp_path / "out"
    slow = on_opening(tmp_path / "hook", "m2-0010", "time.sleep(600)")  # keeps the shard from ending
    shard = start_e2v(*predict(out, "--shard", "2/3", scp=scp), **slow)
    journal = out / "journal.2-of-3.1"
    wait_until(lambda: journal.exists() and journal.stat().st_size)
    for options in ([], ["--shard", "1/2"], ["--overwrite"]):
        refused = e2v(*predict(out, *options, scp=scp))
        assert refused.returncode == 4
        assert f"e2v: {out}: another e2v is running there (process {shard.pid} on " in refused.stderr
    other = e2v(*predict(out, "--shard", "1/3", "--granularity", "frame", scp=scp))
    assert other.returncode == 4
    assert f"e2v: {out} holds a different run: granularity was utterance, is frame. " in other.stderr
    shorter = tmp_path / "shorter.scp"
    shorter.write_text("".join(LINES))
    other_list = e2v(*predict(out, "--shard", "1/3", scp=shorter))
    assert other_list.returncode == 4
    assert f"e2v: {out}: another e2v is running there (process {shard.pid} on " in other_list.stderr
    status = e2v("status", out)
    lines = status.stdout.splitlines()
    assert status.returncode == 4
    assert lines[0] == f"{out}: in progress"
    assert re.fullmatch(rf"2/3 .* process {shard.pid} on \S+ since \S+(, last result \d+ s ago)?", lines[4])
    assert lines[6] == "not running: shards 1,3 of 3; run them again"
    shard.kill()
    shard.communicate()
    after = e2v("status", out)
    assert after.returncode == 75
    killed = rf" not running: process {shard.pid} on \S+ since \S+ was killed; run it again"
    assert re.search(killed, after.stdout)
    lock = out / ".lock.2-of-3"
    lock.write_text(lock.read_text().replace(str(shard.pid), str(os.getpid())))  # the number of a living process now
    again = e2v("status", out)
    assert (again.returncode, again.stdout) == (75, after.stdout.replace(str(shard.pid), str(os.getpid())))


def element(number: int, count: int) -> dict[str, str]:
    """Return the environment of an array task."""
    values = {"ID": number, "MIN": 1, "MAX": count, "COUNT": count, "STEP": 1}
    return {
        "SLURM_JOB_ID": str(100 + number),
        "SLURM_ARRAY_JOB_ID": "12",
        **{f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()},
    }


def test_array_task_computes_its_shard(whole: Path, tmp_path: Path, e2v: E2v) -> None:
    """The option ``--shard`` has precedence."""
    done = e2v(*predict(tmp_path), **element(2, 3))
    assert done.returncode == 0
    assert done.stderr.startswith(
        "e2v: shard 2/3, by its place among the tasks of Slurm\n"
        f"e2v: shard 2/3 is complete; {tmp_path} is merged when all are\n"
    )
    log = (tmp_path / "log" / "launcher.2-of-3.log").read_text()
    assert re.search(r" process \d+ on \S+ since \S+, start 1 of job 12_2: shard 2/3 on cpu; GPUs: all\n", log)
    quiet = e2v(*predict(tmp_path, "-q"), **element(3, 3))
    assert (quiet.returncode, quiet.stderr) == (0, "")
    done = e2v(*predict(tmp_path, "--shard", "1/3"), **element(2, 3))
    assert done.returncode == 0
    assert done.stderr.startswith(f"e2v: all 3 shards are complete: {tmp_path} is merged\n")
    assert_same(tmp_path, whole)


def test_partial_job_array_is_refused(tmp_path: Path, e2v: E2v) -> None:
    done = e2v(*predict(tmp_path / "out"), **{**element(3, 2), "SLURM_ARRAY_TASK_MAX": "7"})
    assert done.returncode == 2
    assert "the 2 elements of the array from 1 to 7 are not evenly spaced: choose the part with" in done.stderr
    assert not (tmp_path / "out").exists()


def test_shards_are_dealt_by_duration(whole: Path, tmp_path: Path, e2v: E2v) -> None:
    """The first shard saves the durations. One utterance is longer than all others together."""
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    shutil.copy(SAMPLE_SCP, folder / "wav.scp")
    keys = [line.split()[0] for line in LINES]
    (folder / "utt2dur").write_text("".join(f"{key} {1000 if key == keys[-1] else 1}\n" for key in keys))

    first = e2v(*predict(out, "--shard", "1/2", scp=folder))
    assert first.returncode == 0
    assert "e2v: 1 utterance: 1 done, 0 failed" in first.stderr
    assert len(list(out.glob("input.*.costs"))) == 1
    (folder / "utt2dur").unlink()
    second = e2v(*predict(out, "--shard", "2/2", scp=folder))
    assert second.returncode == 0
    assert second.stderr.startswith(
        f"e2v: all 2 shards are complete: {out} is merged\ne2v: 39 utterances: 39 done, 0 failed"
    )
    assert_same(out, whole)


@pytest.mark.parametrize("command", ["merge", "status"])
def test_folder_without_a_run_is_refused(command: str, tmp_path: Path, e2v: E2v) -> None:
    done = e2v(command, tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"e2v: {tmp_path} holds no run: choose the -o of e2v predict\n"
    assert list(tmp_path.iterdir()) == []
    missing = e2v(command, tmp_path / "nowhere")
    assert missing.returncode == 2
