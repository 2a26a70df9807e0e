"""``e2v predict`` on the command line."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from e2v_cli.cli import options as opts
from e2v_cli.cli.console import drop_standard_output, judge_failures, show_message, show_summary
from e2v_cli.cli.groups import GroupedCommand
from e2v_cli.cli.invocation import describe_invocation, find_command
from e2v_cli.cluster.task import shard_of_task
from e2v_cli.errors import EXIT_STOPPED
from e2v_cli.options import (
    ComputeOptions,
    InputOptions,
    ModelRequest,
    PredictOptions,
    ResultOptions,
    RowOptions,
    RunOptions,
    Shard,
)
from e2v_cli.system.logs import log_library_notes, log_to_stderr
from e2v_cli.system.signals import StopSignals
from e2v_cli.workers.template import started_template

if TYPE_CHECKING:
    from e2v_cli.records import Summary


@click.command(cls=GroupedCommand, no_args_is_help=True)
@opts.predict_options()
@click.pass_obj
def predict(
    stop: StopSignals,
    /,
    input: InputOptions,  # noqa: A002 — the name of its group
    model: ModelRequest,
    compute: ComputeOptions,
    results: ResultOptions,
    rows: RowOptions,
    run: RunOptions,
) -> int:
    """Recognise the emotion of every utterance.

    INPUT is any mix of audio files, folders of them, lists, Kaldi data directories (with segments or without),
    http(s):// URLs of audio, and - for a list on standard input. A list has lines 'utt-id path', paths alone, JSON
    lines (FunASR, NeMo) or CSV with a header; it is told by its content, also compressed (.gz) or from <(command).

    \b
    Examples:
      e2v predict call.wav other.flac -m sample
      e2v predict recordings/ -m sample --format csv --columns utt_id,label > labels.csv
      e2v predict data/train -m emotion2vec_plus_large -o exp/emotion --embeddings ark
      grep female wav.scp | e2v predict - -m emotion2vec_plus_base -o exp/female
      e2v predict manifest.jsonl more.txt.gz <(shuf -n 99 wav.scp) -m sample
      e2v predict recordings/ -m sample -o out --granularity frame --embeddings npy
      e2v predict data/swbd -m emotion2vec_plus_base -o exp/swbd --allow-pipes
      e2v predict call.wav -m sample --timeline 1 --join | cut -f 2-4
      e2v predict data/calls -m sample -o out --timeline 1 --timeline 60 --timeline-format rttm,textgrid

    \b
    Exit codes:
      0   all done                        3   finished, but more failures than allowed
      1   could not go on                 4   OUT holds a different run, or one in progress
      2   usage error                     75  stopped by a signal: run the same command again

    Every option can be set by environment: E2V_MODEL for --model, and so on.
    """  # noqa: D301 — Click's mark for a paragraph that keeps its lines is a backspace
    shard = find_shard(results.output_dir)
    if shard:
        run = replace(run, shard=shard)
    invocation = describe_invocation(click.get_current_context(), input)
    options = PredictOptions(input, model, compute, results, run, rows, invocation)
    if results.output_dir is None and sys.stdout is None:
        raise click.UsageError("Standard output is closed: add -o OUT for the results.")
    log_to_stderr(run.log_level)
    if shard and not run.quiet:
        show_message(f"shard {run.shard}, by its place among the tasks of Slurm")
    if run.quiet:
        log_library_notes(os.devnull)
        os.environ["TQDM_DISABLE"] = "1"  # for the bars of the hubs' packages

    try:
        summary = _compute_with_template(options, stop)
    except BrokenPipeError:  # the reader has closed the pipe
        drop_standard_output()
        return EXIT_STOPPED if stop.received else 0  # Ctrl-C ends both
    except KeyboardInterrupt:  # before anything was computed
        return _end_stopped(options)
    return _finish(options, summary)


def _compute_with_template(options: PredictOptions, stop: StopSignals) -> Summary:
    """Run the command; where it will certainly compute, its modules are imported while the template imports PyTorch."""
    to_folder = options.results.output_dir is not None  # which may hold all results
    with nullcontext() if to_folder else started_template(options.compute.device, stop) as template:
        from e2v_cli.commands.predict import predict as compute_predictions

        return compute_predictions(options, stop, template)


def find_shard(output_dir: Path | None) -> Shard | None:
    """Return the shard of this task of Slurm's; None if one was asked for, or without OUT, where shards can't meet."""
    if output_dir is None or click.get_current_context().params["shard"] is not None:
        return None
    return shard_of_task(os.environ)


def _finish(options: PredictOptions, summary: Summary) -> int:
    """Show how a run ended, and return its exit code."""
    run, results = options.run, options.results
    if not run.quiet:
        show_summary(summary)
    if summary.stopped:
        return _end_stopped(options)
    if results.output_dir:
        later = " once all shards are" if run.shard.count > 1 else ""
        reasons = f"see {results.output_dir}/failures.tsv{later}; --retry-failed tries again"
    else:
        reasons = "see above"
    return judge_failures(summary, run.max_failures, reasons)


def _end_stopped(options: PredictOptions) -> int:
    """Show the next move after a stop, and return the exit code."""
    command = find_command(options.invocation)
    move = f"to go on: {command}" if command else "run the same command again to go on"
    if options.results.output_dir is None:
        move = "nothing is kept without -o OUT"
    if not options.run.quiet:
        show_message(f"stopped; {move}")
    return EXIT_STOPPED
