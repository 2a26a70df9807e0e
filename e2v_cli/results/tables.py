"""How a result looks as a line: rows of ``predictions.tsv``, TSV in general, keys of Kaldi's formats, file names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from e2v_cli.system.text import tsv_row
from e2v_cli.records import DoneRecord, Failure, Prediction

MAX_NAME_BYTES = 200
"""Longer file names are cut and get a digest; most file systems end at 255 bytes."""

FAILURES_HEADER = ("utt_id", "stage", "reason", "detail")


def make_entry(prediction: Prediction, labels: Sequence[str], embedding: str, timeline: str) -> DoneRecord:
    """Make the journal's entry of a prediction whose embedding and rows of the timeline are at these places."""
    return DoneRecord(
        index=prediction.utterance.index,
        duration=prediction.duration,
        num_frames=prediction.num_frames,
        embedding=embedding,
        timeline=timeline,
        row=tsv_row(predictions_row(prediction, labels)),
    )


def predictions_header(labels: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of ``predictions.tsv``; a model without a head has no labels and fewer columns."""
    return ("utt_id", *(("label", "score") if labels else ()), "duration", "windows", *labels)


def predictions_row(prediction: Prediction, labels: Sequence[str]) -> tuple[str, ...]:
    """Make a row of ``predictions.tsv``."""
    posteriors = prediction.posteriors
    label: tuple[str, ...] = ()
    probabilities: tuple[str, ...] = ()
    if posteriors is not None:
        label = (labels[int(posteriors.argmax())], f"{posteriors.max():.6f}")
        probabilities = tuple(f"{probability:.6f}" for probability in posteriors)
    return (
        prediction.utterance.utt_id,
        *label,
        f"{prediction.duration:.4f}",
        str(prediction.windows),
        *probabilities,
    )


def failures_row(failure: Failure) -> tuple[str, ...]:
    """Make a row of ``failures.tsv``."""
    return (failure.utterance.utt_id, failure.stage, failure.reason, failure.detail)


def kaldi_key(utt_id: str) -> str:
    """Make an id a key of Kaldi's own formats, where white space ends it, in Python's readers any of Unicode's too.

    It is percent-encoded.
    """
    return re.sub(r"\s", lambda match: "".join(f"%{byte:02X}" for byte in match.group().encode()), utt_id)


def file_name(utt_id: str) -> str:
    """Make a file name of an id: itself where that is safe, else percent-encoded, and cut where it is too long."""
    name = re.sub(r'[\x00-\x1f\x7f%/\\:*?"<>|]|^\.', lambda match: f"%{ord(match.group()):02X}", utt_id)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(utt_id.encode()).hexdigest()[:32]
    return name.encode()[: MAX_NAME_BYTES - 34].decode(errors="ignore") + "%-" + digest  # no other name has %-
