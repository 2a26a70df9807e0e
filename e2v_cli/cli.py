"""The command line: options → Settings → run → exit code. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
from collections.abc import Set
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from e2v_cli import __version__
from e2v_cli.errors import EXIT_STOPPED, EXIT_TOO_MANY_FAILURES, E2vError, OutputConflictError
from e2v_cli.options import (
    DEFAULT_WINDOW,
    Channel,
    EmbeddingDtype,
    EmbeddingFormat,
    EngineName,
    Granularity,
    HubName,
    LabelLanguage,
    MaxFailures,
    ModelRequest,
    Precision,
    ProgressStyle,
    Settings,
    Shard,
    TimelineFormat,
)
from e2v_cli.system.logs import log_to_stderr
from e2v_cli.system.signals import StopSignals

if TYPE_CHECKING:
    from e2v_cli.records import Summary


WATCH_SECONDS = 10
"""After so long a run is looked at again."""

MAX_SHARDS = 99_999
"""Into so many a run can be cut: a number of a shard has five digits at most."""

PIPE_SECONDS = 600.0
"""How long a command of a list may take, unless an option says otherwise."""


def _parse_max_failures(_ctx: click.Context, _param: click.Parameter, value: str) -> MaxFailures:
    """Read ``N`` or ``P%``."""
    percent = value.endswith("%")
    try:
        limit = float(value.removesuffix("%")) if percent else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor a percentage like 1%.") from None
    if not 0 <= limit <= (100 if percent else sys.maxsize):
        raise click.BadParameter(f"{value!r} is out of range.")
    return MaxFailures(limit, percent)


def _parse_shard(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Shard | None:
    """Read ``I/N``."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", value)
    if not match or not 1 <= int(match.group(1)) <= int(match.group(2)):
        raise click.BadParameter(f"{value!r} is not a part and a number of parts like 2/3, counted from 1.")
    return Shard(count=int(match.group(2)), index=int(match.group(1)))


def _parse_channel(_ctx: click.Context, _param: click.Parameter, value: str) -> Channel:
    """Read ``mix``, ``split``, a letter, or a number that counts from 1."""
    if value == "mix":
        return "mix"
    if value == "split":
        return "split"
    if re.fullmatch(r"[A-H]", value):
        return ord(value) - ord("A")
    if re.fullmatch(r"[1-9][0-9]{0,2}", value):
        return int(value) - 1
    raise click.BadParameter(f"{value!r} is not mix, split, A, B, or a number counted from 1.")


# What several commands have in common.
_inputs = click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
_model = click.option(
    "-m",
    "--model",
    default="emotion2vec_plus_base",
    show_default=True,
    metavar="NAME|DIR",
    help="A name that e2v models lists, the id of a model on a hub, or a folder in FunASR's format.",
)
_hub = click.option(
    "--hub",
    type=click.Choice(["ms", "hf"]),
    default="ms",
    show_default=True,
    help="Where models come from: ModelScope, or Hugging Face.",
)
_revision = click.option(
    "--revision", metavar="R", help="A branch, tag or commit of the model. [default: what is here, else the newest]"
)
_offline = click.option("--offline", is_flag=True, help="Use only models that are on this machine.")
_device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:0,2",
    help="Where to compute; auto is all GPUs where there are any.",
)
_precision = click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the encoder; fp32 is exact, e2v check tells what the others cost.",
)
_allow_pipes = click.option(
    "--allow-pipes", is_flag=True, help="Run the commands ('… |') of a wav.scp; only for lists that you trust."
)
_granularity = click.option(
    "--granularity",
    type=click.Choice(["utterance", "frame"]),
    default="utterance",
    show_default=True,
    help="What an embedding is: one vector, or a (frames, dim) matrix at 50 Hz.",
)
_channel = click.option(
    "--channel",
    metavar="N|A|B|mix|split",
    callback=_parse_channel,
    default="mix",
    show_default=True,
    help="Which channel of a file with several, counted from 1; split makes an utterance of each (-1, -2).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="e2v", message="%(prog)s %(version)s")
def cli() -> None:
    """Speech emotion recognition with emotion2vec over whole Kaldi-style corpora.

    \b
    Examples:
      e2v predict call.wav -m sample
      e2v predict wav.scp -o exp/emotion --embeddings ark
    """  # noqa: D301 — Click's mark for a paragraph that keeps its lines is a backspace


@cli.command(no_args_is_help=True, context_settings={"auto_envvar_prefix": "E2V"})
@_inputs
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(file_okay=False),
    help="Where results go; a run that was stopped goes on there. [default: rows on standard output]",
)
@_model
@_hub
@_revision
@_offline
@click.option(
    "--labels",
    type=click.Choice(["en", "zh", "both"]),
    default="en",
    show_default=True,
    help="Labels in English, Chinese, or both as in the model's tokens.txt.",
)
@click.option(
    "--engine",
    type=click.Choice(["e2v", "funasr"]),
    default="e2v",
    show_default=True,
    help="Our batched engine, or upstream's own code one utterance after the other.",
)
@_device
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Worker processes: on CPU one thread each, on GPU one a device. [default: all cores, or all GPUs]",
)
@_precision
@_granularity
@click.option(
    "--embeddings",
    type=click.Choice(["none", "npy", "ark", "ark,t"]),
    default="none",
    show_default=True,
    help="Also write embeddings: one .npy per utterance, or Kaldi ark and scp; ark,t is text.",
)
@click.option(
    "--embedding-dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Precision of embeddings; Kaldi archives hold fp16 values as 32-bit floats.",
)
@click.option("--compress", is_flag=True, help="Write matrices in archives in Kaldi's compressed form, at a quarter.")
@click.option(
    "--batch-seconds",
    type=float,
    metavar="S",
    help="Audio in one forward pass. [default: 10 on CPU, 300 on a GPU]",
)
@click.option(
    "--window",
    type=float,
    default=DEFAULT_WINDOW,
    show_default=True,
    metavar="S",
    help="Longer utterances are encoded in windows of at most S seconds, and pooled over all frames.",
)
@click.option(
    "--timeline",
    type=float,
    metavar="HOP",
    help="Also write emotions over time, every HOP seconds, to OUT/timeline.tsv.",
)
@click.option(
    "--timeline-format",
    type=click.Choice(["rttm", "ctm", "audacity", "textgrid"]),
    multiple=True,
    help="Write the timeline in this format, too; may be given several times.",
)
@click.option("--join", is_flag=True, help="Join neighbouring spans of the timeline that have the same label.")
@_channel
@_allow_pipes
@click.option(
    "--pipe-timeout",
    type=float,
    default=PIPE_SECONDS,
    show_default=True,
    metavar="S",
    help="Seconds that such a command may take.",
)
@click.option(
    "--shard",
    metavar="I/N",
    callback=_parse_shard,
    help="Compute only part I of N, counted from 1; the last one to end, or e2v merge, puts them together. "
    "[default: its place in a job array of Slurm's or among the tasks of an srun, else 1/1]",
)
@click.option(
    "--overwrite", is_flag=True, help="Throw away what OUT holds of an earlier run, also of the same command."
)
@click.option("--retry-failed", is_flag=True, help="Try again the utterances that failed in an earlier run.")
@click.option(
    "--max-failures",
    metavar="N|P%",
    callback=_parse_max_failures,
    default="0",
    show_default=True,
    help="How many failed utterances still count as success; more end in exit code 3.",
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show a progress bar. [default: on a terminal; elsewhere a line every 30 s]",
)
@click.option("-q", "--quiet", is_flag=True, help="Only errors on standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Also say which utterances failed, and why.")
@click.pass_obj
def predict(stop: StopSignals, /, **options: Any) -> int:
    """Recognise the emotion of every utterance.

    INPUT is any mix of audio files, folders of them, .scp lists (utt-id path), Kaldi data directories (with segments
    or without), http(s):// URLs of audio, and - for a list on standard input.

    \b
    Examples:
      e2v predict call.wav other.flac -m sample | cut -f 1,2
      e2v predict data/train -m emotion2vec_plus_large -o exp/emotion --embeddings ark
      grep female wav.scp | e2v predict - -m emotion2vec_plus_base -o exp/female
      e2v predict recordings/ -m sample -o out --granularity frame --embeddings npy
      e2v predict data/swbd -m emotion2vec_plus_base -o exp/swbd --allow-pipes
      e2v predict call.wav -m sample -o out --timeline 1 --timeline-format textgrid --join

    \b
    Exit codes:
      0   all done                        3   finished, but more failures than allowed
      1   could not go on                 4   OUT holds a different run, or one in progress
      2   usage error                     75  stopped by a signal: run the same command again

    Every option can be set by environment: E2V_MODEL for --model, and so on.
    """  # noqa: D301
    from e2v_cli.cluster.task import shard_of_task

    by_slurm = None if options["shard"] else shard_of_task(os.environ)
    settings = _read_settings(**(options if by_slurm is None else {**options, "shard": by_slurm}))
    if settings.output_dir is None and sys.stdout is None:
        raise click.UsageError("Standard output is closed, and there is no other place for results: add -o OUT.")
    quiet: bool = options["quiet"]
    log_to_stderr(settings.log_level)
    if by_slurm and not quiet:
        _say(f"shard {by_slurm}, by its place among the tasks of Slurm")
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"  # for the bars of the hubs' packages

    from e2v_cli.commands.predict import run

    try:
        summary = run(settings, stop)
    except BrokenPipeError:  # the reader has what it wanted
        _drop_standard_output()
        return 0
    if not quiet:
        _say(_describe(summary))
    if summary.stopped:
        return EXIT_STOPPED
    if not settings.max_failures.allows(summary.failed, summary.input):
        later = " once all shards are" if settings.shard.count > 1 else ""
        reasons = (
            f"see {settings.output_dir}/failures.tsv{later}; --retry-failed tries again"
            if settings.output_dir
            else "run it without --quiet to see why"
            if quiet
            else "see above"
        )
        _say(f"{summary.failed} failed, more than --max-failures {settings.max_failures} allows: {reasons}")
        return EXIT_TOO_MANY_FAILURES
    return 0


def _read_settings(
    inputs: tuple[str, ...],
    output_dir: str | None,
    model: str,
    hub: HubName,
    revision: str | None,
    offline: bool,
    labels: LabelLanguage,
    engine: EngineName,
    device: str,
    jobs: int | None,
    precision: Precision,
    granularity: Granularity,
    embeddings: EmbeddingFormat,
    embedding_dtype: EmbeddingDtype,
    compress: bool,
    batch_seconds: float | None,
    window: float,
    timeline: float | None,
    timeline_format: tuple[TimelineFormat, ...],
    join: bool,
    channel: Channel,
    allow_pipes: bool,
    pipe_timeout: float,
    shard: Shard | None,
    overwrite: bool,
    retry_failed: bool,
    max_failures: MaxFailures,
    progress: bool | None,
    quiet: bool,
    verbose: bool,
) -> Settings:
    """Read the options of ``e2v predict``.

    Raises:
        UsageError: they contradict each other.
    """
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other.")
    _refuse_empty(output_dir, model, inputs)
    rows_on_terminal = output_dir is None and sys.stdout is not None and sys.stdout.isatty()
    return Settings(
        inputs=inputs,
        output_dir=None if output_dir is None else Path(output_dir),
        model=ModelRequest(model, hub, revision, offline),
        labels=labels,
        engine=engine,
        device=device,
        jobs=jobs,
        precision=precision,
        granularity=granularity,
        embeddings=embeddings,
        embedding_dtype=embedding_dtype,
        compress=compress,
        batch_seconds=batch_seconds,
        window=window,
        timeline=timeline,
        timeline_formats=tuple(sorted(set(timeline_format))),
        join=join,
        channel=channel,
        pipe_seconds=pipe_timeout if allow_pipes else None,
        shard=shard or Shard(1, 1),
        overwrite=overwrite,
        retry_failed=retry_failed,
        max_failures=max_failures,
        progress=_progress_style(progress, quiet, rows_on_terminal),
        log_level=logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING,
    )


@cli.command()
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
def merge(output_dir: Path) -> None:
    """Put the shards of a run together: predictions.tsv and all other final files.

    The last shard to end does it by itself, unless it can't see yet that all others have ended, on another machine
    perhaps. Refuses while parts are missing, and says which.

    \b
    Example:
      e2v merge exp/emotion
    """  # noqa: D301
    from e2v_cli.commands.merge import merge as merge_shards

    log_to_stderr(logging.WARNING)
    summary = merge_shards(output_dir)
    _say(_describe(summary) if summary else f"{output_dir} is complete: nothing to do")


@cli.command()
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--watch", is_flag=True, help=f"Say it again every {WATCH_SECONDS} s, until nobody is at work any more.")
def status(output_dir: Path, watch: bool) -> int:
    """Say how far a run is: done, failed, left, speed, and when it will be ready.

    Of a run that was submitted to Slurm, also which shards wait, and which are lost and why.

    \b
    Examples:
      e2v status exp/emotion
      e2v status exp/emotion --watch && cut -f 2 exp/emotion/predictions.tsv | sort | uniq -c

    \b
    Exit codes:
      0   complete                    4   in progress: somebody is at work, or in the queue
      1   it can't be read            75  something is left, and nobody will do it: run, submit or merge again
    """  # noqa: D301
    from e2v_cli.commands.status import State, describe_run

    codes = {State.COMPLETE: 0, State.UNDER_WAY: OutputConflictError.exit_code, State.WAITING: EXIT_STOPPED}
    log_to_stderr(logging.WARNING)
    while True:
        report = describe_run(output_dir)
        if watch and sys.stdout is not None and sys.stdout.isatty():
            click.clear()
        _print(report.text)
        if not watch or report.state is not State.UNDER_WAY:
            return codes[report.state]
        time.sleep(WATCH_SECONDS)


class _SubmitCommand(click.Command):
    """A command that takes the options of ``e2v predict`` beside its own, and hands them on word by word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Tell the words of both apart, each option with its value, and parse those that are its own."""
        own = _find_options(self, ctx)
        valued = {name for name, is_flag in {**_find_options(predict, ctx), **own}.items() if not is_flag}
        words: list[str] = []
        words_of_predict: list[str] = []
        rest = iter(args)
        for word in rest:
            if word == "--":  # no word behind it is an option, and other options can't be added there
                words_of_predict += [f"./{item}" if item.startswith("-") and item != "-" else item for item in rest]
                break
            name, has_value = _split_option(word, {*own, *valued})
            target = words if name in own else words_of_predict
            target.append(word)
            if name in valued and not has_value:
                value = list(islice(rest, 1))
                if not value and target is words:
                    return super().parse_args(ctx, words)  # which says that there is none
                target += value
        return super().parse_args(ctx, [*words, "--", *words_of_predict] if args else [])


def _find_options(command: click.Command, context: click.Context) -> dict[str, bool]:
    """Find all options of a command, and whether they are flags: ``{"-o": False, "--output-dir": False, …}``."""
    options = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    return {name: option.is_flag for option in options for name in (*option.opts, *option.secondary_opts)}


def _split_option(word: str, known: Set[str]) -> tuple[str, bool]:
    """Say which option a word of the command line is, if any, and whether its value is in the same word.

    Of several letters, ``-qo``, it is the first one that is known.
    """
    if word.startswith("--"):
        name, equals, _ = word.partition("=")
        return name, bool(equals)
    if word.startswith("-"):
        for place, letter in enumerate(word[1:], 2):
            if f"-{letter}" in known:
                return f"-{letter}", place < len(word)
    return "", False


@cli.command(
    cls=_SubmitCommand,
    no_args_is_help=True,
    context_settings={"auto_envvar_prefix": "E2V_SUBMIT"},
    options_metavar="[OPTIONS] [OPTIONS OF PREDICT]",
)
@click.argument("words", metavar="INPUT... -o OUT", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--jobs",
    "num_shards",
    type=click.IntRange(1, MAX_SHARDS),
    envvar="E2V_SUBMIT_JOBS",
    required=True,
    metavar="N",
    help="Into how many jobs to cut it.",
)
@click.option("--partition", default="", metavar="NAME", help="Where they run, as in sbatch.")
@click.option("--gpus", default="", metavar="[TYPE:]N", help="GPUs of each.")
@click.option("--cpus", type=click.IntRange(min=1), metavar="N", help="Cores of each: so many workers, without GPUs.")
@click.option("--mem", default="", metavar="SIZE", help="Memory of each, like 8G.")
@click.option(
    "--time",
    "time_limit",
    envvar="E2V_SUBMIT_TIME",
    default="",
    metavar="LIMIT",
    help="Time limit of each, like 4:00:00.",
)
@click.option("--account", default="", metavar="NAME", help="Who pays, as in sbatch.")
@click.option("--qos", default="", metavar="NAME", help="Quality of service, as in sbatch.")
@click.option("--array-limit", type=click.IntRange(min=1), metavar="N", help="How many may run at once.")
@click.option(
    "--sbatch-arg", multiple=True, metavar="OPTION", help="Any other option of sbatch, like --constraint=ib; repeat it."
)
@click.option("--dry-run", is_flag=True, help="Print the scripts, and submit nothing.")
@click.pass_context
def submit(
    context: click.Context,
    words: tuple[str, ...],
    num_shards: int,
    partition: str,
    gpus: str,
    cpus: int | None,
    mem: str,
    time_limit: str,
    account: str,
    qos: str,
    array_limit: int | None,
    sbatch_arg: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Submit a run to Slurm: a job array, each element of which computes a shard, and a job that merges them.

    Takes all options of e2v predict but --jobs, --shard and --overwrite. Lists, model, OUT and disk are looked at
    before anything is submitted. Jobs that come to their time limit go on where they were; the same command again
    submits only what is missing.

    \b
    Examples:
      e2v submit data/train -o exp/emotion -m emotion2vec_plus_large --jobs 64 --gpus 1 --cpus 8 --time 4:00:00
      e2v submit wav.scp -o exp/emotion --jobs 100 --cpus 4 --mem 8G --array-limit 20
      e2v submit wav.scp -o exp/emotion --jobs 8 --dry-run > shards.sh
    """  # noqa: D301
    predicting = predict.make_context("submit", list(words), parent=context.parent)
    for name, option, why in (
        ("jobs", "-j", ": a job has a worker for each of its --gpus or --cpus"),
        ("shard", "--shard", ", which deals the shards itself"),
        ("overwrite", "--overwrite", ", which goes on with what OUT holds: remove it first instead"),
    ):
        if predicting.params[name]:
            by_variable = predicting.get_parameter_source(name) is ParameterSource.ENVIRONMENT
            raise click.UsageError(f"{f'E2V_{name.upper()}' if by_variable else option} is not for e2v submit{why}.")
    settings = _read_settings(**predicting.params)
    log_to_stderr(settings.log_level)

    from e2v_cli.cluster.slurm import Resources
    from e2v_cli.commands.submit import SubmitOptions
    from e2v_cli.commands.submit import submit as submit_jobs

    resources = Resources(partition, gpus, cpus, mem, time_limit, account, qos, sbatch_arg)
    _print(submit_jobs(SubmitOptions(settings, words, num_shards, resources, array_limit, dry_run)))


@cli.command(no_args_is_help=True, context_settings={"auto_envvar_prefix": "E2V"})
@_inputs
@click.option(
    "-m",
    "--model",
    default="emotion2vec_plus_base",
    show_default=True,
    metavar="NAME|DIR",
    help="Whose shape counts; a published one need not be on this machine.",
)
@_granularity
@click.option(
    "--embeddings",
    type=click.Choice(["none", "npy", "ark"]),
    default="none",
    show_default=True,
    help="Also say what embeddings will take on disk.",
)
@click.option(
    "--embedding-dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Precision of embeddings; in Kaldi archives both take 32 bits.",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="CPU cores that the run will have. [default: all]"
)
@_channel
@click.option("--allow-pipes", is_flag=True, help="The run may run commands ('… |'); here they are only counted.")
def plan(
    inputs: tuple[str, ...],
    model: str,
    granularity: Granularity,
    embeddings: EmbeddingFormat,
    embedding_dtype: EmbeddingDtype,
    jobs: int | None,
    channel: Channel,
    allow_pipes: bool,
) -> int:
    """Say what a run would meet, write and take, from lists and headers alone.

    No model is loaded and no audio decoded, so damage further on in a file is not seen. Commands are not run and URLs
    not fetched: how long they are is taken from the utt2dur beside their list.

    \b
    Examples:
      e2v plan data/train
      e2v plan data/train -m emotion2vec_plus_large --granularity frame --embeddings ark -j 64

    \b
    Exit codes:
      0   nothing would fail      1   the list can't be read
      2   usage error             3   something would fail
    """  # noqa: D301
    _refuse_empty(None, model, inputs)
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.plan import PlanOptions, forecast

    options = PlanOptions(inputs, model, granularity, embeddings, embedding_dtype, jobs, channel, allow_pipes)
    prospect = forecast(options)
    _print(prospect.text)
    return EXIT_TOO_MANY_FAILURES if prospect.num_failures else 0


@cli.command(no_args_is_help=True, context_settings={"auto_envvar_prefix": "E2V"})
@_inputs
@_model
@_hub
@_revision
@_offline
@_device
@_precision
@_allow_pipes
def check(
    inputs: tuple[str, ...],
    model: str,
    hub: HubName,
    revision: str | None,
    offline: bool,
    device: str,
    precision: Precision,
    allow_pipes: bool,
) -> int:
    """Compare e2v with FunASR, on your audio, your model and this machine.

    Every utterance is computed by upstream's own code, by e2v alone, and by e2v in a batch with others. The largest
    differences of frame features and probabilities, how many labels agree, and the speed of each, on one CPU core or a
    GPU, are printed. A few dozen utterances are enough.

    \b
    Examples:
      head -50 data/test/wav.scp | e2v check - -m emotion2vec_plus_large
      e2v check sample_data/wav.scp -m sample
      e2v check calls/ -m ./my_finetuned --device cuda --precision bf16

    \b
    Exit codes:
      0   within the tolerances (features 1e-4, probabilities 1e-5)
      1   could not be compared      2   usage error      3   beyond them
    """  # noqa: D301
    _refuse_empty(None, model, inputs)
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.check import CheckOptions
    from e2v_cli.commands.check import check as compare

    options = CheckOptions(
        inputs=inputs,
        model=ModelRequest(model, hub, revision, offline),
        device=device,
        precision=precision,
        pipe_seconds=PIPE_SECONDS if allow_pipes else None,
        progress=_progress_style(None, quiet=False, rows_on_terminal=False),
    )
    verdict = compare(options)
    _print(verdict.text)
    return 0 if verdict.is_exact else EXIT_TOO_MANY_FAILURES


@cli.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """Say what models can be had and what is here, or get one.

    \b
    Examples:
      e2v models
      e2v models pull emotion2vec_plus_large --hub hf
      e2v models pull emotion2vec_plus_base --to /scratch/models/plus_base
    """  # noqa: D301
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list")
def list_models() -> None:
    """Say what models can be had, and what is here: revision, size and SHA-256. No network is used."""
    from e2v_cli.commands.models import describe_models

    log_to_stderr(logging.WARNING)
    _print(describe_models())


@models.command("pull", no_args_is_help=True, context_settings={"auto_envvar_prefix": "E2V"})
@click.argument("name", metavar="NAME")
@_hub
@_revision
@_offline
@click.option(
    "--to",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Also copy it to a folder that stands by itself, to be carried to a machine without network.",
)
def pull_model(name: str, hub: HubName, revision: str | None, offline: bool, to: str | None) -> None:
    """Download a model, or what is new of it, and print its folder.

    \b
    Examples:
      e2v models pull emotion2vec_plus_large
      e2v models pull emotion2vec_plus_base --to plus_base && rsync -a plus_base cluster:models/
    """  # noqa: D301
    if "" in (name, to):
        raise click.UsageError("NAME or --to is empty: is a variable of the shell not set?")
    if offline:
        raise click.UsageError("To pull is to ask a hub, and --offline (or E2V_OFFLINE) says not to.")
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.models import pull

    folder = pull(ModelRequest(name, hub, revision), None if to is None else Path(to))
    _print(f"{folder}\n")


def run_command_line(stop: StopSignals) -> int:
    """Run a command, and give the exit code that its errors carry."""
    _open_standard_streams()
    try:
        return int(cli.main(prog_name="e2v", standalone_mode=False, obj=stop) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_STOPPED
    except E2vError as error:
        _say(str(error))
        return error.exit_code
    except OSError as error:
        _drop_standard_output()
        _say(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return 1


def _refuse_empty(output_dir: str | None, model: str, inputs: tuple[str, ...]) -> None:
    """Refuse empty words, which are most likely not meant."""
    if "" in (output_dir, model, *inputs):
        raise click.UsageError("INPUT, --output-dir or --model is empty: is a variable of the shell not set?")


def _print(text: str) -> None:
    """Write a command's result to standard output, names of files as they are; a reader may have enough of it."""
    try:
        click.echo(text.encode(errors="surrogateescape"), nl=False)
    except BrokenPipeError:
        _drop_standard_output()


def _say(message: str) -> None:
    click.echo(f"e2v: {message}", err=True)


class _StandardError(io.TextIOWrapper):
    """Standard error that may have lost its reader or its disk: what can't be said changes nothing."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _open_standard_streams() -> None:
    """Give closed standard streams' numbers to nothing, before some file gets them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    unheard = open(2, "wb", closefd=False)  # noqa: SIM115 — for as long as the process lives
    sys.stderr = _StandardError(unheard, errors="backslashreplace", line_buffering=True)


def _drop_standard_output() -> None:
    """Let what can't be written go nowhere: Python would complain when it flushes standard output at its end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _progress_style(progress: bool | None, quiet: bool, rows_on_terminal: bool) -> ProgressStyle:
    if progress is None and not quiet and not rows_on_terminal:
        return "bar" if sys.stderr.isatty() else "lines"
    return "bar" if progress else "none"


def _describe(summary: Summary) -> str:
    plural = "" if summary.input == 1 else "s"
    left = f", {summary.left} left" if summary.left else ""
    return (
        f"{summary.input} utterance{plural}: {summary.done} done, {summary.failed} failed{left}; "
        f"{summary.audio_seconds:.1f} s of audio in {summary.wall_seconds:.1f} s "
        f"({summary.speed:.1f}× real time once the model was loaded)"
    )
