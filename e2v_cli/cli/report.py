"""``e2v report`` on the command line."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from e2v_cli.cli import options as opts
from e2v_cli.cli.console import print_result, show_message
from e2v_cli.cli.groups import GroupedCommand
from e2v_cli.options import ReportOptions
from e2v_cli.system.logs import log_library_notes, log_to_stderr


@click.command(cls=GroupedCommand)
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@opts.report_options(*opts.REPORT)
def report(output_dir: Path, options: ReportOptions) -> None:
    """Make a page of a run: see, listen, relabel.

    One HTML file that opens from a mail or a disk and asks nothing of any network: whether the run is whole, how
    labels, scores and durations are distributed, the most doubtful utterances with players and keys to relabel them,
    speakers, timelines, and a map of the embeddings. Works for a run that is not finished, too. Clips are read again
    from where the run found its audio; what is gone is listed. Prints the path of the page.

    \b
    Examples:
      e2v report exp/emotion
      e2v report exp/emotion -o emotion.html --clips 200 --clip-seconds 5
      e2v report exp/emotion --clips 0 --overwrite

    \b
    Exit codes:
      0   written, also where audio is gone      2   usage error
      1   could not go on                        4   the page exists
    """  # noqa: D301
    log_to_stderr(logging.WARNING)
    log_library_notes(os.devnull)

    from e2v_cli.commands.report import report as write_report

    written = write_report(output_dir, options)
    for note in written.notes:
        show_message(note)
    plural = "" if written.clips == 1 else "s"
    show_message(f"{written.size / 1e6:.1f} MB, {written.clips} clip{plural}")
    print_result(f"{written.path}\n")
