"""A score → sentences about what was compared, and tables of short texts, which all formats for readers show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from e2v_cli._version import __version__
from e2v_cli.analysis.metrics.calibration import COVERAGES
from e2v_cli.analysis.metrics.metrics import MAIN_METRICS
from e2v_cli.analysis.score.groups import GroupTable
from e2v_cli.analysis.score.score import Estimate, Score, View
from e2v_cli.options import METRIC_NAMES
from e2v_cli.system.text import counted, fitted

SHOWN_GROUPS = 30
"""Rows of a table of groups; of more groups, the first and last by UA are shown."""

MAX_WIDTH, MAX_LINE = 60, 1000
"""Columns of a terminal that a text in a table fills at most, and a sentence."""

DEFINITIONS = {
    "WA": "accuracy: right answers among all utterances; not weighted by class",
    "UA": "unweighted average recall (UAR): mean recall over the classes of the reference",
    "WF1": "mean F1 over the classes of the reference, weighted by their utterances",
    "MF1": "mean F1 over the classes of the reference (macro F1)",
    "kappa": "Cohen's kappa",
    "MCC": "Matthews correlation coefficient of several classes",
    "open": "the answer is the label as predicted, of all classes of the model; an answer that is none of the classes "
    "that count is wrong",
    "closed": "the answer is the most probable of the classes that count, whose probabilities are summed where classes "
    "are merged, and divided by their sum",
    "interval": "percentiles of a bootstrap",
    "NLL": "mean negative natural logarithm of the probability of the reference's class, of at least 5e-7",
    "Brier": "squared differences of the probabilities to the reference, summed over classes",
    "ECE": "expected calibration error: 15 bins of equal width, without the lower end and with the upper one",
    "accuracy_at": "accuracy of the share of utterances that is most confident",
}
"""Definitions of the numbers, by name."""


@dataclass(frozen=True)
class TextTable:
    """A table of texts; all columns but the first are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _make_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> TextTable:
    """Make a table of texts that a terminal can show: short, and without control characters."""

    def fit(cells: Sequence[str]) -> tuple[str, ...]:
        return tuple(fitted(cell, MAX_WIDTH) for cell in cells)

    return TextTable(fitted(title, MAX_WIDTH), fit(header), tuple(map(fit, rows)))


def format_number(value: float | None) -> str:
    """Format a metric with four decimals; a dash: it is not defined."""
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def format_interval(estimate: Estimate) -> str:
    """Format the ends of an interval; empty: no interval, or not defined."""
    if estimate.low is None or math.isnan(estimate.low):
        return ""
    return f"{format_number(estimate.low)}–{format_number(estimate.high)}"


def _order_views(score: Score) -> list[tuple[str, View]]:
    """List all views, the headline first."""
    return sorted(score.views.items(), key=lambda item: item[0] != score.headline)


def shown_views(score: Score) -> list[tuple[str, View]]:
    """List the views whose answers differ, the headline first."""
    first, *others = _order_views(score)
    return [first, *((name, view) for name, view in others if _differs(view, score.view))]


def _differs(view: View, other: View) -> bool:
    return (view.confusion, view.answers) != (other.confusion, other.answers)


def list_tables(score: Score) -> list[TextTable]:
    """Make all tables."""
    view = score.view
    tables = [_metrics_table(score), _classes_table(view)]
    if view.calibration is not None:
        tables.append(_calibration_table(score))
    if score.folds is not None:
        tables.append(_groups_table(score.folds))
    tables += [_groups_table(table) for table in score.groups]
    if score.comparison is not None:
        tables.append(_comparison_table(score))
    return tables


def _metrics_table(score: Score) -> TextTable:
    """Make the table of metrics: of each view that differs, pooled where there are folds, and of trivial answers."""
    interval = "" if score.interval is None else f"{score.interval.confidence * 100:g} % interval"
    columns: list[tuple[str, Mapping[str, Estimate]]] = []
    for name, view in shown_views(score):
        columns.append((name if score.folds is None else f"{name}, mean of folds", view.metrics))
        if score.folds is not None:
            columns.append((f"{name}, pooled", view.pooled))
    header = [""]
    for name, _ in columns:
        header += [name, interval] if interval else [name]
    plain: dict[str, Mapping[str, float]] = {}
    if score.view.without_lacking is not None:
        plain[f"without {', '.join(score.lacking)}"] = score.view.without_lacking
    plain[f"always {score.majority}"] = score.majority_metrics
    plain["chance"] = {"WA": score.chance, "UA": score.chance}
    rows = []
    for name in METRIC_NAMES:
        row = [name]
        for _, metrics in columns:
            row += [format_number(metrics[name].value), *([format_interval(metrics[name])] if interval else [])]
        rows.append((*row, *(format_number(values.get(name)) for values in plain.values())))
    return _make_table("Metrics", (*header, *plain), tuple(rows))


def _classes_table(view: View) -> TextTable:
    rows = tuple(
        (found.name, *map(format_number, (found.precision, found.recall, found.f1)), str(found.support))
        for found in view.classes
    )
    return _make_table("Classes", ("class", "precision", "recall", "F1", "support"), rows)


def _calibration_table(score: Score) -> TextTable:
    """Make the table of calibration: of each view whose numbers differ, also where the answers are the same."""
    names: dict[tuple[str, ...], str] = {}
    for name, view in _order_views(score):
        found = view.calibration
        if found is not None:
            numbers = (found.nll, found.brier, found.ece, *found.accuracy_at.values())
            names.setdefault((str(found.utterances), *map(format_number, numbers)), name)
    shares = (f"WA of {share:.0%}" for share in COVERAGES)
    rows = ((name, *cells) for cells, name in names.items())
    return _make_table("Calibration", ("", "utterances", "NLL", "Brier", "ECE", *shares), tuple(rows))


def _groups_table(table: GroupTable) -> TextTable:
    """Make the table of groups; of many, those of the lowest and the highest UA."""
    rows = [(row.name, str(row.utterances), *_main(row.metrics)) for row in table.rows]
    if len(rows) > SHOWN_GROUPS:
        ordered = sorted(table.rows, key=lambda row: (row.metrics["UA"], row.name))
        half = SHOWN_GROUPS // 2
        ends = (*ordered[:half], *ordered[-half:])
        rows = [(row.name, str(row.utterances), *_main(row.metrics)) for row in ends]
        rows.insert(half, (f"… {len(ordered) - 2 * half} more", "", *[""] * len(MAIN_METRICS)))
    for name in ("mean", "min", "max"):
        rows.append((name, "", *_main(getattr(table, name))))
    return _make_table(f"By {table.by}", (table.by, "utterances", *MAIN_METRICS), tuple(rows))


def _main(metrics: Mapping[str, float]) -> list[str]:
    return [format_number(metrics[name]) for name in MAIN_METRICS]


def _comparison_table(score: Score) -> TextTable:
    """Make the table of differences to the other predictions."""
    comparison = score.comparison
    if comparison is None:
        raise ValueError("nothing is compared")
    rows = []
    for name in METRIC_NAMES:
        found = comparison.differences[name]
        interval = format_interval(Estimate(found.value, found.low, found.high))
        p = "" if found.p is None else f"{found.p:.4g}"
        row = (name, format_number(score.metrics[name].value), format_number(comparison.against_metrics[name]))
        rows.append((*row, format_number(found.value), interval, p))
    interval = "" if score.interval is None else f"{score.interval.confidence * 100:g} % interval"
    return _make_table(
        f"Against {comparison.against.name}", ("", "here", "there", "difference", interval, "p"), tuple(rows)
    )


def confusion_table(view: View) -> TextTable:
    """Make the table of the confusion matrix: a row a class of the reference, a column an answer."""
    rows = tuple((found.name, *map(str, counts)) for found, counts in zip(view.classes, view.confusion, strict=True))
    return _make_table("Confusion: reference by row, answer by column", ("", *view.answers), rows)


def describe_comparison(score: Score) -> list[str]:
    """Describe what was compared, what was left out, and what has to be known of the numbers."""
    counts = score.counts
    lines = [
        f"{score.predictions.name} against {score.reference.name}: {counts.scored} of {counts.reference} utterances, "
        f"{len(score.classes)} classes, {score.headline}"
    ]
    lines += [f"left out: {text}" for text in _list_left_out(score)]
    lines += [f"{name}: {DEFINITIONS[name]}" for name, _ in shown_views(score)]
    if len(score.views) > 1 and len(shown_views(score)) == 1:
        lines.append("open and closed answers are the same here")
    if score.interval is not None:
        few = "; fewer than 20, so that the intervals are too narrow" if score.interval.is_of_few else ""
        lines.append(f"intervals: over {describe_units(score)}{few}")
    lines += [f"note: {text}" for text in _list_notes(score)]
    return [fitted(line, MAX_LINE) for line in lines]


def describe_units(score: Score) -> str:
    """Describe what was resampled; empty: nothing was."""
    interval = score.interval
    if interval is None:
        return ""
    is_named = interval.unit in ("speaker", "utterance")
    units = counted(interval.units, interval.unit if is_named else "group")
    of_file = "" if is_named else f" of {interval.unit}"
    return f"{units}{of_file}, {interval.resamples} resamples, seed {interval.seed}"


def _list_left_out(score: Score) -> list[str]:
    counts = score.counts
    found = []
    for why, left in (("left out by the map", counts.dropped), ("of classes that do not count", counts.uncounted)):
        if sum(left.values()):
            each = ", ".join(f"{name} {number}" for name, number in left.items() if number)
            found.append(f"{sum(left.values())} {why} ({each})")
    if counts.missing and score.missing == "skip":
        found.append(f"{counts.missing} without a prediction{_of_run(score)}")
    if counts.not_in_reference:
        found.append(f"{counts.not_in_reference} predictions of utterances that the reference does not have")
    return found


def _of_run(score: Score) -> str:
    failed, left = score.counts.failed, score.counts.left
    return f" (of the run, {failed} failed and {left} are left)" if failed or left else ""


def _list_notes(score: Score) -> list[str]:
    """List what has to be known of the numbers."""
    notes = []
    if score.counts.missing and score.missing == "wrong":
        notes.append(f"{score.counts.missing} without a prediction count as wrong{_of_run(score)}")
    if score.lacking:
        listed = ", ".join(score.lacking)
        notes.append(f"the model lacks {listed}: recall 0; the metrics without are beside")
    present = [found.name for found in score.view.classes if found.support]
    if len(present) == 1:
        notes.append(f"only one class, {present[0]}: UA is its recall, and says nothing of other classes")
    absent = [found.name for found in score.view.classes if not found.support]
    if absent:
        notes.append(f"the reference has none of {', '.join(absent)}: they count in no mean")
    for name, view in _order_views(score):
        if view.ties:
            notes.append(f"{view.ties} ties of several most probable classes, {name}: the first of them is the answer")
    return notes


def write_methods(score: Score) -> str:
    """Write a sentence for a methods section."""
    counts = score.counts
    ua, wa = (_percent_of(score.metrics[name]) for name in ("UA", "WA"))
    folds = "" if score.folds is None else f" (means of {len(score.folds.rows)} folds)"
    interval = ""
    if score.interval is not None:
        interval = (
            f"; {score.interval.confidence * 100:g} % intervals are percentiles of a bootstrap over "
            f"{describe_units(score)}"
        )
    kind = {
        "open": "answers outside these classes count as errors",
        "closed": "answers are restricted to these classes",
    }[score.headline]
    return (
        f"On {counts.scored} utterances of {len(score.classes)} classes ({', '.join(score.classes)}), unweighted "
        f"average recall was {ua} and accuracy {wa}{folds}; {kind}{interval} (e2v {__version__})."
    )


def _percent_of(estimate: Estimate) -> str:
    ends = "" if estimate.low is None or estimate.high is None else f" ({_share(estimate.low)}–{_share(estimate.high)})"
    return f"{_share(estimate.value)} %{ends}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"
