"""A score → ``score.json``, ``confusion.tsv``, ``classes.tsv``, ``groups.tsv`` and ``errors.tsv``; JSON and TSV."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from e2v_cli._version import __version__
from e2v_cli.analysis.labels.classes import MISSING
from e2v_cli.analysis.score.score import Estimate, Score
from e2v_cli.analysis.score.score_tables import DEFINITIONS, write_methods
from e2v_cli.analysis.score.scoring import Scored
from e2v_cli.errors import OutputError
from e2v_cli.options import METRIC_NAMES
from e2v_cli.system.files import published
from e2v_cli.system.sorting import sort_lines
from e2v_cli.system.text import tsv_row

JSON_FORMAT = 1
"""The version of ``score.json``."""

SORTED_LINES = 1 << 17
"""Errors that are sorted in memory at a time."""

_MILLION = 10**6


def format_json(score: Score) -> str:
    """Format a score as JSON: see ``score.schema.json`` beside this module."""
    views = {
        name: {
            "metrics": _estimates(view.metrics),
            "pooled": _estimates(view.pooled),
            "without_lacking": view.without_lacking,
            "classes": [asdict(found) for found in view.classes],
            "confusion": {"reference": list(score.classes), "answers": list(view.answers), "counts": view.confusion},
            "calibration": view.calibration and asdict(view.calibration),
            "ties": view.ties,
        }
        for name, view in score.views.items()
    }
    content = {
        "format": JSON_FORMAT,
        "versions": {"e2v": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "predictions": asdict(score.predictions),
        "reference": asdict(score.reference),
        "headline": score.headline,
        "metrics": _estimates(score.metrics),
        "classes": list(score.classes),
        "model_classes": list(score.model_classes),
        "lacking": list(score.lacking),
        "counts": asdict(score.counts),
        "missing": score.missing,
        "interval": score.interval and {**asdict(score.interval), "few": score.interval.is_of_few},
        "views": views,
        "folds": score.folds and asdict(score.folds),
        "groups": [asdict(table) for table in score.groups],
        "comparison": score.comparison and asdict(score.comparison),
        "baselines": {
            "majority": {"class": score.majority, "metrics": score.majority_metrics},
            "chance": {"WA": score.chance, "UA": score.chance},
        },
        "definitions": DEFINITIONS,
        "methods": write_methods(score),
    }
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _estimates(metrics: Any) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}


def _finite(value: Any) -> Any:
    """Replace numbers that are not defined by null, which JSON has, and tuples by lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def format_tsv(score: Score) -> str:
    """Format the metrics of a score, a row each."""
    rows = [("view", "metric", "value", "low", "high")]
    for name, view in score.views.items():
        for kind, metrics in ((name, view.metrics), *([(f"{name} pooled", view.pooled)] if score.folds else [])):
            rows += [(kind, metric, *_format_estimate(metrics[metric])) for metric in METRIC_NAMES]
        for metric, value in (view.without_lacking or {}).items():
            rows.append((f"{name} without lacking", metric, _decimals(value), "", ""))
    return "".join(tsv_row(row) + "\n" for row in rows)


def _format_estimate(estimate: Estimate) -> tuple[str, str, str]:
    return _decimals(estimate.value), _decimals(estimate.low), _decimals(estimate.high)


def _decimals(value: float | None) -> str:
    """Format a metric with six decimals; empty: it is not defined."""
    return "" if value is None or math.isnan(value) else f"{value:.6f}"


def write_files(folder: Path, scored: Scored) -> None:
    """Write all files of a score; each is renamed when it is complete.

    Raises:
        OutputError: the folder can't be made.
        OSError: a file can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}; choose another -o") from None
    score = scored.score
    view = score.view
    confusion = zip(score.classes, view.confusion, strict=True)
    tables: dict[str, list[Sequence[str]]] = {
        "confusion.tsv": [("reference", *view.answers), *((name, *map(str, row)) for name, row in confusion)],
        "classes.tsv": [
            ("class", "precision", "recall", "f1", "support"),
            *((c.name, *map(_decimals, (c.precision, c.recall, c.f1)), str(c.support)) for c in view.classes),
        ],
        "groups.tsv": [("by", "group", "utterances", *METRIC_NAMES), *_group_rows(score)],
    }
    with published(folder / "errors.tsv") as file:
        _write_errors(file, scored)
    for name, rows in tables.items():
        with published(folder / name) as file:
            file.writelines((tsv_row(row) + "\n").encode() for row in rows)
    with published(folder / "score.json") as file:
        file.write(format_json(score).encode(errors="backslashreplace"))


def _group_rows(score: Score) -> Iterator[Sequence[str]]:
    """Make the rows of groups; those of the mean, least and greatest metrics have no number of utterances."""
    for table in (*([score.folds] if score.folds else []), *score.groups):
        for row in table.rows:
            yield (table.by, row.name, str(row.utterances), *(_decimals(row.metrics[name]) for name in METRIC_NAMES))
        for name, metrics in (("mean", table.mean), ("min", table.min), ("max", table.max)):
            yield (table.by, name, "", *(_decimals(metrics[metric]) for metric in METRIC_NAMES))


def _write_errors(file: BinaryIO, scored: Scored) -> None:
    """Write a row for each wrong answer, the most confident first, those of the same score in C order of their ids.

    Raises:
        OSError: a disk is full, that of temporary files perhaps.
    """
    file.write(b"utt_id\treference\tlabel\tp_reference\tscore\n")
    file.writelines(line.split(b"\t", 1)[1] for line in sort_lines(_error_lines(scored), SORTED_LINES))


def _error_lines(scored: Scored) -> Iterator[bytes]:
    """Make the lines of wrong answers, each after a key that is less for a greater score."""
    answers, names = scored.answers, [tsv_row([name]).encode() for name in scored.names]
    first = 0
    for keys in scored.reference.finder.ids():
        part = slice(first, first + len(keys))
        classes, indices = scored.classes[part], answers.indices[part]
        for wrong in np.flatnonzero((classes >= 0) & (indices != classes)).tolist():
            label = names[indices[wrong]] if indices[wrong] >= 0 else MISSING.encode()
            sort_key, cells = 2 * _MILLION, b"\t"
            if answers.scores is not None and answers.truths is not None and indices[wrong] >= 0:
                score = float(answers.scores[first + wrong])
                sort_key -= round(score * _MILLION)
                cells = b"%.6f\t%.6f" % (answers.truths[first + wrong], score)
            row = (b"%07d" % sort_key, keys[wrong], names[classes[wrong]], label, cells)
            yield b"\t".join(row) + b"\n"
        first += len(keys)
