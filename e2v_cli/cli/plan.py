"""``e2v plan`` on the command line: the options of ``e2v predict``, and ``--like``."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from e2v_cli.cli import options as opts
from e2v_cli.cli.console import print_result
from e2v_cli.cli.groups import GroupedCommand
from e2v_cli.cli.predict import find_shard
from e2v_cli.cli.words import format_words
from e2v_cli.errors import EXIT_TOO_MANY_FAILURES
from e2v_cli.options import (
    ComputeOptions,
    InputOptions,
    ModelRequest,
    PredictOptions,
    ResultOptions,
    RowOptions,
    RunOptions,
)
from e2v_cli.system.logs import log_library_notes, log_to_stderr


@click.command(cls=GroupedCommand, no_args_is_help=True)
@opts.predict_options(opts.PLANNED_DIR)
@click.option(
    "--like",
    envvar="E2V_LIKE",
    type=click.Path(exists=True, path_type=Path),
    metavar="RUN_JSON",
    show_default="the newest run of this user",
    help="Take the speed from the run.json, or OUT, of another run, such as a short one on a GPU; show the time of "
    "several shards like that.",
)
def plan(
    input: InputOptions,  # noqa: A002 — the name of its group
    model: ModelRequest,
    compute: ComputeOptions,
    results: ResultOptions,
    rows: RowOptions,
    run: RunOptions,
    like: Path | None,
) -> int:
    """Estimate a run without computing it.

    Takes all options of e2v predict: replace that word by plan. Shows hours, failures, disk and, after a run of the
    same model, time with as many workers as that had; of a run that OUT holds, only of what is left. All of it comes
    from lists and headers: no model is loaded and no audio decoded, so damage after a header is not found. Commands
    are not run and URLs not fetched: their durations come from utt2dur beside the list. Without -o, a folder named OUT
    is taken, unless rows are asked for.

    \b
    Examples:
      e2v plan data/train
      e2v plan data/train -m emotion2vec_plus_large -o exp/train --granularity frame --embeddings ark
      e2v plan data/train -m emotion2vec_plus_large --like exp/short_on_gpu/run.json

    \b
    Exit codes:
      0   no more would fail than --max-failures allows      3   more would fail
      1   the list can't be read                             4   OUT holds a different run, or one in progress
      2   usage error
    """  # noqa: D301
    if shard := find_shard(results.output_dir):
        run = replace(run, shard=shard)
    source = click.get_current_context().get_parameter_source("output_dir")
    if rows.words and source is ParameterSource.DEFAULT:  # rows on standard output, which exclude an OUT
        results = replace(results, output_dir=None)
    options = PredictOptions(input, model, compute, results, run, rows)
    log_to_stderr(run.log_level)
    log_library_notes(os.devnull)

    from e2v_cli.commands.plan import make_plan

    report = make_plan(options, like)
    print_result(f"{report.text}\n{_format_command(options)}\n")
    return 0 if report.is_allowed else EXIT_TOO_MANY_FAILURES


def _format_command(options: PredictOptions) -> str:
    """Format the command of the run."""
    words = ["e2v", "predict", *format_words(options), *options.rows.words]
    if options.compute.jobs is not None:
        words += ["--jobs", str(options.compute.jobs)]
    if options.run.shard.count > 1:
        words += ["--shard", str(options.run.shard)]
    if options.run.overwrite:
        words.append("--overwrite")
    return shlex.join(words)
