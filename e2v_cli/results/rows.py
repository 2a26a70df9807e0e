"""Rows of results on standard output: an aligned table for eyes; TSV, CSV or JSON Lines for programs."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from io import StringIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import cast

from e2v_cli.errors import UsageError
from e2v_cli.options import RowFormat, RowOptions
from e2v_cli.results.tables import LABEL_COLUMNS
from e2v_cli.system.files import naming
from e2v_cli.system.progress import between_bars
from e2v_cli.system.text import display_width, fitted, padded, tsv_row

COLUMN_TYPES: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(("utt_id", "utt_id1", "utt_id2", "speaker", "recording", "label"), str),
    **dict.fromkeys(("windows", "utterances"), int),
    "same_label": "true".__eq__,
}
"""Types of columns; all others are ``float``."""

TABLE_COLUMNS = ("utterances", "start", "end", "label", "score")
"""Columns of a table after its keys, as far as rows have them; the runner-up follows."""

KNOWN_IDS = 10_000
"""Number of ids that set the width of a table's first column; longer ids after them shift their rows."""

MIN_ID, MAX_LABEL = 12, 24
"""Widths in characters: the minimum of the first column, even on a narrow terminal; the maximum of a label."""

BAR = 10
"""Characters of the bar of a score."""


class RowPrinter:
    """Rows on standard output, with the columns and in the format that options choose."""

    def __init__(
        self,
        options: RowOptions,
        columns: Sequence[str],
        labels: Sequence[str],
        ids: Iterable[list[bytes]],
        keys: Sequence[str] = ("utt_id",),
        file: TextIOWrapper | None = None,
    ) -> None:
        """Print the header.

        Args:
            options: options of the rows.
            columns: all columns of the rows.
            labels: the columns that are the model's classes; without labels, rows have an empty label and score.
            ids: values of the first key column, some thousand at a time; only the first are read.
            keys: the columns that name a row.
            file: where rows are written; None: standard output.

        Raises:
            UsageError: a column is unknown.
        """
        for column in options.columns:
            if column not in columns:
                raise UsageError(f"--columns {column}: no such column; choose from {', '.join(columns)}")
        self._naming: Callable[[], AbstractContextManager[None]] = (
            partial(naming, Path("standard output")) if file is None else nullcontext
        )
        self._file = cast(TextIOWrapper, sys.stdout) if file is None else file
        self._file.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
        form = options.format or ("table" if self._file.isatty() else "tsv")
        self._format: Callable[[Sequence[str]], str]
        if form == "table":
            table = _Table(options.columns, columns, labels, ids, keys)
            header, self._format = table.header, table.format
        else:
            has_value = [column for column in columns if labels or column not in LABEL_COLUMNS]
            chosen = options.columns or (columns if form == "jsonl" else has_value)
            format_cells, indices = _FORMATS[form], [columns.index(column) for column in chosen]
            header = "" if form == "jsonl" else format_cells(chosen, chosen)
            self._format = lambda cells: format_cells(chosen, [cells[index] for index in indices])
        self._write(header if options.header else "")

    def print(self, rows: Iterable[Sequence[str]]) -> None:
        """Print rows, each of a cell for every column; an empty one has no value.

        Raises:
            OSError: they can't be written.
        """
        self._write("".join(map(self._format, rows)))

    def _write(self, text: str) -> None:
        with self._naming(), between_bars(self._file):
            self._file.write(text)
            self._file.flush()


def _format_tsv(_columns: Sequence[str], cells: Sequence[str]) -> str:
    return tsv_row(cells) + "\n"


def _format_csv(_columns: Sequence[str], cells: Sequence[str]) -> str:
    line = StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _format_json(columns: Sequence[str], cells: Sequence[str]) -> str:
    pairs = zip(columns, cells, strict=True)
    return _encode({column: COLUMN_TYPES.get(column, float)(cell) if cell else None for column, cell in pairs}) + "\n"


_encode = json.JSONEncoder(ensure_ascii=False).encode


_FORMATS: dict[RowFormat, Callable[[Sequence[str], Sequence[str]], str]] = {
    "tsv": _format_tsv,
    "csv": _format_csv,
    "jsonl": _format_json,
}
"""Formats of a line for programs: columns and their cells → text."""


@dataclass(frozen=True)
class _Column:
    """A column of a table."""

    title: str
    width: int
    show: Callable[[Sequence[str]], str]
    """Function from the cells of a row to the text of this column."""
    to_right: bool = False


class _Table:
    """Aligned columns that fit the terminal, whose widths are known before the first row."""

    def __init__(
        self,
        chosen: Sequence[str],
        columns: Sequence[str],
        labels: Sequence[str],
        ids: Iterable[list[bytes]],
        keys: Sequence[str],
    ) -> None:
        self._key = keys[0]
        self._indices = {column: index for index, column in reversed(list(enumerate(columns)))}
        self._labels = [(label, self._indices[label]) for label in labels]
        self._label_width = min(MAX_LABEL, max(map(display_width, ("label", *labels))))
        if not chosen and labels:
            shown = [self._make_column(column) for column in (*keys, *TABLE_COLUMNS) if column in columns]
            shown[-1] = _Column("score", len("0.00 ") + BAR, self._show_score)
            shown.append(_Column("runner-up", self._label_width + len(" 0.00"), self._show_runner_up))
        else:
            has_value = (column for column in columns if column not in LABEL_COLUMNS)
            shown = [self._make_column(column) for column in chosen or has_value]
        self._shown = self._fit_ids(shown, ids)
        self.header = self._align(column.title for column in self._shown)

    def format(self, cells: Sequence[str]) -> str:
        """Format a row."""
        return self._align(column.show(cells) for column in self._shown)

    def _align(self, texts: Iterable[str]) -> str:
        shown = zip(self._shown, texts, strict=True)
        aligned = (padded(text, column.width, column.to_right) for column, text in shown)
        return "  ".join(aligned).rstrip() + "\n"

    def _make_column(self, column: str) -> _Column:
        index = self._indices[column]
        if COLUMN_TYPES.get(column) is str:
            width = self._label_width if column == "label" else MIN_ID
            return _Column(column, width, lambda cells: fitted(cells[index], MAX_LABEL))
        return _Column(column, max(len(column), len("0.000000")), lambda cells: cells[index], to_right=True)

    def _fit_ids(self, shown: Sequence[_Column], ids: Iterable[list[bytes]]) -> list[_Column]:
        """Widen the column of ids to the longest, up to what the other columns leave of the terminal's width."""
        others = sum(column.width + 2 for column in shown if column.title != self._key)
        room = max(MIN_ID, shutil.get_terminal_size().columns - others)
        first = islice((key.decode() for keys in ids for key in keys), KNOWN_IDS)
        width = min(room, max(map(display_width, (self._key, *first))))
        show = _Column(self._key, width, lambda cells: fitted(cells[self._indices[self._key]], room))
        return [show if column.title == self._key else column for column in shown]

    def _show_score(self, cells: Sequence[str]) -> str:
        score = float(cells[self._indices["score"]])
        return f"{score:.2f} {'█' * round(BAR * score)}"

    def _show_runner_up(self, cells: Sequence[str]) -> str:
        """Show the second most probable label, and its probability."""
        winner = cells[self._indices["label"]]
        others = [(float(cells[index]), label) for label, index in self._labels if label != winner]
        if not others:
            return ""
        score, label = max(others, key=lambda other: other[0])
        return f"{padded(fitted(label, self._label_width), self._label_width)} {score:.2f}"
