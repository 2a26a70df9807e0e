"""``e2v rows``: the results of a run, finished or not, from its journals → rows on standard output."""

from __future__ import annotations

from pathlib import Path

from e2v_cli.options import RowOptions
from e2v_cli.results.finished import FinishedRows
from e2v_cli.results.rows import RowPrinter
from e2v_cli.results.tables import journalled_row, prediction_columns


def rows(output_dir: Path, options: RowOptions) -> str:
    """Print the rows that are done, in input order, and return a note on what is missing, or an empty text.

    Raises:
        OutputError: there is no run, or it can't be read.
        UsageError: a column is unknown.
        OSError: rows can't be written.
    """
    finished = FinishedRows(output_dir)
    labels = finished.header.labels
    printer = RowPrinter(options, prediction_columns(labels), labels, finished.ids.ids())
    for lines in finished.lines():
        printer.print(map(journalled_row, lines))
    return finished.describe_missing()
