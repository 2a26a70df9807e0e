"""``e2v report`` on the command line."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import get_args

import click

from e2v_cli.cli import options as opts
from e2v_cli.cli.console import print_result, show_message
from e2v_cli.cli.groups import GroupedCommand, grouped_option, option_group
from e2v_cli.cli.score import SCORE, map_option, missing_option
from e2v_cli.cli.values import check_word
from e2v_cli.options import MISSING_IN_REPORTS, MapKind, ReportOptions, ScoreOptions
from e2v_cli.system.logs import log_library_notes, log_to_stderr
from e2v_cli.system.text import counted

_report_option = partial(grouped_option, "Report", prefix="E2V_REPORT")

_OPTIONS = (
    _report_option(
        "-o",
        "--output",
        "path",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        show_default="OUT/report.html",
        help="Where the page goes.",
    ),
    _report_option(
        "--clips",
        type=int,
        default=ReportOptions.clips,
        metavar="N",
        help="Most utterances with a player, the doubtful first; 0 for voices that must not leave.",
    ),
    _report_option(
        "--clip-seconds",
        type=float,
        default=ReportOptions.clip_seconds,
        metavar="S",
        help="Longest part of an utterance that is played, in seconds; 8 kB a second.",
    ),
    _report_option(
        "--map",
        "projection",
        type=click.Choice(get_args(MapKind)),
        default=ReportOptions.projection,
        help="Map of the embeddings, if the run has any: principal components, or none.",
    ),
    _report_option("--title", metavar="T", show_default="the name of OUT", help="Title of the page."),
    _report_option("--overwrite", is_flag=True, help="Replace the page that is there."),
    opts.ALLOW_PIPES,
)


@click.command(cls=GroupedCommand)
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@option_group("options", ReportOptions, _OPTIONS)
@_report_option(
    "--reference",
    metavar="REF",
    callback=check_word,
    help="Also compare with a reference, as e2v score does: a Kaldi directory with utt2emo, a map or a table.",
)
@option_group("scoring", ScoreOptions, (map_option("--label-map"), *SCORE, missing_option(MISSING_IN_REPORTS)))
def report(output_dir: Path, options: ReportOptions, reference: str | None, scoring: ScoreOptions) -> None:
    """Make a page of a run: see, listen, relabel.

    One HTML file that opens from a mail or a disk without any network request: whether the run is complete, how
    labels, scores and durations are distributed, the most doubtful utterances with players and keys to relabel them,
    speakers, timelines, and a map of the embeddings. With a reference also its score, a confusion matrix that opens
    its utterances, and the most confident errors; it takes the options of e2v score (--map is --label-map here), and
    --by defaults to all groupings of the reference. Works for a run that is not finished, too. Clips are read again
    from where the run found its audio; missing audio is listed. Prints the path of the page.

    \b
    Examples:
      e2v report exp/emotion
      e2v report exp/emotion -o emotion.html --clips 200 --clip-seconds 5
      e2v report exp/emotion --clips 0 --overwrite
      e2v report exp/emotion --reference data/test --merge excited=happy

    \b
    Exit codes:
      0   written, also where audio is gone      2   usage error
      1   could not go on                        4   the page exists
    """  # noqa: D301
    log_to_stderr(logging.WARNING)
    log_library_notes(os.devnull)

    from e2v_cli.commands.report import report as write_report

    written = write_report(output_dir, options, reference, scoring)
    show_message(*written.notes)
    show_message(f"{written.size / 1e6:.1f} MB, {counted(written.clips, 'clip')}")
    print_result(f"{written.path}\n")
