"""The command line itself: help, usage, pipes, environment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.forkserver import shared_server
from support.processes import ROOT, E2v, on_opening, start_e2v, wait_until

from e2v_cli import __version__

pytestmark = pytest.mark.e2e

CLIP, OTHER_CLIP = "sample_data/wav/f1-0001.wav", "sample_data/wav/f1-0002.ogg"


def shell(command: str, e2v: str = f"{sys.executable} -m e2v_cli") -> subprocess.CompletedProcess[str]:
    """Run a pipeline of bash, in which ``e2v`` is the command."""
    script = f'e2v() {{ {e2v} "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_version(e2v: E2v) -> None:
    assert e2v("--version").stdout == f"e2v {__version__}\n"


@pytest.mark.parametrize(
    ("args", "examples", "command"),
    [
        (["--help"], "Examples", "predict"),
        (["-h"], "Examples", "predict"),
        (["predict", "--help"], "Examples", "predict"),
        (["merge", "--help"], "Example", "merge"),
        (["status", "-h"], "Examples", "status"),
        (["submit", "--help"], "Examples", "submit"),
    ],
)
def test_help_has_examples_and_imports_nothing_heavy(
    args: list[str], examples: str, command: str, real_e2v: E2v
) -> None:
    done = real_e2v(*args, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert f"  {examples}:\n" in done.stdout
    assert f"  e2v {command} " in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "e2v_cli.cli" in imported
    assert imported.isdisjoint({"torch", "numpy", "soundfile", "kaldiio", "funasr", "yaml"})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Usage: e2v [OPTIONS] COMMAND [ARGS].."),
        (["predict", "-m", "sample"], "Missing argument 'INPUT...'"),
        (["predict", CLIP, "--granularity", "word"], "'word' is not one of 'utterance', 'frame'"),
        (["predict", CLIP, "--batch-seconds", "0"], "--batch-seconds 0.0: must be a positive number"),
        (["predict", CLIP, "--batch-seconds", "nan"], "--batch-seconds nan: must be a positive number"),
        (["predict", CLIP, "-o", ""], "is empty: is a variable of the shell not set?"),
        (["predict", CLIP, ""], "is empty: is a variable of the shell not set?"),
        (["predict", CLIP, "-m", ""], "is empty: is a variable of the shell not set?"),
        (["predict", CLIP, "--max-failures", "some"], "'some' is neither a number nor a percentage like 1%"),
        (["predict", CLIP, "--max-failures", "101%"], "'101%' is out of range"),
        (["predict", CLIP, "--max-failures", "-1"], "'-1' is out of range"),
        (["predict", CLIP, "-o", "rows.csv"], "rows.csv would be a folder; rows in a file: --format csv > rows.csv"),
        (["predict", CLIP, "--embeddings", "npy"], "--embeddings npy: needs an output folder; add -o OUT"),
        (["predict", CLIP, "--overwrite"], "--overwrite: needs an output folder; add -o OUT"),
        (["predict", CLIP, "--retry-failed"], "--retry-failed: needs an output folder; add -o OUT"),
        (
            ["predict", CLIP, "-o", "out", "--granularity", "frame"],
            "--granularity frame: is of embeddings, and none are written; add -o OUT --embeddings npy, or ark",
        ),
        (
            ["predict", CLIP, "-o", "out", "--embedding-dtype", "fp16"],
            "--embedding-dtype fp16: is of embeddings, and none are written; add -o OUT --embeddings npy, or ark",
        ),
        (["predict", CLIP, "--shard", "3"], "'3' is not a part and a number of parts like 2/3, counted from 1"),
        (["predict", CLIP, "--shard", "0/3"], "'0/3' is not a part and a number of parts like 2/3, counted from 1"),
        (["predict", CLIP, "--shard", "4/3"], "'4/3' is not a part and a number of parts like 2/3, counted from 1"),
        (["predict", CLIP, "--shard", "1/3 "], "'1/3 ' is not a part and a number of parts like 2/3, counted from 1"),
        (
            ["predict", CLIP, "-o", "out", "--overwrite", "--shard", "1/3"],
            "--overwrite with --shard would delete the results of other shards: remove OUT first instead",
        ),
        (["predict", CLIP, "--jobs", "0"], "0 is not in the range x>=1"),
        (["predict", CLIP, "--window", "0.5"], "--window 0.5: must be at least 1 s"),
        (["predict", CLIP, "--window", "inf"], "--window inf: must be at least 1 s"),
        (["predict", CLIP, "--window", "nan"], "--window nan: must be at least 1 s"),
        (["predict", CLIP, "--channel", "0"], "'0' is not mix, split, A, B, or a number counted from 1"),
        (["predict", CLIP, "--channel", "left"], "'left' is not mix, split, A, B, or a number counted from 1"),
        *(
            (
                ["predict", CLIP, "--timeline", "1", *options],
                "--timeline-format and more than one --timeline need an output folder: add -o OUT",
            )
            for options in (("--timeline", "60"), ("--timeline-format", "rttm"))
        ),
        (
            ["predict", CLIP, "-o", "out", "--timeline", "0.01"],
            "--timeline 0.01: must be from 0.02 s, one frame, to 86400 s",
        ),
        (
            ["predict", CLIP, "-o", "out", "--timeline", "nan"],
            "--timeline nan: must be from 0.02 s, one frame, to 86400 s",
        ),
        (
            ["predict", CLIP, "-o", "out", "--timeline", "1", "--engine", "funasr"],
            "upstream's engine has no --timeline: leave out --engine funasr",
        ),
        (
            ["predict", CLIP, "-o", "out", "--timeline-format", "rttm"],
            "--timeline-format and --join need a timeline: add --timeline 1",
        ),
        (["predict", CLIP, "-o", "out", "--join"], "--timeline-format and --join need a timeline: add --timeline 1"),
        (
            ["predict", CLIP, "-o", "out", "--timeline", "1", "--timeline-format", "rttm,srt"],
            "'srt' is not one of 'rttm', 'audacity', 'textgrid'",
        ),
        (
            ["predict", CLIP, "-o", "out", "--compress", "--embeddings", "npy", "--granularity", "frame"],
            "--compress is for matrices in archives: add --granularity frame --embeddings ark",
        ),
        (["predict", CLIP, "--allow-pipes", "--pipe-timeout", "0"], "--pipe-timeout 0.0: must be a positive number"),
        (["predict", CLIP, "--allow-pipes", "--pipe-timeout", "nan"], "--pipe-timeout nan: must be a positive number"),
        (["merge"], "Missing argument 'OUT'"),
        (["merge", "nothing"], "OUT: Directory 'nothing' does not exist"),
        (["merge", "README.md"], "OUT: Directory 'README.md' is a file"),
        (["status"], "Missing argument 'OUT'"),
        (["status", "nothing"], "OUT: Directory 'nothing' does not exist"),
        (["submit", CLIP, "-o", "out"], "Missing option '--jobs'"),
        (["submit", CLIP, "-o", "out", "--jobs", "2", "--colour", "red"], "No such option '--colour'"),
        (["submit", CLIP, "-m", "sample", "--jobs", "2"], "needs an output folder that all nodes see: add -o OUT"),
        (["predict", CLIP, "-q", "-v"], "--quiet and --verbose exclude each other"),
        (["predict", CLIP, "--colour", "red"], "No such option"),
        (["predict", CLIP, "--device", "tpu"], "--device tpu: unknown; choose auto, cpu, cuda or cuda:0,2"),
        (["predict", CLIP, "--device", "meta"], "--device meta: unknown; choose auto, cpu, cuda or cuda:0,2"),
        (
            ["predict", CLIP, "-m", "emotion2vec_base", "--revision", ".."],
            "--revision '..': not a branch, tag or commit",
        ),
    ],
)
def test_usage_error_exits_2_with_message(args: list[str], message: str, e2v: E2v) -> None:
    done = e2v(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            [CLIP, "-m", "emotion2vec"],
            "e2v: emotion2vec: no such folder, and no model of that name (known: sample, emotion2vec_plus_seed, "
            "emotion2vec_plus_base, emotion2vec_plus_large, emotion2vec_base_finetuned, emotion2vec_base)\n",
        ),
        *(
            (
                [CLIP, "-m", name],
                f"e2v: {name}: no such folder, and no model of that name; did you mean: -m emotion2vec_plus_large\n",
            )
            for name in ("emotion2vec-plus-large", "emotion2vec/Emotion2vec-Plus-Large")
        ),
    ],
)
def test_run_error_exits_1_with_message(args: list[str], message: str, e2v: E2v) -> None:
    done = e2v("predict", *args, E2V_MODEL="sample")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


MISSING = "no such file or folder; INPUT is audio, a folder, a list or - for standard input"

ONLY_HTTP = (
    "only http:// and https:// are read; copy it here, or list a command that prints it, with --allow-pipes: "
    "utt1 aws s3 cp s3://… - |"
)


@pytest.mark.parametrize(
    ("args", "variables", "message"),
    [
        (["x.wav"], {}, "No command 'x.wav'; did you mean: e2v predict x.wav"),
        (["calls/", "b c.wav", "-q"], {}, "No command 'calls/'; did you mean: e2v predict calls/ 'b c.wav' -q"),
        (["-"], {}, "No command '-'; did you mean: e2v predict -"),
        (
            ["predict", CLIP],
            {"E2V_JOBS": "foo"},
            "--jobs (E2V_JOBS): 'foo' is not a valid integer range (see: e2v predict --help)",
        ),
        (["predict", CLIP, "-j", "foo"], {}, "--jobs: 'foo' is not a valid integer range (see: e2v predict --help)"),
        (
            ["predict", CLIP],
            {"E2V_SHARD": "4/3"},
            "--shard (E2V_SHARD): '4/3' is not a part and a number of parts like 2/3, counted from 1 "
            "(see: e2v predict --help)",
        ),
        (
            ["submit", CLIP, "-o", "out"],
            {"E2V_SUBMIT_JOBS": "x"},
            "--jobs (E2V_SUBMIT_JOBS): 'x' is not a valid integer range (see: e2v submit --help)",
        ),
        (
            ["predict", CLIP],
            {"E2V_WINDOW": "0.5"},
            "--window 0.5: must be at least 1 s (--window is set by E2V_WINDOW)",
        ),
        (["predict", CLIP, "gone.wav", "nothing.scp", "scp:none"], {}, f"gone.wav, nothing.scp, scp:none: {MISSING}"),
        (["predict", "s3://b/a.wav", "gs://b/list.scp"], {}, f"s3://b/a.wav, gs://b/list.scp: {ONLY_HTTP}"),
    ],
)
def test_usage_error_has_the_exact_text(args: list[str], variables: dict[str, str], message: str, e2v: E2v) -> None:
    done = e2v(*args, **variables)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"e2v: {message}\n")


def test_url_in_a_list_that_cannot_be_read_is_named(e2v: E2v) -> None:
    done = e2v("predict", "-", "-m", "sample", stdin="a 1.wav\nb gs://b/2.wav\n")
    assert (done.returncode, done.stderr) == (1, f"e2v: <stdin>:2: gs://b/2.wav: {ONLY_HTTP}\n")


@pytest.mark.parametrize("output", [[], ["-o", "out"]])
def test_empty_shard_is_named(output: list[str], tmp_path: Path, e2v: E2v) -> None:
    done = e2v("predict", ROOT / CLIP, "-m", "sample", "--shard", "64/64", *output, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("e2v: shard 64/64 is empty: the list is dealt to fewer shards: 1 at most\n")


@pytest.mark.parametrize("command", ["merge", "status"])
def test_a_folder_without_a_run_exits_1(command: str, tmp_path: Path, e2v: E2v) -> None:
    done = e2v(command, tmp_path)
    message = f"e2v: {tmp_path} holds no run: choose the -o of e2v predict\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.fixture
def forked(tmp_path: Path) -> str:
    """A command for shells that runs e2v in a fork."""
    return str(shared_server().write_command(tmp_path / "bin" / "e2v"))


def test_standard_output_is_clean_tsv(forked: str) -> None:
    done = shell(f"e2v predict {CLIP} -m sample | cut -f 2,5", forked)
    assert done.stdout == "label\twindows\nsurprised\t1\n"


@pytest.mark.parametrize("engine", ["e2v", "funasr"])
def test_closed_pipe_ends_run_quietly(engine: str, forked: str) -> None:
    """The run of FunASR's engine, which takes long to import, is forked."""
    words = f"set -o pipefail; e2v predict sample_data/wav.scp -q -m sample --engine {engine} | head -1 | cut -f 1"
    done = shell(words, forked) if engine == "funasr" else shell(words)
    assert done.stdout == "utt_id\n"
    assert "Traceback" not in done.stderr
    assert "roken pipe" not in done.stderr
    assert done.returncode == 0


def test_a_full_standard_output_is_an_error(forked: str) -> None:
    done = shell(f"e2v predict {CLIP} -m sample -q > /dev/full", forked)
    assert (done.returncode, done.stderr) == (1, "e2v: standard output: No space left on device\n")


def test_closed_standard_output_needs_output_dir(tmp_path: Path) -> None:
    done = shell(f"e2v predict {CLIP} -m sample >&-")
    assert done.returncode == 2
    assert "Standard output is closed: add -o OUT for the results" in done.stderr
    assert shell(f"e2v predict {CLIP} -m sample -o '{tmp_path}' >&-").returncode == 0


def test_closed_standard_input_and_long_names_are_errors() -> None:
    for words in ("predict - -m sample", "score - sample_data"):
        done = shell(f"e2v {words} <&-")
        assert (done.returncode, done.stderr) == (1, "e2v: -: standard input is closed\n")
    name = "x" * 300
    done = shell(f"e2v predict {name} -m sample")
    assert (done.returncode, done.stderr) == (2, f"e2v: {name}: {MISSING}\n")


@pytest.mark.parametrize("name", ["wav.scp", "segments", "reco2file_and_channel"])
def test_file_that_cannot_be_reached_does_not_pass_for_missing(name: str, e2v: E2v, tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text(f"a {ROOT / CLIP}\n")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("x" * 300)

    done = e2v("predict", tmp_path, "-m", "sample")

    message = f"e2v: {tmp_path / name}: File name too long; a list must be a file that can be read\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_options_may_be_set_by_environment(e2v: E2v) -> None:
    done = e2v("predict", CLIP, E2V_MODEL="sample", E2V_QUIET="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 2


def test_quiet_prints_nothing_and_verbose_more(e2v: E2v) -> None:
    assert e2v("predict", CLIP, "-m", "sample", "-q").stderr == ""
    assert "1 utterance: 1 done, 0 failed" in e2v("predict", CLIP, "-m", "sample").stderr
    verbose = e2v("predict", CLIP, "-m", "sample", "-v", "--device", "cpu").stderr
    assert re.match(
        r"e2v: sample is loaded on cpu\n"
        r"e2v: encoding f1-0001\n"
        r"e2v: the encoder was busy for \d+\.\d of \d+\.\d s \(\d+\.\d %\)\n"
        r"e2v: 1 utterance: 1 done, 0 failed",
        verbose,
    )


@pytest.mark.parametrize(
    ("to_folder", "options", "is_logged"),
    [
        (False, [], True),
        (False, ["-q"], True),
        (True, [], False),
        (True, ["-v"], True),
        (True, ["-q"], False),
    ],
)
def test_failures_are_logged_where_nothing_keeps_them_or_if_verbose(
    to_folder: bool, options: list[str], is_logged: bool, tmp_path: Path, e2v: E2v
) -> None:
    output = ["-o", str(tmp_path / "out")] if to_folder else []
    (tmp_path / "list").write_text(f"{CLIP}\ngone.wav\n")
    done = e2v("predict", tmp_path / "list", "-m", "sample", *output, *options)
    assert done.returncode == 3
    assert ("e2v: gone: audio: missing: gone.wav: no such file\n" in done.stderr) == is_logged


def test_unmerged_run_is_reported_and_merged(tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "list").write_text(f"{CLIP}\ngone.wav\n")
    options = ("-m", "sample", "-o", tmp_path, "--max-failures", "50%")
    assert e2v("predict", tmp_path / "list", *options).returncode == 0
    predictions = (tmp_path / "predictions.tsv").read_bytes()
    (tmp_path / "predictions.tsv").unlink()

    status = e2v("status", tmp_path)

    assert (status.returncode, status.stderr) == (75, "")
    assert status.stdout.startswith(
        f"{tmp_path}: not merged yet: e2v merge does it\n2 utterances: 1 done, 1 failed, 0 left\nshard  done  failed  "
    )
    merged = e2v("merge", tmp_path, "--max-failures", "1")
    assert (merged.returncode, merged.stdout) == (0, "")
    counts = "e2v: 2 utterances: 1 done, 1 failed\ne2v: 1.5 s of audio at "
    assert merged.stderr.startswith(counts)
    assert (tmp_path / "predictions.tsv").read_bytes() == predictions
    status = e2v("status", tmp_path)
    assert (status.returncode, status.stderr) == (0, "")
    assert status.stdout.startswith(f"{tmp_path}: complete\n")
    assert shell(f"e2v status {tmp_path} | true; exit ${{PIPESTATUS[0]}}").returncode == 0
    again = e2v("merge", tmp_path, E2V_MAX_FAILURES="49%")
    assert (again.returncode, again.stdout) == (3, "")
    assert again.stderr.startswith(f"e2v: {tmp_path} is complete: nothing to do\n{counts}")
    assert again.stderr.endswith(f"e2v: 1 failed, more than --max-failures 49% allows: see {tmp_path}/failures.tsv\n")


WATCH = "from e2v_cli.cli import main as cli; cli.WATCH_SECONDS = 0.2; from e2v_cli.__main__ import main; main()"
"""The command with a shorter interval of ``--watch``."""


def test_watch_ends_when_no_process_is_at_work(tmp_path: Path) -> None:
    """A shard is at work until it is killed here, and the other one was never begun."""
    out = tmp_path / "out"
    slow = on_opening(tmp_path / "hook", "f1-0001", "time.sleep(600)")
    run = start_e2v("predict", CLIP, OTHER_CLIP, "-m", "sample", "-o", out, "--shard", "1/2", **slow)
    wait_until(lambda: any(path.stat().st_size for path in out.glob("journal.*")))
    command = [sys.executable, "-c", WATCH, "status", str(out), "--watch"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            for _ in range(2):
                assert watch.stdout.readline() == f"{out}: in progress\n"
                assert watch.stdout.readline() == "2 utterances: 0 done, 0 failed, 2 left\n"
                assert watch.stdout.readline().startswith("shard  ")
                assert re.fullmatch(rf"1/2 .*  process {run.pid} on \S+ since .*\n", watch.stdout.readline())
                assert (
                    watch.stdout.readline() == "2/2    0     0       1     –      –         not running: run it again\n"
                )
                assert watch.stdout.readline() == "not running: shard 2 of 2; run it again\n"
            assert shell(f"e2v status {out}").returncode == 4
        finally:
            run.kill()
            run.communicate()
        assert re.search(r"^1/2 .* was killed; run it again\n2/2 .*\n\Z", watch.stdout.read(), re.MULTILINE)
        assert watch.wait(timeout=60) == 75


def test_watch_of_a_complete_run_ends_at_once(tmp_path: Path, e2v: E2v) -> None:
    assert e2v("predict", CLIP, "-m", "sample", "-o", tmp_path).returncode == 0
    watched = e2v("status", tmp_path, "--watch")
    assert (watched.returncode, watched.stderr) == (0, "")
    assert watched.stdout == e2v("status", tmp_path).stdout
