"""PREDICTIONS: a run folder, a ``predictions.tsv``, a map of labels, or one of them on standard input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.keyed import (
    KeyedLines,
    Text,
    filled_lines,
    first_line,
    hash_blocks,
    open_text,
    read_pairs,
)
from e2v_cli.errors import CorpusError
from e2v_cli.results.finished import FinishedRows
from e2v_cli.results.publish import open_run_folder, read_summary
from e2v_cli.results.tables import prediction_columns, predictions_header, predictions_line
from e2v_cli.system.files import exists, is_directory

SUM_TOLERANCE = 1e-3
"""Probabilities of an utterance sum to 1 within this."""

_DECIMAL_BYTES = len("0.000000\t")
_DIGITS = (0, 2, 3, 4, 5, 6, 7)
_POWERS = 10.0 ** np.arange(6, -1, -1)


class AnswerChunk(NamedTuple):
    """Some predictions."""

    numbers: Sequence[int]
    """Numbers of the lines, counted from 1."""
    keys: list[bytes]
    words: list[bytes]
    """Labels, one a line."""
    posteriors: NDArray[np.float64] | None
    """(utterances, labels); None: not known."""
    durations: list[bytes]
    """Durations in seconds, as they are written; empty: not known."""


class _RunText:
    """The ``predictions.tsv`` of a run that is not finished: the rows of the utterances that are done."""

    def __init__(self, output_dir: Path) -> None:
        self.name = str(output_dir)
        self.rows = FinishedRows(output_dir)
        self._header = "\t".join(predictions_header(self.rows.header.labels)).encode() + b"\n"

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Read all lines, some at a time, each with a line break: the number of the first one, counted from 1."""
        yield 1, self._header
        number = 2
        for lines in self.rows.lines():
            if lines:
                yield number, b"".join(map(predictions_line, lines))
                number += len(lines)

    def sha256(self) -> str:
        """Return the digest of all lines: that of the file, if the run were finished so."""
        return hash_blocks(self)


@dataclass(frozen=True)
class Predictions:
    """Predictions that can be read several times."""

    name: str
    text: Text
    labels: tuple[str, ...]
    """Labels of the posteriors; empty: no posteriors."""
    num_columns: int
    """Number of columns before the posteriors; 0: the predictions are a map."""
    label_column: int
    duration_column: int | None = None
    """Index of the column of durations; None: no such column."""
    failed: int = 0
    """Utterances of a run that failed."""
    left: int = 0
    """Utterances of a run that are not done yet."""

    def chunks(self) -> Iterator[AnswerChunk]:
        """Read all predictions.

        Raises:
            CorpusError: a line has another form, or invalid probabilities.
        """
        if not self.num_columns:
            for chunk in read_pairs(self.text, "utt-id label"):
                yield AnswerChunk(chunk.numbers, chunk.keys, chunk.columns[0], None, [])
            return
        for first, block in self.text.blocks():
            if first == 1:
                first, block = 2, block.partition(b"\n")[2]
            if block:
                yield self._parse_plain(first, block) or self._parse(filled_lines(first, block))

    def ids(self) -> Iterator[KeyedLines]:
        """Read all ids, to name their lines."""
        for chunk in self.chunks():
            yield KeyedLines(chunk.numbers, chunk.keys, ())

    def _parse_plain(self, first: int, block: bytes) -> AnswerChunk | None:
        """Parse rows as e2v writes them, in NumPy; None: some have other cells."""
        array = np.frombuffer(block, dtype=np.uint8)
        breaks, tabs = np.flatnonzero(array == ord("\n")), np.flatnonzero(array == ord("\t"))
        num_tabs = self.num_columns - 1 + len(self.labels)
        if len(tabs) != num_tabs * len(breaks):
            return None
        ends = np.column_stack([tabs.reshape(len(breaks), num_tabs), breaks])
        starts = np.concatenate([[0], breaks[:-1] + 1])
        if (ends[:, 0] < starts).any() or (np.diff(ends, axis=1) <= 0).any():
            return None
        numbers = range(first, first + len(breaks))
        keys = [block[begin:end] for begin, end in zip(starts.tolist(), ends[:, 0].tolist(), strict=True)]
        words, durations = _cut_column(block, ends, self.label_column), _cut_column(block, ends, self.duration_column)
        if not self.labels:
            return AnswerChunk(numbers, keys, words, None, durations)
        width = len(self.labels) * _DECIMAL_BYTES
        if ((breaks - ends[:, self.num_columns - 1]) != width).any():
            return None
        posteriors = parse_decimals(array[(breaks - width + 1)[:, None] + np.arange(width)], len(self.labels))
        if posteriors is None:
            return None
        return AnswerChunk(numbers, keys, words, self._check(numbers, keys, posteriors), durations)

    def _parse(self, lines: Sequence[tuple[int, bytes]]) -> AnswerChunk:
        """Parse rows of any cells.

        Raises:
            CorpusError: a row has another number of cells, or cells that are no probabilities.
        """
        numbers = [number for number, _ in lines]
        rows = [line.split(b"\t") for _, line in lines]
        for number, row in zip(numbers, rows, strict=True):
            if len(row) != self.num_columns + len(self.labels):
                raise CorpusError(
                    f"{self.text.name}:{number}: {len(row)} cells, but the header has "
                    f"{self.num_columns + len(self.labels)}"
                )
        keys, words = [row[0] for row in rows], [row[self.label_column] for row in rows]
        durations = [] if self.duration_column is None else [row[self.duration_column] for row in rows]
        if not self.labels:
            return AnswerChunk(numbers, keys, words, None, durations)
        posteriors = [
            [_parse_probability(cell, f"{self.text.name}:{number}") for cell in row[self.num_columns :]]
            for number, row in zip(numbers, rows, strict=True)
        ]
        return AnswerChunk(numbers, keys, words, self._check(numbers, keys, np.array(posteriors)), durations)

    def _check(
        self, numbers: Sequence[int], keys: Sequence[bytes], posteriors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Check the probabilities of each row.

        Raises:
            CorpusError: they are negative, not finite, or do not sum to 1.
        """
        sums = posteriors.sum(axis=1)
        with np.errstate(invalid="ignore"):
            is_right = (np.abs(sums - 1).round(9) <= SUM_TOLERANCE) & (posteriors >= 0).all(axis=1)
        if not is_right.all():
            index = int(is_right.argmin())
            utt_id, row = keys[index].decode(errors="backslashreplace"), posteriors[index]
            problem = (
                f"sum to {sums[index]:.4f}, not to 1 within {SUM_TOLERANCE:g}"
                if np.isfinite(row).all() and (row >= 0).all()
                else f"have {row[~((row >= 0) & np.isfinite(row))][0]:g}"
            )
            raise CorpusError(
                f"{self.text.name}:{numbers[index]}: the probabilities of {utt_id} {problem}; predict it again, "
                "or leave out the columns of classes"
            )
        return posteriors


def _cut_column(block: bytes, ends: NDArray[np.int64], column: int | None) -> list[bytes]:
    """Cut a column, not the first one, out of rows; ``ends``: (rows, columns) offsets of the ends of their cells."""
    if column is None:
        return []
    pairs = zip((ends[:, column - 1] + 1).tolist(), ends[:, column].tolist(), strict=True)
    return [block[begin:end] for begin, end in pairs]


def parse_decimals(texts: NDArray[np.uint8], num_columns: int) -> NDArray[np.float64] | None:
    """Parse probabilities with one digit and six decimals; None: some have another form.

    Args:
        texts: (rows, bytes), with a tab or a line break after each probability.
        num_columns: of the probabilities.
    """
    cells = texts.reshape(-1, _DECIMAL_BYTES)
    digits = cells[:, _DIGITS] - np.uint8(ord("0"))
    if (cells[:, 1] != ord(".")).any() or (digits > 9).any():
        return None
    numbers: NDArray[np.float64] = (digits @ _POWERS / 1e6).reshape(-1, num_columns)
    return numbers


def _parse_probability(cell: bytes, origin: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise CorpusError(f"{origin}: {cell.decode(errors='backslashreplace')!r} is no probability") from None


def open_predictions(source: str, stack: ExitStack) -> Predictions:
    """Open predictions until a stack closes.

    Raises:
        CorpusError: they can't be read, or the model has no head.
        OutputError: it is a folder without a run, or its journals can't be read.
    """
    path = Path(source)
    if source == "-" or not is_directory(path):
        return _open_file(open_text(source, stack))
    folder = open_run_folder(path)
    folder.refresh()
    if not folder.has_journals and exists(path / "predictions.tsv"):
        return _open_file(open_text(str(path / "predictions.tsv"), stack))
    if folder.is_published(folder.find_run().header.input_sha256):
        table = _open_file(open_text(str(path / "predictions.tsv"), stack))
        return replace(table, name=source, failed=read_summary(path).failed)
    text = _RunText(path)
    return _open_table(text, predictions_header(text.rows.header.labels), text.rows.failed, text.rows.left)


def _open_file(text: Text) -> Predictions:
    """Tell a table from a map by the first line."""
    names = tuple(first_line(text).decode(errors="backslashreplace").split("\t"))
    if names[0] == "utt_id":
        return _open_table(text, names)
    return Predictions(text.name, text, (), 0, 1)


def _open_table(text: Text, names: Sequence[str], failed: int = 0, left: int = 0) -> Predictions:
    """Read the header of a ``predictions.tsv``: all columns after e2v's own are classes.

    Raises:
        CorpusError: there is no column of labels.
    """
    own = prediction_columns(())
    if "label" not in names:
        raise CorpusError(
            f"{text.name}:1: no column of labels: a model without a head predicts no emotion; "
            "predict with one of e2v models that has classes"
        )
    num_columns = 1 + max(index for index, name in enumerate(names) if name in own)
    between = [name for name in names[:num_columns] if name not in own]
    if between:
        raise CorpusError(f'{text.name}:1: column "{between[0]}" is before {names[num_columns - 1]}; put classes last')
    duration_column = names.index("duration") if "duration" in names else None
    return Predictions(
        text.name, text, tuple(names[num_columns:]), num_columns, names.index("label"), duration_column, failed, left
    )
