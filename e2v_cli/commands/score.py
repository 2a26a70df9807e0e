"""``e2v score``: predictions and a reference → metrics, as text on standard output and as files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2v_cli.analysis.reading.references import Reference
from e2v_cli.analysis.reading.selections import read_selection
from e2v_cli.analysis.score.score import Score
from e2v_cli.analysis.score.score_files import format_json, format_tsv, write_files
from e2v_cli.analysis.score.score_tables import format_number
from e2v_cli.analysis.score.score_text import format_latex, format_markdown, format_text
from e2v_cli.analysis.score.scoring import compute_score
from e2v_cli.options import ScoreFormat, ScoreOptions

FORMATS: Mapping[ScoreFormat, Callable[[Score], str]] = {
    "text": format_text,
    "json": format_json,
    "tsv": format_tsv,
    "markdown": format_markdown,
    "latex": format_latex,
}


def score(
    predictions: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Score:
    """Compare predictions with a reference, as ``e2v score`` does.

    Examples:
        >>> found = score("exp/demo", "sample_data", closed=True, merge={"excited": "happy"})
        >>> found.metrics["UA"]
        Estimate(value=0.854, low=0.79, high=0.91)

    Args:
        predictions: a run folder, a ``predictions.tsv``, or a map of utterances to labels.
        reference: a Kaldi directory with ``utt2emo``, a map, EmoBox's JSON lines, or a table.
        against: other predictions, for a paired comparison.
        options: those of the command, by their names: the fields of ``ScoreOptions``.

    Raises:
        E2vError: an input can't be used; the message tells what to do.
        TypeError: there is no such option.
    """
    if isinstance(options.get("merge"), Mapping):
        options["merge"] = tuple(options["merge"].items())
    for name in ("by", "classes"):
        if name in options:
            options[name] = (options[name],) if isinstance(options[name], str) else tuple(options[name])
    other = None if against is None else os.fspath(against)
    with ExitStack() as stack:
        return compute_score(os.fspath(predictions), os.fspath(reference), ScoreOptions(**options), other, stack).score


@dataclass(frozen=True)
class ScoreReport:
    """A score as a text, and which of its metrics are lower than required."""

    text: str
    notes: tuple[str, ...]
    """Notes for the user."""
    too_low: tuple[str, ...]
    """Messages on metrics that are lower than required."""


def report_score(
    sources: tuple[str, str, str | None],
    options: ScoreOptions,
    required: Mapping[str, float],
    form: ScoreFormat,
    output_dir: Path | None,
    blocks: bool = False,
) -> ScoreReport:
    """Compare predictions with a reference, and report the score.

    Args:
        sources: PREDICTIONS, REFERENCE, and other predictions, if any.
        options: options of the comparison.
        required: the least value of metrics, by name.
        form: of the text.
        output_dir: where files are written; None: none are.
        blocks: whether a text has blocks for the shares in the confusion matrix.

    Raises:
        CorpusError: an input can't be used.
        OutputError: a run folder can't be read, or files can't be written.
        UsageError: an option does not fit the inputs.
    """
    predictions, reference, against = sources
    with ExitStack() as stack:
        scored = compute_score(predictions, reference, options, against, stack)
        if output_dir is not None:
            write_files(output_dir, scored)
    found = scored.score.metrics
    too_low = tuple(
        f"{name} is {format_number(found[name].value)}, lower than --require {name}={least:g}"
        for name, least in required.items()
        if not found[name].value >= least
    )
    text = format_text(scored.score, blocks) if form == "text" else FORMATS[form](scored.score)
    return ScoreReport(text, _describe_selection(scored.reference), too_low)


def _describe_selection(reference: Reference) -> tuple[str, ...]:
    """Describe a reference whose labels were predicted: that of a selection, or of a part of one."""
    path = Path(reference.text.name)
    if path.name != "utt2emo":
        return ()
    runs = (read_selection(folder).get("out") for folder in path.parents[:2])
    run = next(filter(None, runs), None)
    if run is None:
        return ()
    return (
        f"{path}: e2v select wrote the labels that were predicted in {run}: where nobody corrected them, "
        "this is agreement with that run, not accuracy",
    )
