"""``e2v submit`` as a user runs it; Slurm's commands are scripts that record their words."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.forkserver import shared_server
from support.processes import ROOT, E2v, start_e2v, wait_until

from e2v_cli.cli import main
from e2v_cli.cli.main import run_command_line
from e2v_cli.cli.predict import predict
from e2v_cli.commands.submit import SubmitOptions
from e2v_cli.options import JobOptions
from e2v_cli.system.signals import StopSignals

pytestmark = pytest.mark.e2e

LINES = [
    f"{key} {ROOT / path}\n"
    for key, path in (line.split() for line in (ROOT / "sample_data" / "wav.scp").read_text().splitlines())
]

SBATCH = """#!/bin/bash
here=${0%/*} script=${!#}
number=$((100 + $(find "$here" -name 'sbatch.words.*' | wc -l)))
while [ -e "$here/hold.${script##*/}" ]; do touch "$here/held"; sleep 0.02; done
cat "$here/refuse.${script##*/}" >&2 2>/dev/null && exit 1
cp -- "$script" "$here/script.$number"
printf '%s\\0' "$@" > "$here/sbatch.words.$number"
echo "$number;cluster"
"""
"""Waits while ``hold.SCRIPT`` exists, and refuses while ``refuse.SCRIPT`` exists."""

OTHERS = """#!/bin/bash
printf '%s\\0' "$@" > "$0.words.$((100 + $(find "${0%/*}" -name "${0##*/}.words.*" | wc -l)))"
cat "$0.answer" 2>/dev/null || true
"""

Call = Callable[..., "subprocess.CompletedProcess[str]"]

E2V = """#!/bin/bash
printf '%s\\0' "$@" > "${0%/*}/e2v.words"
env -0 > "${0%/*}/e2v.environment"
"""


class Slurm:
    """A stand-in for Slurm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("squeue", "sacct", "scancel", "scontrol"):
            self._make(name, OTHERS)
        self._make("sbatch", SBATCH)
        self.e2v = self._make("e2v", E2V)
        self.path = f"{folder}:{os.environ['PATH']}"

    def fork_e2v(self) -> None:
        """Have jobs run e2v in a fork, instead of recording its words."""
        shared_server().write_command(self.e2v)

    def _make(self, name: str, script: str) -> Path:
        path = self.folder / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def calls(self, name: str) -> list[list[str]]:
        """Return the words of each call of a command."""
        return [_read_words(path) for path in sorted(self.folder.glob(f"{name}.words.*"))]

    def script(self, job: int) -> str:
        """Read the script that ``sbatch`` was given."""
        return (self.folder / f"script.{job}").read_text()

    def answer(self, *lines: str, command: str = "squeue") -> None:
        """Set the output of a command from now on."""
        (self.folder / f"{command}.answer").write_text("".join(f"{line}\n" for line in lines))

    def refuse(self, script: str, words: str) -> None:
        """Have ``sbatch`` refuse a script."""
        (self.folder / f"refuse.{script}").write_text(words)

    def accept(self, script: str) -> None:
        """Have ``sbatch`` accept the script again."""
        (self.folder / f"refuse.{script}").unlink()

    def run(self, job: int, *elements: int, **variables: str) -> list[int]:
        """Run a job, or some elements of an array, as Slurm would, from another folder: their exit codes.

        Only the named variables of e2v are set, as by the user who submits it, or by a node.
        """
        options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", self.script(job), re.MULTILINE))
        pattern = options["output"].strip('"')
        codes = []
        for element in elements or [0]:
            numbers = {"%%": "%", "%A": str(job), "%a": str(element), "%j": str(job)}
            log = re.sub("%.", lambda match, numbers=numbers: numbers[match.group()], pattern)  # type: ignore[misc]
            array = {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(element)} if elements else {}
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("E2V_")},
                **variables,
                **array,
                "SLURM_JOB_ID": str(job + element),
                "PYTHONPATH": str(ROOT),
                "PATH": self.path,
            }
            with Path(log).open("ab") as file:
                done = subprocess.run(
                    ["bash", self.folder / f"script.{job}"],
                    cwd="/",
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    timeout=120,
                )
            codes.append(done.returncode)
        return codes


def _read_words(path: Path) -> list[str]:
    return os.fsdecode(path.read_bytes()).split("\0")[:-1]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A machine of a cluster with an empty queue."""
    slurm = Slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", slurm.path)
    return slurm


@pytest.fixture
def call(slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run the command in this process, from the root of the repository, by the name of the stand-in for e2v."""
    package = logging.getLogger("e2v_cli")
    before = package.handlers[:], package.propagate, package.level, logging.raiseExceptions
    monkeypatch.chdir(ROOT)

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [str(slurm.e2v), *map(str, args)])
            patch.setattr(sys, "stderr", sys.stderr)  # the command replaces it
            code = run_command_line(StopSignals())
            sys.stderr.flush()
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(args, code, out, err)

    yield run
    package.handlers[:], package.propagate, package.level, logging.raiseExceptions = before


def write_scp(folder: Path, count: int, *more: str) -> Path:
    """Write a list of ``count`` utterances of the sample corpus, and of more lines."""
    path = folder / "wav.scp"
    path.write_text("".join([*LINES[:count], *more]))
    return path


def words_of_submit(scp: Path, out: Path, *options: str | Path, jobs: int = 3) -> list[str]:
    return ["submit", *map(str, (scp, "-o", out, "-m", "sample", "--jobs", jobs, *options))]


def read_notes(out: Path) -> dict[str, tuple[str, list[int], int, str]]:
    """Read the records of submissions: (array, shards, count, merge) of each."""
    notes = {path.stem: json.loads(path.read_text()) for path in (out / "slurm").glob("*.json")}
    return {name: (note["array"], note["shards"], note["count"], note["merge"]) for name, note in notes.items()}


# -- from submit to the results ----------------------------------------------------------------------------------------


def test_jobs_give_the_same_results_as_a_single_run(slurm: Slurm, tmp_path: Path, e2v: E2v) -> None:
    """From another folder, to an OUT with an odd name, with a model from a variable."""
    here = tmp_path / "it's here"
    here.mkdir()
    (here / "wav").symlink_to(ROOT / "sample_data" / "wav")
    (here / "lists").mkdir()
    names = [line.split("/")[-1] for line in LINES[:9]]
    (here / "lists" / "wav.scp").write_text("".join(f"utt{number} wav/{name}" for number, name in enumerate(names)))
    out = here / "our 100% 'best' %A"
    variables = {"PATH": slurm.path, "E2V_MODEL": "sample"}

    done = e2v("submit", "lists/wav.scp", "-o", out.name, "--jobs", "2", "--embeddings", "ark", cwd=here, **variables)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "job 100: shards 1-2 of 2\njob 101: merge, when they have ended\n"
        "e2v status 'our 100% '\"'\"'best'\"'\"' %A' --watch\n"
    )
    scripts = [str(out / "slurm" / name) for name in ("shards.sh", "merge.sh")]
    assert slurm.calls("sbatch") == [
        ["--parsable", scripts[0]],
        ["--parsable", "--dependency=afterany:100", scripts[1]],
    ]
    assert f"#SBATCH --output=\"{here}/our 100%% 'best' %%A/log/slurm-%A_%a.log\"\n" in slurm.script(100)
    assert read_notes(out) == {"100": ("100", [1, 2], 2, "101")}

    assert slurm.run(100, 2, 1) == [0, 0]
    assert slurm.run(101) == [0]

    logs = sorted(path.name for path in out.glob("log/slurm-*"))
    assert logs == ["slurm-100_1.log", "slurm-100_2.log", "slurm-101-merge.log"]
    log = (out / "log" / "slurm-101-merge.log").read_text()
    assert log.startswith(f"e2v: {out} is complete: nothing to do\ne2v: 9 utterances: 9 done, 0 failed\n")
    alone = e2v("predict", "lists/wav.scp", "-o", "alone", "-j", "1", "--embeddings", "ark", cwd=here, **variables)
    assert alone.returncode == 0
    for name in ("predictions.tsv", "failures.tsv", "utt2dur"):
        assert (out / name).read_bytes() == (here / "alone" / name).read_bytes()
    assert e2v("status", out, "--watch").returncode == 0
    again = e2v("submit", "lists/wav.scp", "-o", out.name, "--jobs", "7", "--embeddings", "ark", cwd=here, **variables)
    assert (again.returncode, again.stdout) == (0, f"{out.name} is complete: nothing to submit\n")
    assert len(slurm.calls("sbatch")) == 2


def test_submitted_scripts_have_whole_text(
    slurm: Slurm, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    monkeypatch.setenv("E2V_LABELS", "both")
    resources = (
        *("--partition", "short,long", "--account", "our lab", "--qos", "high", "--gpus", "a100:2", "--cpus", "8"),
        *("--mem", "32G", "--time", "4:00:00", "--array-limit", "5"),
        *("--sbatch-arg", "--constraint=ib&big", "--sbatch-arg=--exclusive"),
    )

    done = call(*words_of_submit(scp, out, "--window=30", *resources, "--dry-run", jobs=4))

    cache = shlex.quote(os.environ["E2V_CACHE"])
    others = (
        "#SBATCH --time=4:00:00\n"
        '#SBATCH --constraint="ib&big"\n'
        "#SBATCH --exclusive\n"
        "\n"
        f"cd {shlex.quote(str(ROOT))} || exit\n"
        'for name in "${!E2V_@}"; do [ "$name" = E2V_CACHE ] || unset "$name"; done # they are options already\n'
        f"export E2V_CACHE={cache}\n"
        "\n"
    )
    scripts = [out / "slurm" / name for name in ("shards.sh", "merge.sh")]
    first, last = (path.read_text() for path in scripts)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "# shards 1-4 of 4\n"
        f"job=$(sbatch --parsable {scripts[0]}) &&\n"
        f'  sbatch --dependency="afterany:${{job%%;*}}" {scripts[1]}\n'
    )
    assert first.startswith(
        "#!/bin/bash\n"
        "#SBATCH --job-name=e2v-out\n"
        f"#SBATCH --output={out}/log/slurm-%A_%a.log\n"
        "#SBATCH --nodes=1\n"
        "#SBATCH --ntasks=1\n"
        "#SBATCH --array=1-4%5\n"
        "#SBATCH --requeue\n"
        "#SBATCH --open-mode=append\n"
        "#SBATCH --signal=B:USR1@60\n"
        "#SBATCH --partition=short,long\n"
        '#SBATCH --account="our lab"\n'
        "#SBATCH --qos=high\n"
        "#SBATCH --gres=gpu:a100:2\n"
        "#SBATCH --cpus-per-task=8\n"
        "#SBATCH --mem=32G\n"
        f"{others}#"
    )
    command = f"{slurm.e2v} predict {scp} -o {out} -m sample --labels both --window 30 --offline"
    assert f'\n{command} --shard "$SLURM_ARRAY_TASK_ID/4" &\n' in first
    assert last == (
        "#!/bin/bash\n"
        "#SBATCH --job-name=e2v-out-merge\n"
        f"#SBATCH --output={out}/log/slurm-%j-merge.log\n"
        "#SBATCH --nodes=1\n"
        "#SBATCH --ntasks=1\n"
        "#SBATCH --partition=short,long\n"
        '#SBATCH --account="our lab"\n'
        "#SBATCH --qos=high\n"
        "#SBATCH --mem=4G\n"
        f"{others}exec {slurm.e2v} merge {out}\n"
    )
    subprocess.run(["bash", "-n", *scripts], check=True)
    assert slurm.calls("sbatch") == slurm.calls("squeue") == []

    assert call(*words_of_submit(scp, out, "--window=30", *resources, jobs=4)).returncode == 0
    assert slurm.script(100) == scripts[0].read_text() == first
    assert slurm.script(101) == scripts[1].read_text() == last


def test_words_and_variables_are_quoted_in_scripts(
    slurm: Slurm, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = "$(touch pwned) `touch pwned`; touch pwned & 'touch pwned' | \\ %A ~ * é 感情 \n#SBATCH --hold"
    folder = tmp_path / f"it's {bad.replace('/', '')}"
    folder.mkdir()
    scp = write_scp(folder, 3)
    monkeypatch.setenv("E2V_CACHE", f"{tmp_path}/it's {bad}")
    monkeypatch.setenv("E2V_A;touch pwned;B", "x")
    monkeypatch.setenv("HARMLESS", bad)
    monkeypatch.chdir(tmp_path)
    options = ["--device", "cpu", "--labels=zh", "-q", "--hub", "hf", "--allow-pipes", "--pipe-timeout", "7"]
    options += ["--max-failures", "0.25%"]
    out, clip = str(tmp_path / "out $(touch pwned)"), str(scp.with_name("-x.wav"))
    Path(clip).touch()

    done = call(
        *("submit", "--partition", "$(touch pwned)`'", str(scp), *options, "-m", "sample", clip, "-o", out),
        *("--jobs", "2", "--account", "x;touch pwned"),
    )

    assert (done.returncode, done.stderr) == (0, "")
    for name in ("E2V_CACHE", "E2V_A;touch pwned;B"):
        monkeypatch.delenv(name)
    assert slurm.run(100, 2, E2V_REVISION=bad, E2V_LIST=bad) == [0]
    assert _read_words(slurm.folder / "e2v.words") == [
        *("predict", str(scp), clip, "-o", out, "-m", "sample", "--hub", "hf", "--labels", "zh"),
        *("--device", "cpu", "--allow-pipes", "--pipe-timeout", "7", "--max-failures", "0.25%", "-q"),
        *("--offline", "--shard", "2/2"),
    ]
    environment = (slurm.folder / "e2v.environment").read_text().split("\0")
    assert [variable for variable in environment if variable.startswith("E2V_")] == [f"E2V_CACHE={tmp_path}/it's {bad}"]
    assert slurm.run(101) == [0]
    assert _read_words(slurm.folder / "e2v.words") == ["merge", out, "--max-failures", "0.25%"]
    assert '#SBATCH --partition="$(touch pwned)`\'"\n' in slurm.script(100)
    assert not [*tmp_path.rglob("pwned"), *Path("/").glob("pwned")]


@pytest.mark.parametrize(
    ("name", "options"),
    [('say "hello"', []), ("back\\slash", []), ("out", ["--partition", "a\n#SBATCH --hold"])],
)
def test_words_that_a_script_cannot_hold_are_refused(
    name: str, options: list[str], slurm: Slurm, call: Call, tmp_path: Path
) -> None:
    done = call(*words_of_submit(write_scp(tmp_path, 3), tmp_path / name, *options))

    assert done.returncode == 2
    assert done.stderr.endswith(": a script of Slurm can't hold quotes and backslashes; choose another name\n")
    assert slurm.calls("sbatch") == []


def test_variables_count_only_at_submission(
    slurm: Slurm, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option on the command line takes precedence; variables in the environment of jobs have no effect."""
    slurm.fork_e2v()
    scp, out = write_scp(tmp_path, 3), tmp_path / "out"
    variables = {"E2V_GRANULARITY": "frame", "E2V_LABELS": "zh", "E2V_EMBEDDINGS": "npy", "E2V_WINDOW": "30"}
    words = words_of_submit(scp, out, "--granularity", "utterance", jobs=2)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert call(*words).returncode == 0
    expected = f"predict {scp} -o {out} -m sample --labels zh --window 30 --embeddings npy --offline --shard "
    assert expected in slurm.script(100)

    assert slurm.run(100, 1, 2, **variables, E2V_SHARD="1/1", E2V_DEVICE="none", E2V_QUIET="1") == [0, 0]

    assert [np.load(path).shape for path in out.glob("embeddings/*.npy")] == [(96,)] * 3
    run = json.loads((out / "run.json").read_text())
    assert run["options"].items() >= {"granularity": "utterance", "window": 30.0, "embeddings": "npy"}.items()
    assert sorted(path.name for path in out.glob("journal.*")) == ["journal.1-of-2.1", "journal.2-of-2.1"]


def test_submit_works_inside_a_job(slurm: Slurm, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "1"}
    array = {f"SLURM_ARRAY_TASK_{name}": value for name, value in (("COUNT", "3"), ("MIN", "1"), ("MAX", "3"))}
    step = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_CPUS_PER_TASK": "16"}
    for variable, value in (variables | array | step).items():
        monkeypatch.setenv(variable, value)

    done = call(*words_of_submit(write_scp(tmp_path, 9), tmp_path / "out", jobs=2))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("job 100: shards 1-2 of 2\njob 101: merge, when they have ended\n")
    assert '--shard "$SLURM_ARRAY_TASK_ID/2" &\n' in slurm.script(100)


# -- a dry run ---------------------------------------------------------------------------------------------------------


def test_dry_run_needs_neither_network_nor_model_nor_slurm(
    call: Call, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scripts are submitted by hand later, where the model is; commands in lists are not run, URLs not fetched."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY"):
            monkeypatch.setenv(name, address)
        for name in ("MODELSCOPE_CACHE", "HF_HOME", "E2V_CACHE"):
            monkeypatch.setenv(name, str(tmp_path / "caches"))
        (tmp_path / "without").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "without"))
        scp = write_scp(tmp_path, 2, f"p touch {tmp_path}/ran |\n", f"u {address}/u.wav\n")
        out = tmp_path / "our runs" / "out"
        options = ("--allow-pipes", "--channel", "split", "--gpus", "1", "--dry-run")

        done = call("submit", scp, "-o", out, "-m", "emotion2vec_plus_large", "--jobs", "9", *options)

        with pytest.raises(BlockingIOError):
            server.accept()
    assert done.returncode == 0
    assert done.stdout == (
        "# shards 1-4 of 9; not in the array: 5 without utterances\n"
        f"job=$(sbatch --parsable '{out}/slurm/shards.sh') &&\n"
        f"  sbatch --dependency=\"afterany:${{job%%;*}}\" '{out}/slurm/merge.sh'\n"
    )
    assert done.stderr.startswith(
        "e2v: jobs need the model, and download nothing: iic/emotion2vec_plus_large is not on this machine, "
    )
    assert not (tmp_path / "ran").exists()
    assert sorted(path.name for path in out.iterdir() if not re.match(r"input\.|\.lock", path.name)) == ["log", "slurm"]

    subprocess.run(["bash", "-ec", done.stdout], env={**os.environ, "PATH": slurm.path}, check=True)

    scripts = [str(out / "slurm" / name) for name in ("shards.sh", "merge.sh")]
    assert slurm.calls("sbatch") == [["--parsable", scripts[0]], ["--dependency=afterany:100", scripts[1]]]


def test_jobs_submitted_by_hand_give_the_same_results(slurm: Slurm, call: Call, tmp_path: Path, e2v: E2v) -> None:
    """A real submission follows in the same OUT, also with other options."""
    slurm.fork_e2v()
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    words = words_of_submit(scp, out, jobs=2)
    assert call(*words_of_submit(scp, out, "--window", "30", jobs=5), "--dry-run").returncode == 0
    dry = call(*words, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")

    answer = subprocess.run(["bash", "-ec", dry.stdout], capture_output=True, check=True)
    assert answer.stdout == b"101;cluster\n"
    assert slurm.run(100, 2) == [0]
    rest = call(*words)
    assert rest.stdout.startswith("job 102: shards 1 of 2; not in the array: 1 complete\n")
    assert slurm.run(102, 1) == [0]
    assert slurm.run(103) == [0]

    alone = e2v("predict", scp, "-o", tmp_path / "alone", "-m", "sample", "-j", "1")
    assert alone.returncode == 0
    assert (out / "predictions.tsv").read_bytes() == (tmp_path / "alone/predictions.tsv").read_bytes()


def test_dry_run_that_is_refused_leaves_nothing(slurm: Slurm, call: Call, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    scp = write_scp(folder, 3)

    quoted = call(*words_of_submit(scp, tmp_path / 'say "hello"', "--dry-run"))
    corpus = call(*words_of_submit(scp, folder, "--dry-run"))
    window = call(*words_of_submit(finished / "wav.scp", finished / "out", "--window", "30", "--dry-run"))

    assert (quoted.returncode, corpus.returncode, window.returncode) == (2, 4, 4)
    assert corpus.stderr.startswith(f"e2v: {folder} is a Kaldi data directory, ")
    assert sorted(os.listdir(tmp_path)) == ["bin", "data"]
    assert os.listdir(folder) == ["wav.scp"]
    assert not (finished / "out/slurm").exists()
    assert slurm.calls("sbatch") == []


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SubmitOptions]:
    """The options of each call of ``submit``, which submits nothing."""
    asked: list[SubmitOptions] = []

    def note(options: SubmitOptions) -> str:
        asked.append(options)
        return ""

    monkeypatch.setattr("e2v_cli.commands.submit.submit", note)
    return asked


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a.scp -o out --jobs 2", "a.scp -o out"),
        ("--jobs 2 -o out a.scp b.scp", "a.scp b.scp -o out"),
        ("-o out --jobs=2 a.scp --model=sample", "a.scp -o out -m sample"),
        ("-oout/the/home a.scp -mhub/h --jobs 2", "a.scp -o out/the/home -m hub/h"),
        ("-vo out a.scp --jobs 2 -vmh", "a.scp -o out -m h -v"),
        ("a.scp --jobs 2 -o -hello", "a.scp -o -hello"),
        ("a.scp --jobs 2 -o --time", "a.scp -o --time"),
        ("a.scp -o out --jobs 2 --revision --jobs --hub hf", "a.scp -o out --hub hf --revision --jobs"),
        ("a.scp --jobs 2 --output-dir=--time=3", "a.scp -o --time=3"),
        ("a.scp --no-progress -o out --time 3 --jobs 2 b.scp", "a.scp b.scp -o out --no-progress"),
        ("a.scp -o out --jobs 2 --sbatch-arg --time -- -x.wav - --jobs", "a.scp ./-x.wav - ./--jobs -o out"),
        ("-o -- --jobs 2 a.scp", "a.scp -o --"),
        ("a.scp -o out --jobs 2 'it is' --gpus 1 é", "a.scp 'it is' é -o out"),
        ("a.scp -o out --jobs 2 --jobs 2 --max-failures 1%", "a.scp -o out --max-failures 1%"),
        ("a.scp -o out --jobs 2 --max-failures 12.3456789%", "a.scp -o out --max-failures 12.3456789%"),
        ("a.scp -o out --jobs 2 --channel B --window 30.5 -q", "a.scp -o out --window 30.5 --channel 2 -q"),
        ("a.scp -o out --jobs 2 --window 60 --labels en --hub ms", "a.scp -o out"),
        ("a.scp -o out --jobs 2 --pipe-timeout 7", "a.scp -o out"),
        (
            "a.scp -o out --jobs 2 --timeline 60 --timeline 0.5 --timeline-format textgrid,rttm --join",
            "a.scp -o out --join --timeline 0.5 --timeline 60 --timeline-format rttm,textgrid",
        ),
    ],
)
def test_options_of_predict_become_words_of_jobs(line: str, words: str, call: Call, asked: list[SubmitOptions]) -> None:
    done = call("submit", *shlex.split(line))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [options.words for options in asked] == [tuple(shlex.split(words))]
    assert asked[0].jobs.num_shards == 2
    again = predict.make_context("predict", shlex.split(words)).params
    assert [word.removeprefix("./") for word in again["inputs"]] == list(asked[0].run.input.inputs)
    assert asked[0].run.results.output_dir == again["output_dir"]


def test_options_may_be_set_by_environment(
    call: Call, asked: list[SubmitOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "JOBS": "5",
        "TIME": "4:00:00",
        "GPUS": "2",
        "CPUS": "3",
        "MEM": "8G",
        "PARTITION": "long",
        "ACCOUNT": "lab",
        "QOS": "high",
        "ARRAY_LIMIT": "4",
        "SBATCH_ARG": "--requeue --constraint=ib",
        "MERGE_SBATCH_ARG": "--partition=cpu",
        "DRY_RUN": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"E2V_SUBMIT_{name}", value)
    monkeypatch.setenv("E2V_OUTPUT_DIR", "out")
    monkeypatch.setenv("E2V_MODEL", "sample")

    assert call("submit", "a.scp").returncode == 0

    (options,) = asked
    assert options.jobs == JobOptions(num_shards=5, array_limit=4, dry_run=True)
    assert options.words == ("a.scp", "-o", "out", "-m", "sample")
    assert list(options.resources.directives()) == [
        *("--partition=long", "--account=lab", "--qos=high", "--gres=gpu:2", "--cpus-per-task=3", "--mem=8G"),
        *("--time=4:00:00", "--requeue", "--constraint=ib"),
    ]
    assert list(options.resources.of_merge().directives()) == [
        *(
            "--partition=cpu",
            "--account=lab",
            "--qos=high",
            "--mem=4G",
            "--time=4:00:00",
            "--requeue",
            "--constraint=ib",
        ),
    ]
    assert (options.run.results.output_dir, options.run.model.name) == (Path("out"), "sample")


@pytest.mark.parametrize(
    ("line", "variables", "message"),
    [
        ("a.scp -o out", {}, "Missing option '--jobs'"),
        ("a.scp -o out --jobs 0", {}, "--jobs: 0 is not in the range 1<=x<=99999"),
        ("a.scp -o out --jobs 100000", {}, "--jobs: 100000 is not in the range 1<=x<=99999"),
        ("a.scp -o out --jobs", {}, "Option '--jobs' requires an argument"),
        ("a.scp --jobs 2 -o", {}, "Option '-o' requires an argument"),
        ("--jobs 2", {}, "Missing argument 'INPUT...'"),
        ("-o out --jobs 2", {}, "Missing argument 'INPUT...'"),
        ("a.scp -o out --jobs 2 --colour red", {}, "No such option '--colour'"),
        ("a.scp -o out --jobs 2 -x", {}, "No such option '-x'"),
        ("a.scp -o out --jobs 2 --dry-run=no", {}, "Option '--dry-run' does not take a value"),
        (
            "a.scp -o out --jobs 2 --labels fr",
            {},
            "--labels: 'fr' is not one of 'en', 'zh', 'both'",
        ),
        ("a.scp -o out --jobs 2 -q -v", {}, "--quiet and --verbose exclude each other"),
        (
            "a.scp -o out --jobs 2 -m ''",
            {},
            "INPUT, --output-dir or --model is empty: is a variable of the shell not set?",
        ),
        (
            "a.scp -o out --jobs 2 -j 3",
            {},
            "-j is not for e2v submit: a job has a worker for each of its --gpus or --cpus",
        ),
        (
            "a.scp -o out --jobs 2",
            {"E2V_JOBS": "3"},
            "E2V_JOBS is not for e2v submit: a job has a worker for each of its --gpus or --cpus",
        ),
        (
            "a.scp -o out --jobs 2 --shard 1/1",
            {},
            "--shard is not for e2v submit, which deals the shards itself",
        ),
        (
            "a.scp -o out --jobs 2",
            {"E2V_SHARD": "1/2"},
            "E2V_SHARD is not for e2v submit, which deals the shards itself",
        ),
        (
            "a.scp -o out --jobs 2 --overwrite",
            {},
            "--overwrite is not for e2v submit, which goes on with what OUT holds: remove it first instead",
        ),
    ],
)
def test_usage_errors_are_refused(
    line: str,
    variables: dict[str, str],
    message: str,
    call: Call,
    asked: list[SubmitOptions],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    done = call("submit", *shlex.split(line))

    assert (done.returncode, done.stdout, asked) == (2, "", [])
    assert done.stderr in [f"e2v: {message}{hint}\n" for hint in (" (see: e2v submit --help)", "")]


NOT_READ = "not as sbatch reads it; write it like"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "2"], "e2v submit needs an output folder that all nodes see: add -o OUT"),
        (
            ["-", "-o", "out", "--jobs", "2"],
            "-: a job has no standard input; save the list in a file",
        ),
        (
            ["-o", "out", "--jobs", "2", "--", "-"],
            "-: a job has no standard input; save the list in a file",
        ),
        *(
            (["-o", "out", "--jobs", "2", f"--time={time}"], f"--time {time}: {NOT_READ} 90 (minutes), 4:00:00 or 2-12")
            for time in ("4h", "4:", ":30", "1:2:3:4", "1-", "-4", "1-2-3", "1.5", " 4", "٤", "never")
        ),
        *(
            (["-o", "out", "--jobs", "2", f"--mem={size}"], f"--mem {size}: {NOT_READ} 8000 (megabytes), 8G or 1T")
            for size in ("1.5G", "8 G", "G", "8P", "-1", "8Gib", "lots")
        ),
        *(
            (["-o", "out", "--jobs", "2", f"--gpus={gpus}"], f"--gpus {gpus}: {NOT_READ} 1, a100:2 or a100:1,v100:1")
            for gpus in ("0", "a100", "a100:", ":2", "1.5", "a:b:2", "1,", "a100:0", "gpu a100:1")
        ),
        (
            ["-o", "out", "--jobs", "2", "--merge-sbatch-arg", "-pcpu"],
            "--merge-sbatch-arg -pcpu: write it as one word, like --constraint=ib",
        ),
        (
            ["-o", "out", "--jobs", "2", "--merge-sbatch-arg=--output=x"],
            "--merge-sbatch-arg --output=x: e2v submit sets it; leave it out",
        ),
        (
            ["-o", "out", "--jobs", "2", "--sbatch-arg", "constraint=ib"],
            "--sbatch-arg constraint=ib: write it as one word, like --constraint=ib",
        ),
        (
            ["-o", "out", "--jobs", "2", "--sbatch-arg", "--constraint ib"],
            "--sbatch-arg --constraint ib: write it as one word, like --constraint=ib",
        ),
        (
            ["-o", "out", "--jobs", "2", "--sbatch-arg", "--array=2-7"],
            "--sbatch-arg --array=2-7: e2v submit sets it; leave it out",
        ),
    ],
)
def test_options_impossible_for_a_job_are_refused(
    words: list[str], message: str, slurm: Slurm, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scp = write_scp(tmp_path, 3)

    done = call("submit", scp.name, "-m", "sample", *words)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"e2v: {message}\n")
    assert sorted(os.listdir(tmp_path)) == ["bin", "wav.scp"]
    assert slurm.calls("sbatch") == []


def test_help_shows_usage_of_submit(call: Call, asked: list[SubmitOptions]) -> None:
    for words in (["-h"], ["a.scp", "-o", "out", "--help"], []):
        done = call("submit", *words)
        assert (done.returncode, asked) == (0 if words else 2, [])
        assert "Usage: e2v submit [OPTIONS] INPUT...\n" in done.stdout + done.stderr


# -- errors ------------------------------------------------------------------------------------------------------------


def test_unreadable_list_stops_submit(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"

    gone = call(*words_of_submit(tmp_path / "gone.scp", out))
    twice = call(*words_of_submit(write_scp(tmp_path, 3, LINES[0]), out))

    hint = "INPUT is audio, a folder, a list or - for standard input"
    assert (gone.returncode, gone.stderr) == (2, f"e2v: {tmp_path}/gone.scp: no such file or folder; {hint}\n")
    assert twice.returncode == 1
    assert twice.stderr == f'e2v: {tmp_path}/wav.scp:4: utt-id "f1-0001" again (first on line 1)\n'
    assert not out.exists()
    assert slurm.calls("sbatch") == []


def test_missing_audio_does_not_stop_submit(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    """It fails alone, and costs as much as the mean of the others."""
    out = tmp_path / "out"

    done = call(*words_of_submit(write_scp(tmp_path, 2, "gone nowhere.wav\n", "pipe nowhere.wav:17\n"), out, jobs=9))

    sizes = [os.stat(line.split()[1]).st_size for line in LINES[:2]]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("job 100: shards 1-4 of 9; not in the array: 5 without utterances\n")
    assert read_costs(out) == [*sizes, sum(sizes) / 2, sum(sizes) / 2]
    assert len(slurm.calls("sbatch")) == 2


def test_full_disk_stops_submit(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row takes 500 bytes, in addition to its vector."""
    scp, out = write_scp(tmp_path, 10), tmp_path / "not" / "there"
    asked = []

    def disk_usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    free = 10 * (find_embed_dim() * 4 + 500) - 1
    refused = call(*words_of_submit(scp, out, "--embeddings", "npy", "--dry-run"))
    free = 10 * 500 - 1
    without = call(*words_of_submit(scp, out, "--dry-run"))
    assert not out.parent.exists()
    free = 10 * (find_embed_dim() * 4 + 500)
    enough = call(*words_of_submit(scp, out, "--embeddings", "npy", "--dry-run"))

    assert refused.returncode == without.returncode == 1
    message = f"e2v: {out}: 0.0 GB are needed, and 0.0 GB are free; choose another -o\n"
    assert refused.stderr == without.stderr == message
    assert enough.returncode == 0
    assert asked == [tmp_path] * 3


def find_embed_dim() -> int:
    from e2v_cli.models.folder import read_model
    from e2v_cli.models.hub import find_model
    from e2v_cli.options import ModelRequest

    return read_model("sample", find_model(ModelRequest("sample")), "en").config.embed_dim


def test_needed_space_of_frames_depends_on_durations(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as these are known; compression needs a quarter, and each layer as much as the last."""
    folder = tmp_path / "data"
    folder.mkdir()
    scp = write_scp(folder, 4)
    (folder / "utt2dur").write_text(
        "".join(f"{line.split()[0]} {seconds}\n" for line, seconds in zip(LINES[:2], (100, 300), strict=True))
    )
    matrices = 4 * 200 * 50 * find_embed_dim() * 4
    options = ("--granularity", "frame", "--embeddings", "ark", "--dry-run")
    for needed, more in (
        (matrices + 2000, ()),
        (matrices // 4 + 2000, ("--compress",)),
        (3 * matrices + 2000, ("--layers", "1,3,mean:1-2")),
    ):
        for free, code in ((needed - 1, 1), (needed, 0)):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
            assert call(*words_of_submit(scp, tmp_path / "out", *options, *more)).returncode == code


def test_missing_slurm_is_named(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    done = call(*words_of_submit(write_scp(tmp_path, 9), tmp_path / "out"))

    message = "e2v: sbatch: no such command here; e2v submit needs a machine of a Slurm cluster\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    assert not (tmp_path / "out").exists()


def test_unknown_queue_is_not_taken_for_empty(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    """Otherwise all shards would be submitted twice."""
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    assert call(*words_of_submit(scp, out)).returncode == 0
    (slurm.folder / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")

    done = call(*words_of_submit(scp, out))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("e2v: squeue --noheader ")
    assert done.stderr.endswith(": Unable to contact slurm controller\n")
    assert len(slurm.calls("sbatch")) == 2
    status = call("status", out)
    assert (status.returncode, status.stdout.splitlines()[-1].split(maxsplit=6)[-1]) == (
        4,
        "job 100_3, whose state is not known",
    )


def test_refusal_by_slurm_is_shown(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    slurm.refuse("shards.sh", "sbatch: error: invalid partition specified: here\nsbatch: error: Batch job failed\n")

    done = call(*words_of_submit(scp, out))

    words = "sbatch: error: invalid partition specified: here sbatch: error: Batch job failed"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"e2v: sbatch --parsable {out}/slurm/shards.sh: {words}\n"
    assert read_notes(out) == {}
    slurm.accept("shards.sh")
    again = call(*words_of_submit(scp, out))
    assert again.stdout.startswith("job 100: shards 1-3 of 3\njob 101: merge, when they have ended\n")
    assert slurm.calls("scancel") == []


def test_refused_merge_is_submitted_the_next_time(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    slurm.refuse("merge.sh", "sbatch: error: too many jobs\n")

    done = call(*words_of_submit(scp, out))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"e2v: sbatch --parsable --dependency=afterany:100 {out}/slurm/merge.sh: sbatch: error: too many jobs. "
        f"job 100: shards 1-3 of 3\nWhen it has ended: e2v merge {out}\n"
    )
    assert read_notes(out) == {"100": ("100", [1, 2, 3], 3, "")}
    slurm.accept("merge.sh")
    slurm.answer("100_1|RUNNING|n1|None", "100_2|PENDING||Resources", "100_3|PENDING||Resources")
    again = call(*words_of_submit(scp, out))
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == f"job 101: merge, when they have ended\ne2v status {out} --watch\n"
    assert slurm.calls("sbatch")[1:] == [["--parsable", "--dependency=afterany:100", f"{out}/slurm/merge.sh"]]
    assert read_notes(out) == {"100": ("100", [1, 2, 3], 3, ""), "101": ("", [], 3, "101")}


def test_out_may_begin_with_a_dash(slurm: Slurm, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scp(tmp_path, 9)

    done = call("submit", "wav.scp", "-o", "-out", "-m", "sample", "--jobs", "2")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\ne2v status ./-out --watch\n")
    assert slurm.calls("sbatch")[0] == ["--parsable", f"{tmp_path}/-out/slurm/shards.sh"]
    assert call("status", "./-out").returncode == 75


# -- repeated submissions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, e2v: E2v) -> Path:
    """A run of nine utterances, one of them missing, with its list beside it; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    scp = write_scp(folder, 8, "gone nowhere.wav\n")
    done = e2v("predict", scp, "-m", "sample", "-o", folder / "out", "-j", "1")
    assert done.returncode == 3, done.stderr
    return folder


def test_second_submit_submits_lost_shards(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    words = words_of_submit(scp, out)
    watch = f"e2v status {out} --watch\n"
    assert call(*words).stdout == f"job 100: shards 1-3 of 3\njob 101: merge, when they have ended\n{watch}"

    slurm.answer("100_1|PENDING||Resources", "100_2|RUNNING|n1|None", "100_3|FAILED|n1|None", "101|PENDING||Dependency")
    status = call("status", out)
    assert status.returncode == 4
    *rows, last = status.stdout.splitlines()[3:]
    assert [row.split(maxsplit=6)[-1] for row in rows] == [
        "job 100_1 waits (Resources)",
        "job 100_2 is RUNNING on n1",
        f"not running: job 100_3 is FAILED, see {out}/log/slurm-100_3.log; run e2v submit again",
    ]
    assert last == "not running: shard 3 of 3; run e2v submit again"
    second = call(*words)
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout == (
        f"job 102: shards 3 of 3; not in the array: 2 queued or running\njob 103: merge, when they have ended\n{watch}"
    )
    assert slurm.calls("scancel") == [["--quiet", "101"]]
    assert slurm.calls("sbatch")[3][:-1] == ["--parsable", "--dependency=afterany:100:102"]
    assert "#SBATCH --array=3\n" in slurm.script(102)
    assert read_notes(out) == {"100": ("100", [1, 2, 3], 3, "101"), "102": ("102", [3], 3, "103")}

    slurm.answer(
        "100_1|PENDING||Resources", "100_2|RUNNING|n1|None", "102_3|PENDING||Priority", "103|PENDING||Dependency"
    )
    third = call(*words)
    nothing = "nothing to submit: the shards left are queued or running\n"
    assert (third.returncode, third.stdout, third.stderr) == (0, f"{nothing}{watch}", "")
    other = call(*words_of_submit(scp, out, jobs=4))
    assert (other.returncode, other.stdout) == (4, "")
    assert other.stderr == (
        f"e2v: {out}: job 100 of 3 shards is queued or running; use --jobs 3, or cancel it first: scancel 100\n"
    )
    assert len(slurm.calls("sbatch")) == 4
    assert call("status", out).returncode == 4

    slurm.answer("102_3|PENDING||Priority")  # the others and the merge are gone
    fourth = call(*words)
    assert fourth.stdout == (
        "job 104: shards 1-2 of 3; not in the array: 1 queued or running\n"
        f"job 105: merge, when they have ended\n{watch}"
    )
    assert slurm.calls("sbatch")[-1][:-1] == ["--parsable", "--dependency=afterany:102:104"]

    slurm.answer()  # all are gone: the number of shards may change
    fifth = call(*words_of_submit(scp, out, jobs=2))
    assert fifth.stdout == f"job 106: shards 1-2 of 2\njob 107: merge, when they have ended\n{watch}"
    status = call("status", out)
    assert status.returncode == 75
    assert status.stdout.splitlines()[-1].endswith(
        f"not running: job 106_2 is gone, see {out}/log/slurm-106_2.log; run e2v submit again"
    )


def test_complete_shards_are_not_submitted(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    """The merge names the missing one, and its log."""
    slurm.fork_e2v()
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    words = words_of_submit(scp, out, "--sbatch-arg=--hold")
    assert call(*words).returncode == 0
    assert slurm.run(100, 1, 3) == [0, 0]

    assert slurm.run(101) == [1]

    log = out / "log" / "slurm-101-merge.log"
    left = left_of(out, 3)
    assert (left[0], left[2]) == (0, 0)
    assert left[1] > 0
    assert log.read_text() == (
        f"e2v: {out} is not complete: {left[1]} of 9 utterances are left, of shards 2/3 "
        f"({left[1]} left, see {out}/log/slurm-100_2.log); run the same e2v submit command again\n"
    )
    dry = call(*words, "--dry-run")
    assert dry.stdout.startswith("# shards 2 of 3; not in the array: 2 complete\njob=$(sbatch ")
    assert "#SBATCH --array=2\n" in (out / "slurm/shards.sh").read_text()
    again = call(*words)
    assert again.stdout.startswith(
        "job 102: shards 2 of 3; not in the array: 2 complete\njob 103: merge, when they have ended\n"
    )
    assert (
        call("status", out)
        .stdout.splitlines()[-2]
        .endswith(f"not running: job 102_2 is gone, see {out}/log/slurm-102_2.log; run e2v submit again")
    )


def left_of(out: Path, count: int) -> list[int]:
    """Return the utterances left of each shard, from the table of ``status``."""
    from e2v_cli.commands.status import describe_run

    rows = [line.split() for line in describe_run(out).text.splitlines()[3:]]
    assert len(rows) == count
    return [int(row[3]) for row in rows]


def test_merge_is_submitted_alone_if_all_shards_are_complete(
    slurm: Slurm, call: Call, finished: Path, tmp_path: Path
) -> None:
    """No utterance is left in a moved folder, but its lists hold old paths."""
    out = tmp_path / "moved"
    shutil.copytree(finished / "out", out)
    words = words_of_submit(finished / "wav.scp", out)

    assert call(*words, "--dry-run").stdout == f"sbatch {out}/slurm/merge.sh\n"
    done = call(*words)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"job 100: merge, when they have ended\ne2v status {out} --watch\n"
    assert slurm.calls("sbatch") == [["--parsable", f"{out}/slurm/merge.sh"]]
    slurm.answer("100|PENDING||Priority")
    status = call("status", out)
    assert status.returncode == 4
    assert status.stdout.startswith(f"{out}: not merged yet: job 100 will do it\n")
    assert call(*words).stdout.startswith("nothing to submit: ")
    assert len(slurm.calls("sbatch")) == 1


def test_retry_failed_submits_failures_again(slurm: Slurm, call: Call, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    assert call("merge", out, "--max-failures", "1").returncode == 0  # its folder is another
    words = words_of_submit(finished / "wav.scp", out)

    assert call(*words).stdout == f"{out} is complete: nothing to submit\n"
    assert call(*words, "--dry-run").stdout == f"{out} is complete: nothing to submit\n"
    done = call(*words, "--retry-failed", "--dry-run")

    assert done.returncode == 0
    assert re.match(r"# shards [123] of 3; not in the array: 2 complete\n", done.stdout)
    assert " --retry-failed --offline --shard " in (out / "slurm/shards.sh").read_text()
    assert slurm.calls("sbatch") == []


def test_retry_failed_without_failures_submits_nothing(slurm: Slurm, call: Call, tmp_path: Path, e2v: E2v) -> None:
    scp, out = write_scp(tmp_path, 2), tmp_path / "out"
    assert e2v("predict", scp, "-m", "sample", "-o", out, "-j", "1").returncode == 0

    done = call(*words_of_submit(scp, out, "--retry-failed"))

    assert (done.returncode, done.stdout) == (0, f"{out} is complete: nothing to submit\n")
    assert slurm.calls("sbatch") == []


def test_grown_list_is_submitted_for_new_utterances(call: Call, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)

    done = call(*words_of_submit(write_scp(tmp_path, 11), out, jobs=5))

    assert done.stdout.startswith(
        "job 100: shards 1-3 of 5; not in the array: 2 without utterances\njob 101: merge, when they have ended\n"
    )
    assert left_of(out, 5) == [1, 1, 1, 0, 0]
    assert call("status", out).stdout.splitlines()[1].startswith("11 utterances: 8 done, 0 failed, 3 left")


def test_different_run_is_refused_before_submission(slurm: Slurm, call: Call, finished: Path, tmp_path: Path) -> None:
    out, folder = finished / "out", tmp_path / "data"
    folder.mkdir()
    scp = write_scp(folder, 3)
    hint = "Choose another -o, or delete that run with --overwrite\n"

    frames = call(*words_of_submit(finished / "wav.scp", out, "--granularity", "frame", "--embeddings", "ark"))
    window = call(*words_of_submit(finished / "wav.scp", out, "--window", "30", "--dry-run"))
    resampler = call(*words_of_submit(finished / "wav.scp", out, "--resampler", "torchaudio"))
    corpus = call(*words_of_submit(scp, folder))

    assert (frames.returncode, window.returncode, resampler.returncode, corpus.returncode) == (4, 4, 4, 4)
    other = "embeddings was none, is ark"
    assert frames.stderr == f"e2v: {out} holds a different run: granularity was utterance, is frame; {other}. {hint}"
    assert window.stderr == f"e2v: {out} holds a different run: window was 60.0, is 30.0. {hint}"
    assert resampler.stderr == f"e2v: {out} holds a different run: resampler was soxr, is torchaudio. {hint}"
    assert corpus.stderr.startswith(f"e2v: {folder} is a Kaldi data directory, ")
    assert os.listdir(folder) == ["wav.scp"]
    assert slurm.calls("sbatch") == []


def test_missing_archives_are_found_before_submission(slurm: Slurm, call: Call, tmp_path: Path, e2v: E2v) -> None:
    scp, out = write_scp(tmp_path, 1), tmp_path / "out"
    assert e2v("predict", scp, "-m", "sample", "-o", out, "-j", "1", "--embeddings", "ark").returncode == 0
    (archive,) = out.glob("embeddings.*.ark")
    archive.unlink()

    done = call(*words_of_submit(write_scp(tmp_path, 2), out, "--embeddings", "ark"))

    message = f"e2v: {archive} is missing, but the journal lists it: restore it, or use --overwrite\n"
    assert (done.returncode, done.stderr) == (1, message)
    assert slurm.calls("sbatch") == []


# -- costs -------------------------------------------------------------------------------------------------------------


def read_costs(out: Path) -> list[float]:
    (path,) = out.glob("input.*.costs")
    return [float(cost) for cost in np.fromfile(path, dtype="<f4")]


def test_shards_are_balanced_by_the_sizes_of_files(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    """Paths are relative to the list; the content of files is not read yet."""
    folder = tmp_path / "data"
    (folder / "wav").mkdir(parents=True)
    sizes = [800, 100, 100, 100, 100, 100, 100, 100, 100, 400]
    for number, size in enumerate(sizes):
        (folder / "wav" / f"{number}.wav").write_bytes(bytes(size))
    scp = folder / "wav.scp"
    scp.write_text("".join(f"utt{number} wav/{number}.wav\n" for number in range(len(sizes))))
    out = tmp_path / "out"

    assert call(*words_of_submit(scp, out)).returncode == 0

    assert read_costs(out) == sizes
    assert left_of(out, 3) == [1, 3, 6]
    (folder / "wav" / "0.wav").write_bytes(b"")  # saved costs stay
    slurm.answer("100_1|RUNNING|n1|None")
    assert call(*words_of_submit(scp, out)).stdout.startswith("job 102: shards 2-3 of 3; not in")
    assert read_costs(out) == sizes


def test_shards_are_balanced_by_known_durations(call: Call, tmp_path: Path) -> None:
    keys = [line.split()[0] for line in LINES[:4]]
    timed = tmp_path / "timed"
    timed.mkdir()
    write_scp(timed, 4)
    (timed / "utt2dur").write_text(f"{keys[1]} 30\n{keys[2]} 1.5\n{keys[3]} 6\n")
    cut = tmp_path / "cut"
    cut.mkdir()
    write_scp(cut, 1)
    (cut / "segments").write_text(f"a {keys[0]} 0 0.25\nb {keys[0]} 0.25 1.25\n")

    assert call(*words_of_submit(timed, tmp_path / "out1", jobs=2)).returncode == 0
    assert call(*words_of_submit(cut, tmp_path / "out2", jobs=2)).stdout.startswith("job 102: shards 1 of 2; not in")

    assert read_costs(tmp_path / "out1") == [12.5, 30, 1.5, 6]
    assert left_of(tmp_path / "out1", 2) == [1, 3]
    assert read_costs(tmp_path / "out2") == [0.25, 1]


def test_sizes_of_a_long_list_are_not_measured(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2v_cli.commands.submit.MEASURED_FILES", 8)

    assert call(*words_of_submit(write_scp(tmp_path, 9), tmp_path / "out1")).returncode == 0
    assert call(*words_of_submit(write_scp(tmp_path, 8), tmp_path / "out2")).returncode == 0

    assert not list((tmp_path / "out1").glob("input.*.costs"))
    assert left_of(tmp_path / "out1", 3) == [3, 3, 3]
    assert len(read_costs(tmp_path / "out2")) == 8


# -- status ------------------------------------------------------------------------------------------------------------


def test_watch_goes_on_after_a_lost_job_until_all_have_ended(
    slurm: Slurm, call: Call, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    assert call(*words_of_submit(write_scp(tmp_path, 11), out, jobs=2)).returncode == 0
    alive = ["100_1|PENDING||Resources", "100_2|RUNNING|n1|None", "101|PENDING||Dependency"]
    lost = "100_1|OUT_OF_MEMORY|n1|None"
    answers = [[lost, *alive[1:]], [lost, alive[2]], [lost]]
    slurm.answer(*alive)
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        slurm.answer(*answers.pop(0))

    monkeypatch.setattr(main, "time", SimpleNamespace(sleep=sleep))
    assert call("status", out).returncode == 4
    done = call("status", out, "--watch")

    assert (done.returncode, waits, answers) == (75, [10, 10, 10], [])
    assert done.stdout.count(f"{out}: in progress\n") == 3
    why = f"not running: job 100_1 is OUT_OF_MEMORY, see {out}/log/slurm-100_1.log; run e2v submit again\n"
    assert done.stdout.count(why) == 3
    assert call("status", finished / "out", "--watch").returncode == 0


def test_sacct_is_asked_for_jobs_unknown_to_squeue(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    assert call(*words_of_submit(scp, out, jobs=2)).returncode == 0
    slurm.answer("100_2|TIMEOUT|n1|None", "100_1|RUNNING|n1|None", command="sacct")
    slurm.answer("100_1|CANCELLED|n1|None")

    status = call("status", out)

    assert status.returncode == 75
    assert [re.findall("job (.*?),", line) for line in status.stdout.splitlines()[3:]] == [
        ["100_1 is CANCELLED"],
        ["100_2 is TIMEOUT"],
    ]
    (asked,) = slurm.calls("squeue")[-1:]
    assert asked[-1] == "--jobs=100,101"


# -- several at once, and killed ---------------------------------------------------------------------------------------


def test_concurrent_submit_is_refused_and_killed_one_is_repeated(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    hold = slurm.folder / "hold.shards.sh"
    hold.touch()
    first = start_e2v(*words_of_submit(scp, out), PATH=slurm.path)
    wait_until((slurm.folder / "held").exists)

    second = call(*words_of_submit(scp, out))

    assert (second.returncode, second.stdout) == (4, "")
    assert second.stderr.startswith(f"e2v: {out}: another e2v is running there (process {first.pid} on ")
    assert slurm.calls("sbatch") == []
    first.kill()
    first.communicate()
    hold.unlink()
    wait_until(lambda: slurm.calls("sbatch"))  # the job was accepted, but not recorded
    third = call(*words_of_submit(scp, out))
    assert third.stdout.startswith("job 101: shards 1-3 of 3\njob 102: merge, when they have ended\n")
    assert read_notes(out) == {"101": ("101", [1, 2, 3], 3, "102")}


def test_submit_killed_between_its_jobs_is_continued(slurm: Slurm, call: Call, tmp_path: Path) -> None:
    scp, out = write_scp(tmp_path, 9), tmp_path / "out"
    hold = slurm.folder / "hold.merge.sh"
    hold.touch()
    first = start_e2v(*words_of_submit(scp, out), PATH=slurm.path)
    wait_until((slurm.folder / "held").exists)
    os.killpg(first.pid, signal.SIGKILL)  # with its sbatch
    first.communicate()
    hold.unlink()
    assert read_notes(out) == {"100": ("100", [1, 2, 3], 3, "")}
    slurm.answer(*(f"100_{shard}|PENDING||Priority" for shard in (1, 2, 3)))

    second = call(*words_of_submit(scp, out))

    assert second.stdout.startswith("job 101: merge, when they have ended\n")
    assert slurm.calls("sbatch")[-1][:-1] == ["--parsable", "--dependency=afterany:100"]


# -- a shard by its place among tasks ----------------------------------------------------------------------------------


def test_other_kind_of_device_is_refused_before_submission(
    slurm: Slurm, call: Call, finished: Path, tmp_path: Path
) -> None:
    """Unless the nodes decide it, whose jobs then refuse it themselves."""
    scp, out = finished / "wav.scp", tmp_path / "out"
    shutil.copytree(finished / "out", out)
    more = write_scp(tmp_path, 11)
    was = f"e2v: {out} holds a different run: device was cpu, is cuda; batch-seconds was 10.0, is 300.0. "

    for options in (("--gpus", "1"), ("--device", "cuda")):
        refused = call(*words_of_submit(scp, out, *options))
        assert (refused.returncode, refused.stdout) == (4, "")
        assert refused.stderr.startswith(f"{was}Go on with --mix-devices, ")
    assert slurm.calls("sbatch") == []

    allowed: tuple[tuple[str, ...], ...] = (("--gpus", "1", "--mix-devices"), (), ("--device", "cpu", "--gpus", "1"))
    for words in allowed:
        done = call(*words_of_submit(more, out, *words, "--dry-run"))
        assert done.returncode == 0, done.stderr
        assert ("--mix-devices" in (out / "slurm/shards.sh").read_text()) == ("--mix-devices" in words)


def test_changed_audio_is_submitted_only_to_be_computed_again(
    slurm: Slurm, call: Call, finished: Path, tmp_path: Path
) -> None:
    out, scp = tmp_path / "out", tmp_path / "wav.scp"
    shutil.copytree(finished / "out", out)
    lines = (finished / "wav.scp").read_text().splitlines(keepends=True)
    assert call("merge", out, "--max-failures", "1").returncode == 0  # its folder is another
    first, second = (line.split()[1] for line in lines[:2])
    scp.write_text("".join([lines[0].replace(first, second), *lines[1:]]))
    of_first = f"for 1 of the 8 utterances that are done: {lines[0].split()[0]}. "

    refused = call(*words_of_submit(scp, out))
    assert refused.returncode == 4
    assert refused.stderr.startswith(f"e2v: {out}: the list names other audio now {of_first}")
    kept = call(*words_of_submit(scp, out, "--keep-changed"))
    assert (kept.returncode, kept.stdout) == (0, f"{out} is complete: nothing to submit\n")

    again = call(*words_of_submit(scp, out, "--recompute-changed", jobs=2))
    assert again.returncode == 0
    assert re.match(r"job 100: shards [12] of 2; not in the array: 1 complete\n", again.stdout)
    assert " --recompute-changed " in slurm.script(100)
    status = call("status", out).stdout.splitlines()
    assert status[0] == f"{out}: not complete"
    assert status[1].startswith("9 utterances: 7 done, 1 failed, 1 left")
    merged = call("merge", out)
    assert merged.returncode == 1
    assert "is not complete: 1 of 9 utterances are left" in merged.stderr


def test_shard_is_known_by_its_place_in_an_array(tmp_path: Path, e2v: E2v) -> None:
    """An option, or a variable of e2v, takes precedence."""
    scp = write_scp(tmp_path, 3)
    array = {"ID": "4", "COUNT": "2", "MIN": "2", "MAX": "4", "STEP": "2"}
    variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}

    by_place = e2v("predict", scp, "-m", "sample", "-o", tmp_path / "out", "-j", "1", **variables)
    by_variable = e2v("predict", scp, "-m", "sample", "-j", "1", E2V_SHARD="1/3", **variables)

    assert by_place.returncode == by_variable.returncode == 0
    assert by_place.stderr.startswith("e2v: shard 2/2, by its place among the tasks of Slurm\n")
    assert [path.name for path in (tmp_path / "out").glob("journal.*")] == ["journal.2-of-2.1"]
    assert "by its place" not in by_variable.stderr
    assert by_variable.stdout.count("\n") == 2


def test_uneven_part_of_an_array_is_refused(tmp_path: Path, e2v: E2v) -> None:
    array = {"ID": "3", "COUNT": "2", "MIN": "3", "MAX": "7", "STEP": "1"}
    variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}

    done = e2v("predict", write_scp(tmp_path, 3), "-m", "sample", "-o", tmp_path / "out", **variables)

    assert done.returncode == 2
    assert done.stderr == (
        "e2v: SLURM_ARRAY_TASK_ID is 3, but the 2 elements of the array from 3 to 7 are not evenly spaced: "
        "choose the part with --shard I/N\n"
    )
    assert not (tmp_path / "out").exists()
