"""``e2v rows``: the results of a run, finished or not, from its journals → rows on standard output."""

from __future__ import annotations

from pathlib import Path

from e2v_cli.journal.history import History, parse_done
from e2v_cli.journal.ids import IdList
from e2v_cli.journal.journal import DONE, LEFT
from e2v_cli.options import RowOptions
from e2v_cli.results.publish import open_run_folder
from e2v_cli.results.rows import RowPrinter
from e2v_cli.results.tables import journalled_row, prediction_columns


def rows(output_dir: Path, options: RowOptions) -> str:
    """Print what is done, in input order, and return what is missing: empty if nothing is.

    Raises:
        OutputError: there is no run, or it can't be read.
        UsageError: a column is unknown.
        OSError: rows can't be written.
    """
    folder = open_run_folder(output_dir)
    folder.refresh()
    header = folder.find_run().header
    ids = IdList(output_dir, header.input_sha256)
    history = folder.read_history(ids)
    status = history.status
    printer = RowPrinter(options, prediction_columns(header.labels), header.labels, ids.ids())
    with history.reading():
        first = 0
        for keys in ids.ids():
            lines, is_done = history.read_lines(first, first + len(keys)), status[first : first + len(keys)] == DONE
            printer.print(journalled_row(parse_done(line)) for line, done in zip(lines, is_done, strict=True) if done)
            first += len(keys)
    return describe_missing_rows(output_dir, history)


def describe_missing_rows(output_dir: Path, history: History) -> str:
    """Describe the utterances of a run that have no row; empty if all have one."""
    status = history.status
    done, left = int((status == DONE).sum()), int((status == LEFT).sum())
    if done == len(status):
        return ""
    return f"{output_dir}: {done} of {len(status)} utterances are done, {len(status) - done - left} failed, {left} left"
