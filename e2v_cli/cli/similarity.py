"""``e2v similarity`` on the command line."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import click

from e2v_cli.cli import options as opts
from e2v_cli.cli.console import printing_rows, show_message
from e2v_cli.cli.groups import GroupedCommand, grouped_option
from e2v_cli.cli.values import check_word
from e2v_cli.options import RowOptions
from e2v_cli.system.logs import log_to_stderr

_option = partial(grouped_option, prefix="E2V_SIMILARITY")


@click.command(cls=GroupedCommand, no_args_is_help=True)
@click.argument("pairs", metavar="PAIRS", callback=check_word)
@click.argument("source", metavar="OUT", callback=check_word)
@click.argument("other", metavar="[OUT2]", required=False, callback=check_word)
@_option("Comparison", "--centre", is_flag=True, help="Subtract the mean of all embeddings of OUT from each.")
@_option(
    "Rows",
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    show_default="standard output",
    help="Where the rows go, when all are computed.",
)
@opts.row_options(*opts.ROWS)
def similarity(pairs: str, source: str, other: str | None, centre: bool, output: Path | None, rows: RowOptions) -> None:
    """Compare pairs of utterances.

    PAIRS has two ids a line (utt-id1 utt-id2), or is - for standard input. OUT is a run with embeddings, an
    embeddings.scp, or a folder of .npy; frames are averaged. With OUT2 the second ids are those of OUT2, such as
    the converted speech of another system; both are of the same model.

    A row has the cosine of both embeddings; where the model has classes also whether the predicted labels are the same,
    and the Jensen-Shannon divergence of the posteriors in bits: from 0 for the same ones to 1 for those without a
    common class. Embeddings of deep encoders share a large mean vector, so that raw cosines crowd above 0.9 whatever is
    said and how: --centre removes it, and cosines spread from -1 to 1. A pair that can't be compared is an error, and
    no row is printed.

    \b
    Examples:
      e2v similarity pairs exp/emotion --centre > similarity.tsv
      awk '{print $1, $1}' data/test/wav.scp | e2v similarity - exp/source exp/converted --centre
      e2v similarity pairs exp/emotion/embeddings.scp --columns cosine --no-header
    """  # noqa: D301
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.similarity import similarity as print_similarity

    with printing_rows(output):
        if note := print_similarity(pairs, (source, other), centre, rows, output):
            show_message(note)
