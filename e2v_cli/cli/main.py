"""The ``e2v`` command: the group, its small commands, and errors → exit codes."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import time
from pathlib import Path

import click

from e2v_cli._version import __version__
from e2v_cli.cli import options as opts
from e2v_cli.cli.console import (
    drop_standard_output,
    judge_failures,
    open_standard_streams,
    print_result,
    printing_rows,
    show_message,
    show_summary,
)
from e2v_cli.cli.groups import GroupedCommand, grouped_option
from e2v_cli.cli.plan import plan
from e2v_cli.cli.predict import predict
from e2v_cli.cli.probe import probe
from e2v_cli.cli.probe_eval import evaluate
from e2v_cli.cli.report import report
from e2v_cli.cli.score import score
from e2v_cli.cli.select import select
from e2v_cli.cli.similarity import similarity
from e2v_cli.cli.speakers import speakers
from e2v_cli.cli.submit import submit
from e2v_cli.cli.variables import find_variable
from e2v_cli.errors import EXIT_STOPPED, EXIT_TOO_MANY_FAILURES, E2vError, OutputConflictError
from e2v_cli.options import ComputeOptions, InputOptions, ModelRequest, RowOptions, RunOptions
from e2v_cli.system.logs import log_library_notes, log_to_stderr
from e2v_cli.system.signals import StopSignals

WATCH_SECONDS = 10
"""Time after which ``status --watch`` reports again."""


class _OrderedGroup(click.Group):
    """A group that lists its commands in the order of use."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of the commands; Click would sort them."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; audio or a list in its place is most likely that of ``predict``."""
        name = args[0]
        if name not in self.commands and (name == "-" or os.path.lexists(name) or re.search(r"[./]", name)):
            raise click.UsageError(f"No command {name!r}; did you mean: {shlex.join(['e2v', 'predict', *args])}")
        return super().resolve_command(ctx, args)


@click.group(cls=_OrderedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="e2v", message="%(prog)s %(version)s")
def cli() -> None:
    """Speech emotion recognition with emotion2vec over whole Kaldi-style corpora.

    \b
    Examples:
      e2v predict call.wav -m sample
      e2v predict wav.scp -o exp/emotion --embeddings ark
    """  # noqa: D301 — Click's mark for a paragraph that keeps its lines is a backspace


cli.add_command(predict)


cli.add_command(plan)
cli.add_command(submit)


@cli.command()
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@grouped_option(
    "Options",
    "--watch",
    prefix="E2V_STATUS",
    is_flag=True,
    help=f"Report every {WATCH_SECONDS} s, until the exit code is no longer 4.",
)
def status(output_dir: Path, watch: bool) -> int:
    """Show how far a run is.

    Counts of done, failed and left utterances, speed and time left, for each shard. For a run that was submitted to
    Slurm, also the state of each job, and the log of each that was lost.

    \b
    Examples:
      e2v status exp/emotion
      e2v status exp/emotion --watch && e2v rows exp/emotion --format csv > emotion.csv

    \b
    Exit codes:
      0   complete              4   in progress: a process is at work, or a job in the queue
      1   can't be read         75  incomplete, and neither: run, submit or merge again
    """  # noqa: D301
    from e2v_cli.commands.status import State, describe_run

    codes = {State.COMPLETE: 0, State.UNDER_WAY: OutputConflictError.exit_code, State.WAITING: EXIT_STOPPED}
    log_to_stderr(logging.WARNING)
    while True:
        report = describe_run(output_dir)
        if watch and sys.stdout is not None and sys.stdout.isatty():
            click.clear()
        print_result(report.text)
        if not watch or report.state is not State.UNDER_WAY:
            return codes[report.state]
        time.sleep(WATCH_SECONDS)


@cli.command(cls=GroupedCommand)
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@opts.row_options(*opts.ROWS)
def rows(
    output_dir: Path,
    rows: RowOptions,
) -> None:
    """Print the rows of a run, finished or not.

    What is done so far, in the order of the input, from the journals of OUT: also while a run is at work there. With
    all rows, the TSV is that of predictions.tsv. What has failed or is left is counted on standard error.

    \b
    Examples:
      e2v rows exp/emotion | head -1000
      e2v rows exp/emotion --format csv > emotion.csv
      e2v rows exp/emotion --columns label --no-header | sort | uniq -c
    """  # noqa: D301
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.rows import rows as print_rows

    with printing_rows():
        if missing := print_rows(output_dir, rows):
            show_message(missing)


cli.add_command(speakers)


@cli.command(cls=GroupedCommand)
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@opts.run_options(opts.MAX_FAILURES)
def merge(output_dir: Path, run: RunOptions) -> int:
    """Merge the shards of a run.

    Writes predictions.tsv and all other final files. The last shard to end does it by itself, unless it can't see yet
    that all others have ended, perhaps on another machine. While shards are incomplete, they are listed instead.

    \b
    Example:
      e2v merge exp/emotion

    \b
    Exit codes:
      0   merged                3   merged, but more failures than allowed
      1   could not go on       4   OUT holds different runs, or another process is merging
    """  # noqa: D301
    from e2v_cli.commands.merge import merge as merge_shards

    log_to_stderr(logging.WARNING)
    merged = merge_shards(output_dir)
    if not merged.is_new:
        show_message(f"{output_dir} is complete: nothing to do")
    show_summary(merged.summary)
    return judge_failures(merged.summary, run.max_failures, f"see {output_dir}/failures.tsv")


cli.add_command(score)
cli.add_command(report)
cli.add_command(select)
cli.add_command(probe)
probe.add_command(evaluate)
cli.add_command(similarity)


@cli.command(cls=GroupedCommand, no_args_is_help=True)
@opts.input_options(channel=False)
@opts.model_options(opts.MODEL, *opts.HUB)
@opts.compute_options(opts.DEVICE, opts.PRECISION, opts.PRODUCTS)
def check(
    input: InputOptions,  # noqa: A002 — the name of its group
    model: ModelRequest,
    compute: ComputeOptions,
) -> int:
    """Compare e2v with FunASR on your audio.

    Computes every utterance by upstream's own code, by e2v alone, and by e2v in a batch, with your model and machine;
    and by upstream's code from the path of the file, which it reads and resamples itself. Prints the largest
    differences of frame features and probabilities, the number of labels that agree, and the speed of each on one CPU
    core or a GPU. A few dozen utterances are enough.

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
    log_to_stderr(logging.WARNING)
    log_library_notes(os.devnull)

    from e2v_cli.commands.check import CheckOptions
    from e2v_cli.commands.check import check as compare
    from e2v_cli.system.progress import choose_style

    style = choose_style(None, quiet=False)
    verdict = compare(CheckOptions(input, model, compute, style))
    print_result(verdict.text)
    return 0 if verdict.is_exact else EXIT_TOO_MANY_FAILURES


class _ModelsGroup(click.Group):
    """A group whose command ``show`` may be left out: ``e2v models NAME``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the name of a model is one of ``show``."""
        names_command = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if names_command else ["show", *args])


@cli.group(cls=_ModelsGroup, invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List models, show or download one.

    \b
    Examples:
      e2v models
      e2v models emotion2vec_plus_large
      e2v models pull emotion2vec_plus_large --hub hf
      e2v models pull emotion2vec_plus_base --to /scratch/models/plus_base
    """  # noqa: D301
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list")
def list_models() -> None:
    """List known models, and those that are here.

    Revision, size and SHA-256 of each; no network is used.
    """
    from e2v_cli.commands.models import describe_models

    log_to_stderr(logging.WARNING)
    print_result(describe_models())


@models.command("show")
@click.argument("name", metavar="NAME")
def show_model(name: str) -> None:
    """Show a model's source, licence and citation.

    For a model that is here also its folder, revision and the SHA-256 of its weights; no network is used. The word
    show may be left out.

    \b
    Example:
      e2v models show emotion2vec_plus_large
    """  # noqa: D301
    from e2v_cli.commands.models import describe_model

    log_to_stderr(logging.WARNING)
    print_result(describe_model(name))


@models.command("pull", cls=GroupedCommand, no_args_is_help=True, context_settings={"auto_envvar_prefix": "E2V"})
@opts.model_options(click.argument("name", metavar="NAME"), *opts.HUB)
@click.option(
    "--to",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Also copy it to a self-contained folder, for a machine without network.",
)
def pull_model(model: ModelRequest, to: str | None) -> None:
    """Download a model, and print its folder.

    Of a model that is here, what is new is downloaded; with --offline, it is taken as it is.

    \b
    Examples:
      e2v models pull emotion2vec_plus_large
      e2v models pull emotion2vec_plus_base --to plus_base && rsync -a plus_base cluster:models/
    """  # noqa: D301
    if "" in (model.name, to):
        raise click.UsageError("NAME or --to is empty: is a variable of the shell not set?")
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.models import pull

    folder = pull(model, None if to is None else Path(to))
    print_result(f"{folder}\n")


def run_command_line(stop: StopSignals) -> int:
    """Run a command, and return the exit code that its errors carry."""
    open_standard_streams()
    try:
        return int(cli.main(prog_name="e2v", standalone_mode=False, obj=stop) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        show_message(_format_usage_error(error))
        return error.exit_code
    except click.Abort:
        return EXIT_STOPPED
    except E2vError as error:
        show_message(str(error))
        return error.exit_code
    except OSError as error:
        drop_standard_output()
        show_message(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return 1


def _format_usage_error(error: click.ClickException) -> str:
    """Format an error of Click like e2v's own: the option and its variable, the problem, and the next move."""
    context = getattr(error, "ctx", None)
    param = getattr(error, "param", None)
    message = error.format_message()
    if context and param and isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        name = param.opts[-1] if isinstance(param, click.Option) else param.make_metavar(context)
        variable = find_variable(context, param)
        message = f"{name}{f' ({variable})' if variable else ''}: {error.message}"
    hint = f" (see: {context.command_path} --help)" if context else ""
    return f"{message.removesuffix('.')}{hint}"
