"""``e2v speakers`` on the command line."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from e2v_cli.cli import options as opts
from e2v_cli.cli.console import drop_standard_output, show_message
from e2v_cli.cli.groups import GroupedCommand
from e2v_cli.options import RowOptions
from e2v_cli.system.logs import log_to_stderr

if TYPE_CHECKING:
    from e2v_cli.commands.speakers import Grouping


@click.command(cls=GroupedCommand)
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--by",
    type=click.Choice(["spk", "reco", "spk+reco"]),
    default="spk",
    show_default=True,
    help="A row for each speaker, each recording, or each speaker of each recording.",
)
@click.option(
    "--utt2spk",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    show_default="that of OUT, else those beside its input",
    help="The speaker of each utterance, as Kaldi has it.",
)
@opts.row_options(*opts.ROWS)
def speakers(output_dir: Path, by: Grouping, utt2spk: Path | None, rows: RowOptions) -> None:
    """Print the emotions of each speaker of a run.

    The mean posteriors of a speaker's utterances, weighted by their durations; the label is the class of the highest
    mean, and the columns share_… are the parts of the time whose utterances have each label. Also of a run that is not
    finished. Recordings are those of segments, in OUT or in the data directory that the run read.

    \b
    Examples:
      e2v speakers exp/emotion > exp/emotion/spk2emo.tsv
      e2v speakers exp/calls --by spk+reco --format csv > calls.csv
      e2v speakers exp/emotion --utt2spk data/utt2session --columns speaker,label,score
    """  # noqa: D301
    if sys.stdout is None:
        raise click.UsageError("Standard output is closed: rows have nowhere to go.")
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.speakers import speakers as print_speakers

    try:
        notes = print_speakers(output_dir, utt2spk, by, rows)
    except BrokenPipeError:  # the reader has closed the pipe
        drop_standard_output()
        return
    for note in notes:
        show_message(note)
