"""Rows of ``predictions.tsv`` and ``failures.tsv``, and file names made of ids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from e2v_cli.system.text import tsv_row

if TYPE_CHECKING:
    from e2v_cli.journal.history import DoneLine
    from e2v_cli.records import DoneRecord

MAX_NAME_BYTES = 200
"""Most bytes of a file name: longer names are cut and get a digest; most file systems end at 255 bytes."""

LABEL_COLUMNS = ("label", "score")
"""Columns of predictions that only models with a head have."""

FAILURES_HEADER = ("utt_id", "stage", "reason", "detail")


def prediction_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a prediction's row; those of the label are empty where a model has no head."""
    return ("utt_id", "label", "score", "duration", "windows", *labels)


def predictions_header(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of ``predictions.tsv``; a model without a head has no labels and fewer columns."""
    return tuple(column for column in prediction_columns(labels) if labels or column not in LABEL_COLUMNS)


def number_labels(labels: Sequence[str]) -> dict[bytes, int]:
    """Return the index of each label, by its cell in rows and journals."""
    return {tsv_row([label]).encode(): index for index, label in enumerate(labels)}


def prediction_row(record: DoneRecord) -> tuple[str, ...]:
    """Format the cells of a prediction; the score is the probability of the label."""
    cells = [f"{posterior:.6f}" for posterior in record.posteriors]
    score = max(cells, default="")
    return (record.utt_id, record.label, score, f"{record.duration:.4f}", str(record.windows), *cells)


def journalled_row(done: DoneLine) -> tuple[str, ...]:
    """Return the cells of a prediction from those of a journal line.

    The score is the greatest of the probabilities: texts of the same length are in the order of their numbers.
    """
    cells = done.posteriors.decode().split("\t") if done.posteriors else []
    score = max(cells, default="")
    return (done.utt_id.decode(), done.label.decode(), score, done.duration.decode(), done.windows.decode(), *cells)


def predictions_line(done: DoneLine) -> bytes:
    """Compose the line of ``predictions.tsv`` of a journal line, without an empty label and score."""
    posteriors = done.posteriors
    if not posteriors:
        return b"\t".join((done.utt_id, done.duration, done.windows)) + b"\n"
    score = max(posteriors.split(b"\t"))
    return b"\t".join((done.utt_id, done.label, score, done.duration, done.windows, posteriors)) + b"\n"


def file_name(utt_id: str) -> str:
    """Make a file name of an id: unsafe characters are percent-encoded, and long names are cut."""
    name = re.sub(r'[\x00-\x1f\x7f%/\\:*?"<>|]|^\.', lambda match: f"%{ord(match.group()):02X}", utt_id)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(utt_id.encode()).hexdigest()[:32]
    return name.encode()[: MAX_NAME_BYTES - 34].decode(errors="ignore") + "%-" + digest  # no other name has %-
