"""``e2v submit``: check everything here, once; then submit a job array, and a job that merges.

Jobs go to Slurm by plain ``sbatch`` scripts that stay in ``OUT/slurm``. A library like submitit would pickle a Python
function and run it in the job: nothing that a user could read, change or submit by hand.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.cluster.slurm import (
    CACHE_VARIABLE,
    JobState,
    Resources,
    SlurmJob,
    ask_states,
    cancel_job,
    check_commands,
    ranges,
    submit_job,
    write_array_script,
    write_script,
)
from e2v_cli.cluster.submissions import FOLDER, Submission, note_submission, read_submissions
from e2v_cli.commands.predict import find_corpus_and_model
from e2v_cli.corpus.blocks import BlockPlan, estimate_costs
from e2v_cli.corpus.corpus import STDIN, Corpus
from e2v_cli.corpus.inputs import is_only_here
from e2v_cli.errors import OutputConflictError, OutputError, SlurmError, UsageError
from e2v_cli.journal.folder import RunFolder, plan_blocks
from e2v_cli.journal.history import History
from e2v_cli.journal.ids import read_costs, save_costs
from e2v_cli.journal.journal import DONE, LEFT
from e2v_cli.journal.locks import locked
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import prepare_weights
from e2v_cli.options import Fingerprint, JobOptions, PredictOptions, ResultOptions, RunOptions, Shard, make_fingerprint
from e2v_cli.records import SAMPLE_RATE, Utterance
from e2v_cli.results.publish import open_run_folder
from e2v_cli.system.files import exists, published, remove_drafts
from e2v_cli.system.process import now, own_command
from e2v_cli.workers.devices import kind_of

MEASURED_FILES = 1_000_000
"""With more files than this, their sizes don't matter: every shard has thousands of them."""

MERGE_MEMORY = "4G"
"""Of the job that merges: ten million lines take a tenth of it."""

STATS_AT_ONCE = 32
"""Threads that ask a file system how large files are."""

_CHUNK = 1024
"""Files that a thread asks for."""

ROW_BYTES = 500
"""Room for a journal's line and a row of each table."""


@dataclass(frozen=True)
class SubmitOptions:
    """The options of ``e2v submit``."""

    run: PredictOptions
    words: tuple[str, ...]
    """The same as the words of an ``e2v predict`` command, INPUT and all."""
    jobs: JobOptions
    resources: Resources


def submit(options: SubmitOptions) -> str:
    """Submit what is left of a run, and return the message to the user.

    Raises:
        E2vError: the run would fail, as far as can be seen from here; nothing is submitted then.
    """
    output_dir = _check_options(options)
    if not options.jobs.dry_run:
        check_commands()
    corpus, model = find_corpus_and_model(options.run)
    device = _expect_device(options) or "cpu"
    fingerprint = make_fingerprint(options.run, prepare_weights(model).sha256, model.labels, device)
    folder = open_run_folder(output_dir, keep_changed=options.run.run.changed == "keep")
    try:
        if options.jobs.dry_run:
            return _submit_left(options, folder, corpus, model, fingerprint)
        folder.make()
        with locked(output_dir, "submit"):
            return _submit_left(options, folder, corpus, model, fingerprint)
    except OSError as error:
        raise OutputError.of(error) from error


def _submit_left(
    options: SubmitOptions, folder: RunFolder, corpus: Corpus, model: Model, fingerprint: Fingerprint
) -> str:
    """Find the shards that have something left, and submit them, or show their scripts."""
    output_dir, num_shards, dry_run = folder.path, options.jobs.num_shards, options.jobs.dry_run
    if dry_run and not exists(output_dir):
        history = History(corpus.index, corpus.digest, corpus.checksums)
    else:
        if dry_run:
            folder.refuse_foreign_files()
        run = replace(options.run.run, shard=Shard(num_shards, 1))
        if _expect_device(options) is None:  # the jobs themselves refuse another kind of device
            run = replace(run, mix_devices=True)
        history = folder.guard(fingerprint, corpus, run)
        if folder.is_published(corpus.digest) and not _is_left(options, history.status).any():
            return f"{output_dir} is complete: nothing to submit\n"
    _check_room(options.run.results, output_dir, model, corpus, history)
    costs = _find_costs(output_dir, corpus)
    left = _find_left(options, history, plan_blocks(history, corpus, costs))
    if dry_run:
        return _show(options, output_dir, left)
    folder.save_list(corpus)
    if costs is not None:
        save_costs(output_dir, corpus.digest, costs)
    return _submit(options, output_dir, corpus.digest, left)


def _check_options(options: SubmitOptions) -> Path:
    """Check that jobs on other machines could do what was asked for."""
    output_dir = options.run.results.output_dir
    if output_dir is None:
        raise UsageError("e2v submit needs an output folder that all nodes see: add -o OUT")
    for item in filter(is_only_here, options.run.input.inputs):
        what = "has no standard input" if item == STDIN else "can't read from this process"
        raise UsageError(f"{item}: a job {what}; save the list in a file")
    for option in options.resources.others:
        if not re.fullmatch(r"--[a-z-]+(=.*)?", option, re.DOTALL):
            raise UsageError(f"--sbatch-arg {option}: write it as one word, like --constraint=ib")
        if option.partition("=")[0] in ("--array", "--output"):
            raise UsageError(f"--sbatch-arg {option}: e2v submit sets it; leave it out")
    return output_dir


def _expect_device(options: SubmitOptions) -> str | None:
    """Return the kind of device that jobs will have, cpu or cuda; None if that is for their nodes to tell."""
    device = options.run.compute.device
    if device != "auto":
        return kind_of(device)
    return "cuda" if options.resources.gpus else None


def _find_costs(output_dir: Path, corpus: Corpus) -> NDArray[np.float32] | None:
    """Find the cost of each utterance: that saved in OUT, else its duration in lists, else the size of its file."""
    costs = read_costs(output_dir, corpus)
    if costs is not None:
        return costs
    sizes = corpus.durations
    if np.isnan(sizes).all() and len(corpus) <= MEASURED_FILES:
        sizes = _measure_files(corpus)
    return estimate_costs(sizes)


def _measure_files(corpus: Corpus) -> NDArray[np.float64]:
    """Ask for the sizes of all files: (utterances,) bytes, NaN if there is no file."""

    def measure(first: int) -> list[float]:
        utterances = (corpus[index] for index in range(first, min(first + _CHUNK, len(corpus))))
        return [_measure_file(utterance) for utterance in utterances]

    with ThreadPoolExecutor(STATS_AT_ONCE) as pool:
        sizes = chain.from_iterable(pool.map(measure, range(0, len(corpus), _CHUNK)))
        return np.fromiter(sizes, dtype=np.float64, count=len(corpus))


def _measure_file(utterance: Utterance) -> float:
    for folder in ("", utterance.folder):
        with suppress(OSError, ValueError):
            return float(os.stat(os.path.join(folder, utterance.source)).st_size)
    return math.nan


def _check_room(results: ResultOptions, output_dir: Path, model: Model, corpus: Corpus, history: History) -> None:
    """Check that the disk has space for the rest of the run, as far as its size is known."""
    values = float(model.config.embed_dim)
    if results.embeddings == "none":
        values = 0.0
    elif results.granularity == "frame":
        known = corpus.durations[~np.isnan(corpus.durations)]
        seconds = float(known.mean()) if len(known) else 0.0
        values *= seconds * SAMPLE_RATE / model.config.hop * (0.25 if results.compress else 1)
    num_left = int((history.status != DONE).sum())
    needed = num_left * (values * 4 + ROW_BYTES)
    place = next(folder for folder in (output_dir, *output_dir.absolute().parents) if exists(folder))
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"{output_dir}: {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free; choose another -o"
        )


def _find_left(options: SubmitOptions, history: History, plan: BlockPlan) -> list[int]:
    """Find the shards that have something left."""
    left = _is_left(options, history.status[plan.members])
    return [int(place) + 1 for place in np.flatnonzero(plan.count_by_shard(left, options.jobs.num_shards))]


def _is_left(options: SubmitOptions, status: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which utterances jobs would compute: (utterances,)."""
    is_left: NDArray[np.bool_] = (status != DONE) if options.run.run.retry_failed else (status == LEFT)
    return is_left


def _show(options: SubmitOptions, output_dir: Path, shards: Sequence[int]) -> str:
    """Show the scripts that would be submitted."""
    array, merge = _make_jobs(options, output_dir)
    last = write_script(merge)
    if not shards:
        return last
    first = write_array_script(array, shards, options.jobs.num_shards, options.jobs.array_limit)
    return f"{first}\n# Then, when all of them have ended:\n\n{last}"


def _submit(options: SubmitOptions, output_dir: Path, input_sha256: str, left: Sequence[int]) -> str:
    """Submit the shards that have something left and are in no queue, and the job that merges.

    Raises:
        SlurmError: Slurm refuses.
        OutputConflictError: there are jobs of a submission with another number of shards.
    """
    submissions = read_submissions(output_dir)
    states = ask_states([job for item in submissions for job in (item.array, item.merge) if job])
    busy = _find_busy(output_dir, submissions, states, options.jobs.num_shards)
    shards = [shard for shard in left if shard not in busy]
    merging = [item.merge for item in submissions if item.merge in states and states[item.merge].is_alive]
    if not shards and merging:
        return f"nothing to submit: the shards left are queued or running\n{_next_move(output_dir)}"
    array, merge = _make_jobs(options, output_dir)
    folder = output_dir.absolute() / FOLDER  # so that no path begins with a dash
    folder.mkdir(exist_ok=True)
    remove_drafts(folder / "*")
    (output_dir / "log").mkdir(exist_ok=True)
    said = ""
    submission = Submission("", tuple(shards), options.jobs.num_shards, "", input_sha256, now("microseconds"))
    if shards:
        script = write_array_script(array, shards, options.jobs.num_shards, options.jobs.array_limit)
        submission = replace(submission, array=submit_job(_keep(folder / "shards.sh", script)))
        note_submission(output_dir, submission)
        said = f"job {submission.array}: shards {ranges(shards)} of {options.jobs.num_shards}\n"
    for job in merging:  # it would not wait for those
        cancel_job(job)
    waits_for = [job for job in dict.fromkeys([*busy.values(), submission.array]) if job]
    try:
        submission = replace(submission, merge=submit_job(_keep(folder / "merge.sh", write_script(merge)), waits_for))
    except SlurmError as error:
        raise SlurmError(f"{error}. {said}When it has ended: e2v merge {output_dir}") from None
    note_submission(output_dir, submission)
    return f"{said}job {submission.merge}: merge, when they have ended\n{_next_move(output_dir)}"


def _find_busy(
    output_dir: Path, submissions: Sequence[Submission], states: Mapping[str, JobState], num_shards: int
) -> dict[int, str]:
    """Find shards that are in the queue or at work already, and the array of each.

    Raises:
        OutputConflictError: they are those of another number of shards.
    """
    busy = {}
    for item in submissions:
        for shard in item.shards:
            job = states.get(f"{item.array}_{shard}")
            if job is not None and job.is_alive:
                busy[shard] = item.array
                if item.count != num_shards:
                    raise OutputConflictError(
                        f"{output_dir}: job {item.array} of {item.count} shards is queued or running; "
                        f"use --jobs {item.count}, or cancel it first: scancel {item.array}"
                    )
    return busy


def _make_jobs(options: SubmitOptions, output_dir: Path) -> tuple[SlurmJob, SlurmJob]:
    """Describe the jobs of the shards, and the job that merges them."""
    folder = output_dir.resolve()
    here = Path.cwd()
    log = str(folder / "log").replace("%", "%%")
    variables = {name: value for name, value in os.environ.items() if name == CACHE_VARIABLE}
    allowed = options.run.run.max_failures
    limit = () if allowed == RunOptions.max_failures else ("--max-failures", allowed.word)
    predict = SlurmJob(
        name=f"e2v-{folder.name}",
        words=(*own_command(), "predict", *options.words, "--offline"),
        folder=here,
        log=f"{log}/slurm-%A_%a.log",
        resources=options.resources,
        variables=variables,
    )
    merge = SlurmJob(
        name=f"e2v-{folder.name}-merge",
        words=(*own_command(), "merge", str(folder), *limit),
        folder=here,
        log=f"{log}/slurm-%j-merge.log",
        resources=replace(options.resources, gpus="", cpus=None, mem=MERGE_MEMORY),
        variables=variables,
    )
    return predict, merge


def _keep(path: Path, script: str) -> Path:
    with published(path) as file:
        file.write(os.fsencode(script))
    return path


def _next_move(output_dir: Path) -> str:
    name = str(output_dir)
    return f"{shlex.join(['e2v', 'status', f'./{name}' if name.startswith('-') else name, '--watch'])}\n"
