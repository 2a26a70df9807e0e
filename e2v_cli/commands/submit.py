"""``e2v submit``: check everything here, once; then submit a job array, and a job that merges, or write their scripts.

Jobs go to Slurm by plain ``sbatch`` scripts that stay in ``OUT/slurm``. A library like submitit would pickle a Python
function and run it in the job: nothing that a user could read, change or submit by hand.
"""

from __future__ import annotations

import logging
import math
import os
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
from e2v_cli.commands.offline import read_earlier_results, read_local_corpus
from e2v_cli.commands.predict import find_corpus_and_model
from e2v_cli.corpus.blocks import estimate_costs
from e2v_cli.corpus.corpus import STDIN, Corpus
from e2v_cli.corpus.inputs import is_only_here
from e2v_cli.errors import ModelError, OutputConflictError, OutputError, SlurmError, UsageError
from e2v_cli.journal.folder import RunFolder, plan_blocks
from e2v_cli.journal.history import History
from e2v_cli.journal.ids import read_costs, save_costs
from e2v_cli.journal.journal import DONE, LEFT
from e2v_cli.journal.locks import locked
from e2v_cli.models.catalog import find_published
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.models.weights import prepare_weights
from e2v_cli.network.config import NetworkConfig
from e2v_cli.options import JobOptions, ModelRequest, PredictOptions, ResultOptions, RunOptions, Shard, make_fingerprint
from e2v_cli.records import SAMPLE_RATE, Utterance
from e2v_cli.results.publish import open_run_folder
from e2v_cli.system.files import exists, published, remove_drafts
from e2v_cli.system.process import now, own_command
from e2v_cli.workers.devices import kind_of

logger = logging.getLogger(__name__)

MEASURED_FILES = 1_000_000
"""Number of files above which their sizes are not read: in shards of thousands of files, sizes average out."""

STATS_AT_ONCE = 32
"""Threads that ask a file system how large files are."""

_CHUNK = 1024
"""Files whose sizes one thread reads at a time."""

ROW_BYTES = 500
"""Room for a journal's line and a row of each table."""


@dataclass(frozen=True)
class SubmitOptions:
    """The options of ``e2v submit``."""

    run: PredictOptions
    words: tuple[str, ...]
    """Words of the ``e2v predict`` command with the options of ``run``, INPUT included."""
    jobs: JobOptions
    resources: Resources


@dataclass(frozen=True)
class _ShardsLeft:
    """The shards of a run that have something left, and the list and costs that they are dealt from."""

    corpus: Corpus
    costs: NDArray[np.float32] | None
    """(utterances,): costs by which the list is dealt to shards; None: all are equal."""
    left: Sequence[int]
    """Numbers of the shards with something left, counted from 1."""
    num_empty: int
    """Shards without any utterance."""
    count: int
    """Number of shards of the run."""

    def save(self, folder: RunFolder) -> None:
        """Write the list and its costs to OUT, so that all jobs deal it alike."""
        folder.save_list(self.corpus)
        if self.costs is not None:
            save_costs(folder.path, self.corpus.digest, self.costs)

    def describe(self, shards: Sequence[int]) -> str:
        """Describe an array of some of these shards, and why others are not in it."""
        others = {
            "without utterances": self.num_empty,
            "complete": self.count - self.num_empty - len(self.left),
            "queued or running": len(self.left) - len(shards),
        }
        why = ", ".join(f"{count} {name}" for name, count in others.items() if count)
        return f"shards {ranges(shards)} of {self.count}" + (f"; not in the array: {why}" if why else "")


def submit(options: SubmitOptions) -> str:
    """Submit what is left of a run, or write the scripts of its jobs, and return the message to the user.

    Raises:
        E2vError: the run would fail, as far as can be seen from here; nothing is submitted then.
    """
    output_dir = _check_options(options)
    if options.jobs.dry_run:
        return _write_jobs(options, output_dir)
    check_commands()
    corpus, model = find_corpus_and_model(options.run)
    device = _expect_device(options) or "cpu"
    fingerprint = make_fingerprint(options.run, prepare_weights(model).sha256, model.labels, device)
    folder = open_run_folder(output_dir, keep_changed=options.run.run.changed == "keep")
    try:
        folder.make()
        with locked(output_dir, "submit"):
            history = folder.guard(fingerprint, corpus, _run_of_jobs(options).run)
            found = _find_shards(options, folder, corpus, model.config, history)
            if found is None:
                return f"{output_dir} is complete: nothing to submit\n"
            found.save(folder)
            return _submit(options, output_dir, found)
    except OSError as error:
        raise OutputError.of(error) from error


def _write_jobs(options: SubmitOptions, output_dir: Path) -> str:
    """Write the scripts of the jobs, without a network, the model or Slurm, and return the commands that submit them.

    OUT is left as a submission leaves it that Slurm refuses: a later one begins there.
    """
    corpus = read_local_corpus(options.run.input)
    config = _find_model_here(options.run.model)
    history = read_earlier_results(_run_of_jobs(options), corpus)
    folder = open_run_folder(output_dir, keep_changed=options.run.run.changed == "keep")
    try:
        if exists(output_dir):
            folder.refresh()
        found = _find_shards(options, folder, corpus, config, history)
        if found is None:
            return f"{output_dir} is complete: nothing to submit\n"
        texts = _format_scripts(options, output_dir, found.left)
        folder.make()
        with locked(output_dir, "submit"):
            found.save(folder)
            array, merge = _write_scripts(output_dir, texts)
    except OSError as error:
        raise OutputError.of(error) from error
    if not found.left:
        return f"sbatch {shlex.quote(str(merge))}\n"
    return (
        f"# {found.describe(found.left)}\n"
        f"job=$(sbatch --parsable {shlex.quote(str(array))}) &&\n"
        f'  sbatch --dependency="afterany:${{job%%;*}}" {shlex.quote(str(merge))}\n'
    )


def _find_model_here(model: ModelRequest) -> NetworkConfig | None:
    """Find the shape of a model, as far as it is known here; warn if jobs, which download nothing, would miss it."""
    try:
        return read_model(model.name, find_model(replace(model, offline=True))).config
    except ModelError as error:
        logger.warning("jobs need the model, and download nothing: %s", error)
    published_model = find_published(model.name)
    return None if published_model is None else published_model.shape


def _run_of_jobs(options: SubmitOptions) -> PredictOptions:
    """Return the options of the first job, for a look at what OUT holds."""
    run = replace(options.run.run, shard=Shard(options.jobs.num_shards, 1))
    device = _expect_device(options)
    if device is None:  # the jobs themselves refuse another kind of device
        return replace(options.run, run=replace(run, mix_devices=True))
    return replace(options.run, run=run, compute=replace(options.run.compute, device=device))


def _find_shards(
    options: SubmitOptions, folder: RunFolder, corpus: Corpus, config: NetworkConfig | None, history: History
) -> _ShardsLeft | None:
    """Find the shards that have something left; None if all is published.

    Raises:
        OutputError: the disk has no space for it; not known for a model whose shape is not.
    """
    is_left = _is_left(options, history.status)
    if folder.is_published(corpus.digest) and not is_left.any():
        return None
    if config is not None:
        _check_room(options.run.results, folder.path, config, corpus, history)
    costs = _find_costs(folder.path, corpus)
    plan, count = plan_blocks(history, corpus, costs), options.jobs.num_shards
    left = np.flatnonzero(plan.count_by_shard(is_left[plan.members], count)) + 1
    sizes = plan.count_by_shard(np.ones(len(plan.members), dtype=np.bool_), count)
    return _ShardsLeft(corpus, costs, left.tolist(), int((sizes == 0).sum()), count)


def _check_options(options: SubmitOptions) -> Path:
    """Check that jobs on other machines could do what was asked for."""
    output_dir = options.run.results.output_dir
    if output_dir is None:
        raise UsageError("e2v submit needs an output folder that all nodes see: add -o OUT")
    given = options.run.input
    rttm = [] if given.segments_rttm is None else [str(given.segments_rttm)]
    for item in filter(is_only_here, [*given.inputs, *rttm]):
        what = "has no standard input" if item == STDIN else "can't read from this process"
        raise UsageError(f"{item}: a job {what}; save the list in a file")
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


def _check_room(
    results: ResultOptions, output_dir: Path, config: NetworkConfig, corpus: Corpus, history: History
) -> None:
    """Check that the disk has space for the rest of the run, as far as its size is known."""
    values = float(config.embed_dim * (len(results.layers) or 1))
    if results.embeddings == "none":
        values = 0.0
    elif results.granularity == "frame":
        known = corpus.durations[~np.isnan(corpus.durations)]
        seconds = float(known.mean()) if len(known) else 0.0
        values *= seconds * SAMPLE_RATE / config.hop * (0.25 if results.compress else 1)
    num_left = int((history.status != DONE).sum())
    needed = num_left * (values * 4 + ROW_BYTES)
    nearest = next(folder for folder in (output_dir, *output_dir.absolute().parents) if exists(folder))
    free = shutil.disk_usage(nearest).free
    if needed > free:
        raise OutputError(
            f"{output_dir}: {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free; choose another -o"
        )


def _is_left(options: SubmitOptions, status: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which utterances jobs would compute: (utterances,)."""
    is_left: NDArray[np.bool_] = (status != DONE) if options.run.run.retry_failed else (status == LEFT)
    return is_left


def _submit(options: SubmitOptions, output_dir: Path, found: _ShardsLeft) -> str:
    """Submit the shards that have something left and are in no queue, and the job that merges.

    Raises:
        SlurmError: Slurm refuses.
        OutputConflictError: there are jobs of a submission with another number of shards.
    """
    submissions = read_submissions(output_dir)
    states = ask_states([job for item in submissions for job in (item.array, item.merge) if job])
    busy = _find_busy(output_dir, submissions, states, found.count)
    shards = [shard for shard in found.left if shard not in busy]
    merging = [item.merge for item in submissions if item.merge in states and states[item.merge].is_alive]
    if not shards and merging:
        return f"nothing to submit: the shards left are queued or running\n{_next_move(output_dir)}"
    array, merge = _write_scripts(output_dir, _format_scripts(options, output_dir, shards))
    said = ""
    submission = Submission("", tuple(shards), found.count, "", found.corpus.digest, now("microseconds"))
    if shards:
        submission = replace(submission, array=submit_job(array))
        note_submission(output_dir, submission)
        said = f"job {submission.array}: {found.describe(shards)}\n"
    for job in merging:  # it would not wait for those
        cancel_job(job)
    waits_for = [job for job in dict.fromkeys([*busy.values(), submission.array]) if job]
    try:
        submission = replace(submission, merge=submit_job(merge, waits_for))
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


def _format_scripts(options: SubmitOptions, output_dir: Path, shards: Sequence[int]) -> tuple[str, str]:
    """Format the scripts of the array, empty without shards, and of the job that merges."""
    array, merge = _make_jobs(options, output_dir)
    count, limit = options.jobs.num_shards, options.jobs.array_limit
    return write_array_script(array, shards, count, limit) if shards else "", write_script(merge)


def _write_scripts(output_dir: Path, texts: tuple[str, str]) -> tuple[Path, Path]:
    """Write the scripts of the array and the merge into OUT, where their logs will be, too, and return their paths."""
    folder = output_dir.absolute() / FOLDER  # so that no path begins with a dash
    folder.mkdir(exist_ok=True)
    remove_drafts(folder / "*")
    (output_dir / "log").mkdir(exist_ok=True)
    array, merge = paths = folder / "shards.sh", folder / "merge.sh"
    for path, text in zip(paths, texts, strict=True):
        if text:
            with published(path) as file:
                file.write(os.fsencode(text))
    return array, merge


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
        resources=options.resources.of_merge(),
        variables=variables,
    )
    return predict, merge


def _next_move(output_dir: Path) -> str:
    name = str(output_dir)
    return f"{shlex.join(['e2v', 'status', f'./{name}' if name.startswith('-') else name, '--watch'])}\n"
