"""Rows of ``predictions.tsv`` and ``failures.tsv``, and file names made of ids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from e2v_cli.journal.history import DoneLine
    from e2v_cli.records import DoneRecord

MAX_NAME_BYTES = 200
"""Longer file names are cut and get a digest; most file systems end at 255 bytes."""

FAILURES_HEADER = ("utt_id", "stage", "reason", "detail")


def predictions_header(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of ``predictions.tsv``; a model without a head has no labels and fewer columns."""
    return ("utt_id", *(("label", "score") if labels else ()), "duration", "windows", *labels)


def predictions_row(record: DoneRecord) -> tuple[str, ...]:
    """Format the cells of a row of ``predictions.tsv``; the score is the probability of the label."""
    posteriors = record.posteriors
    label = (record.label, f"{max(posteriors):.6f}") if posteriors else ()
    cells = (f"{posterior:.6f}" for posterior in posteriors)
    return (record.utt_id, *label, f"{record.duration:.4f}", str(record.windows), *cells)


def predictions_line(done: DoneLine) -> bytes:
    """Compose the same row, with its line break, from the cells of a journal line.

    The score is the greatest of the probabilities: texts of the same length are in the order of their numbers.
    """
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
