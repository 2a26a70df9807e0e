"""How a result looks as a line: the rows of ``predictions.tsv``, TSV in general, and keys of Kaldi's own formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from e2v_cli.records import Entry, Prediction


def make_entry(prediction: Prediction, labels: Sequence[str], place: str | None) -> Entry:
    """Make the journal's entry of a prediction whose embedding is at ``place``."""
    posteriors = prediction.posteriors
    return Entry(
        utt_id=prediction.utterance.utt_id,
        duration=round(prediction.duration, 6),
        num_frames=prediction.num_frames,
        windows=prediction.windows,
        label=None if posteriors is None else labels[int(posteriors.argmax())],
        posteriors=() if posteriors is None else tuple(round(float(probability), 6) for probability in posteriors),
        embedding=place,
    )


def predictions_header(labels: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of ``predictions.tsv``; a model without a head has no labels and fewer columns."""
    return ("utt_id", *(("label", "score") if labels else ()), "duration", "windows", *labels)


def predictions_row(entry: Entry) -> tuple[str, ...]:
    """Make a row of ``predictions.tsv``."""
    label = () if entry.label is None else (entry.label, f"{max(entry.posteriors):.6f}")
    probabilities = (f"{probability:.6f}" for probability in entry.posteriors)
    return (entry.utt_id, *label, f"{entry.duration:.4f}", str(entry.windows), *probabilities)


def tsv_line(fields: Iterable[str]) -> str:
    """Join the columns of a row; a tab or line break within one would break the table and becomes a space."""
    return "\t".join(re.sub(r"[\t\n\r]", " ", field) for field in fields) + "\n"


def kaldi_key(utt_id: str) -> str:
    """Make an id a key of Kaldi's own formats, where white space ends it: it is percent-encoded."""
    return re.sub(r"[ \t\n\v\f\r]", lambda match: f"%{ord(match.group()):02X}", utt_id)
