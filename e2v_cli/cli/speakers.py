"""``e2v speakers`` on the command line."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from e2v_cli.cli import options as opts
from e2v_cli.cli.console import printing_rows, show_message
from e2v_cli.cli.groups import GroupedCommand, grouped_option
from e2v_cli.options import RowOptions
from e2v_cli.system.logs import log_to_stderr

if TYPE_CHECKING:
    from e2v_cli.commands.speakers import Grouping

_option = partial(grouped_option, "Groups", prefix="E2V_SPEAKERS")


@click.command(cls=GroupedCommand)
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_option(
    "--by",
    type=click.Choice(["spk", "reco", "spk+reco"]),
    default="spk",
    help="A row for each speaker, each recording, or each speaker of each recording.",
)
@_option(
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
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.speakers import speakers as print_speakers

    with printing_rows():
        show_message(*print_speakers(output_dir, utt2spk, by, rows))
