"""A selection in words and in JSON, and the table of what was rejected."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.select.candidates import MILLION, TICKS, Candidates
from e2v_cli.analysis.select.rule_making import Found
from e2v_cli.analysis.select.rule_options import RuleOptions
from e2v_cli.analysis.select.selection import KEPT, Selection, Step, hours_above
from e2v_cli.analysis.select.sorted_ids import SortedIds
from e2v_cli.results.tables import number_labels
from e2v_cli.system.text import columns, tsv_row

REJECTED_HEADER = ("utt_id", "rule", "value", "limit")

DRY_LIMITS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Scores of which a dry run tells how much they would keep."""

SCORE_RULES = ("min-score", "min-margin", "threshold", "precision", "max-per-speaker", "hours", "top", "balance")
"""Rules of scores, and the rules after them."""


@dataclass(frozen=True)
class Unpredicted:
    """Utterances of a run's list that have no prediction."""

    failed: int
    left: int
    """Utterances that are not done yet."""


def describe_funnel(
    candidates: Candidates, selection: Selection, unpredicted: Unpredicted, thresholds: Mapping[str, float | None]
) -> str:
    """Describe what each rule rejects, and what is kept of each class."""
    first, *steps, last = selection.funnel
    left, seconds = int(first.counts.sum()), float(first.seconds.sum())
    missing = [(name, str(count), "", "") for name, count in asdict(unpredicted).items() if count]
    rows = [("rule", "rejected", "left", "hours"), *missing, ("predicted", "", str(left), _hours(seconds))]
    for step in steps:
        rejected = int(step.counts.sum())
        left, seconds = left - rejected, seconds - float(step.seconds.sum())
        rows.append((step.name, str(rejected), str(left), _hours(seconds)))
    table = [("class", "utterances", "kept", "hours", "threshold")]
    for index, name in enumerate(candidates.classes):
        threshold = thresholds.get(name)
        shown = "" if threshold is None else f"{threshold:.6f}"
        counts = (str(first.counts[index]), str(last.counts[index]))
        table.append((name, *counts, _hours(float(last.seconds[index])), shown))
    return columns(rows, numbers=True) + "\n" + columns(table, numbers=True)


def describe_limits(candidates: Candidates, selection: Selection) -> str:
    """Describe how many hours of each class a threshold of the score would keep, of what other rules leave."""
    other = [number for number, rule in enumerate(selection.rules) if rule.name in SCORE_RULES]
    chosen = (selection.rejecting == KEPT) | (selection.rejecting >= min(other, default=len(selection.rules)))
    hours = hours_above(candidates, chosen, DRY_LIMITS)
    rows = [("hours at", *(f"{limit:g}" for limit in DRY_LIMITS))]
    for index, name in enumerate(candidates.classes):
        rows.append((name, *(_hours(3600 * float(hours[limit][index])) for limit in DRY_LIMITS)))
    return columns(rows, numbers=True)


def _hours(seconds: float) -> str:
    return f"{max(seconds, 0.0) / 3600:.2f}" if seconds >= 3600 else f"{max(seconds, 0.0) / 3600:.4f}"


def funnel_facts(candidates: Candidates, selection: Selection, unpredicted: Unpredicted) -> list[dict[str, Any]]:
    """Return the funnel as JSON has it: the input; what goes at each step and what is kept, which sum to the input."""
    first, *steps = (_step_facts(candidates, step) for step in selection.funnel)
    missing = [{"step": name, "utterances": count} for name, count in asdict(unpredicted).items()]
    return [{**first, "utterances": first["utterances"] + unpredicted.failed + unpredicted.left}, *missing, *steps]


def _step_facts(candidates: Candidates, step: Step) -> dict[str, Any]:
    of_class = {
        name: {"utterances": count, "hours": _round_hours(seconds)}
        for name, count, seconds in zip(candidates.classes, step.counts.tolist(), step.seconds.tolist(), strict=True)
    }
    total = {"utterances": int(step.counts.sum()), "hours": _round_hours(float(step.seconds.sum()))}
    return {"step": step.name, **total, "classes": of_class}


def _round_hours(seconds: float) -> float:
    return round(seconds / 3600, 9)


def rule_facts(options: RuleOptions) -> dict[str, Any]:
    """Return the rules that were given, by the names of their options, and the default threshold."""
    facts: dict[str, Any] = {
        "classes": list(options.classes),
        "drop": list(options.drop),
        "min-duration": options.min_duration,
        "max-duration": options.max_duration,
        "where": list(map(str, options.where)),
        "agree": list(options.agree),
        "steady": options.steady,
        "min-score": {word or "all": limit for word, limit in options.min_scores},
        "min-margin": options.min_margin,
        "threshold": options.default_threshold,
        "reference": options.reference,
        "precision": options.precision,
        "max-per-speaker": options.max_per_speaker,
        "hours": options.hours,
        "top": options.top,
        "balance": options.balance,
        "split": dict(options.split),
    }
    return {name: value for name, value in facts.items() if value not in (None, [], {}, False)}


def found_facts(found: Found) -> dict[str, Any]:
    """Return the thresholds of classes, their bounds on the sample, and digests of the files that were read."""
    facts: dict[str, Any] = {"thresholds": found.thresholds}
    if found.sample_bounds:
        facts["sample"] = {name: asdict(bound) for name, bound in found.sample_bounds.items()}
    return {**facts, "digests": found.digests}


def write_rejected(file: BinaryIO, candidates: Candidates, ids: SortedIds, selection: Selection) -> str:
    """Write ``rejected.tsv``: a row for each utterance that is not kept, in C order.

    Returns:
        The SHA-256 of the first four columns of ``predictions.tsv`` in C order, without the header.
    """
    file.write((tsv_row(REJECTED_HEADER) + "\n").encode())
    digest, first = hashlib.sha256(), 0
    labels = list(number_labels(candidates.classes))
    for keys in ids.chunks():
        rows = np.arange(first, first + len(keys))
        first += len(keys)
        cells = zip(
            keys,
            map(labels.__getitem__, candidates.labels[rows].tolist()),
            (candidates.scores[rows] / MILLION).tolist(),
            (candidates.durations[rows] / TICKS).tolist(),
            strict=True,
        )
        digest.update(b"".join([b"%b\t%b\t%.6f\t%.4f\n" % row for row in cells]))
        file.write(_format_rejected(keys, rows, selection))
    return digest.hexdigest()


def _format_rejected(keys: Sequence[bytes], rows: NDArray[np.int64], selection: Selection) -> bytes:
    """Format the rows of some neighbours that are rejected."""
    lines = [b""] * len(keys)
    rejecting = selection.rejecting[rows]
    for number in np.unique(rejecting[rejecting != KEPT]).tolist():
        indices = np.flatnonzero(rejecting == number)
        rule, judgement = selection.rules[number], selection.judgements[number]
        texts = zip(indices.tolist(), judgement.values(rows[indices]), judgement.limits(rows[indices]), strict=True)
        for index, value, limit in texts:
            lines[index] = keys[index] + f"\t{tsv_row((rule.name, value, limit))}\n".encode()
    return b"".join(lines)
