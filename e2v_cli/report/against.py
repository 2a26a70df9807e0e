"""A run against a reference: its score, the utterances of each cell of the confusion matrix, errors, reliability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from e2v_cli.analysis.metrics.calibration import BINS
from e2v_cli.analysis.metrics.metrics import MAIN_METRICS
from e2v_cli.analysis.reading.references import GROUP_FILES
from e2v_cli.analysis.score.groups import GROUPINGS
from e2v_cli.analysis.score.score import Estimate, Score
from e2v_cli.analysis.score.score_tables import TextTable, describe_comparison, list_tables, write_methods
from e2v_cli.analysis.score.scoring import compute_score
from e2v_cli.corpus.lists import has_list
from e2v_cli.journal.ids import IdList
from e2v_cli.options import ScoreOptions
from e2v_cli.report.charts import draw_reliability

IN_CELL = 8
"""The most utterances of a cell that can be opened: those of the highest scores."""

SHADES = 9
"""Number of shades of cells that are not empty."""


@dataclass(frozen=True)
class RunOutcomes:
    """Outcomes of utterances, by the reference."""

    truths: NDArray[np.int16]
    """(utterances,): classes of the reference; -1: no class that counts, or no answer."""
    answers: NDArray[np.int16]
    """(utterances,): indices among the names of answers."""
    scores: NDArray[np.float32]
    """(utterances,): probabilities of the answers; 0 where they are not known."""

    def of(self, indices: NDArray[np.int32]) -> RunOutcomes:
        """Return the outcomes of some utterances."""
        return RunOutcomes(self.truths[indices], self.answers[indices], self.scores[indices])

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """(utterances,): whether the reference has another class."""
        wrong: NDArray[np.bool_] = (self.truths >= 0) & (self.truths != self.answers)
        return wrong


@dataclass(frozen=True)
class Against:
    """A run against a reference."""

    score: Score
    names: tuple[str, ...]
    """Names of answers."""
    outcomes: RunOutcomes

    def of(self, indices: NDArray[np.int32]) -> Against:
        """Return the comparison with the outcomes of some utterances."""
        return replace(self, outcomes=self.outcomes.of(indices))

    def name_truths(self, indices: Iterable[int]) -> dict[int, str]:
        """Name the classes that the reference has of utterances, by their indices in the outcomes."""
        return {index: self.names[self.outcomes.truths[index]] for index in indices}


@dataclass(frozen=True)
class ConfusionCell:
    """A cell of the confusion matrix."""

    truth: str
    answer: str
    count: int
    shade: int
    """Index of the cell's shade, from 0: the greater its share of the row, the darker."""
    numbers: Sequence[int] = ()
    """Numbers of the utterances that the cell opens."""

    @property
    def is_right(self) -> bool:
        """Whether the answer is that of the reference."""
        return self.truth == self.answer


@dataclass(frozen=True)
class ReferenceBlock:
    """The block of a reference on the page."""

    sentences: Sequence[str]
    metrics: Mapping[str, Estimate]
    """Main metrics of the headline, by name."""
    tables: Sequence[TextTable]
    answers: Sequence[str]
    """Columns of the confusion matrix."""
    cells: Sequence[Sequence[ConfusionCell]]
    """(classes, answers)."""
    reliability: Markup | None
    """Chart of accuracy by confidence; None: no probabilities."""
    errors: Sequence[int]
    """Numbers of utterances, the most confident first."""
    num_errors: int
    """Number of errors among the utterances that are done."""
    methods: str


def find_groupings(reference: str) -> tuple[str, ...]:
    """Find the groupings that a Kaldi directory has."""
    folder = Path(reference)
    return tuple(kind for kind in GROUPINGS if any(has_list(folder / name) for name in GROUP_FILES[kind]))


def compare_run(output_dir: Path, input_sha256: str, reference: str, scoring: ScoreOptions) -> Against:
    """Compare a run with a reference: the outcomes of all utterances of its list, whether they are done or not.

    Args:
        output_dir: OUT.
        input_sha256: the digest of the list.
        reference: as of ``e2v score``.
        scoring: options of the comparison; without groupings, all that the reference has are taken.

    Raises:
        CorpusError: the reference can't be used.
        OutputError: the run can't be read.
        UsageError: an option does not fit the reference.
    """
    scoring = replace(scoring, by=scoring.by or find_groupings(reference))
    with ExitStack() as stack:
        scored = compute_score(str(output_dir), reference, scoring, None, stack)
        finder, answers = scored.reference.finder, scored.answers
        ids = IdList(output_dir, input_sha256)
        found = np.concatenate([finder.find(finder.hashes_of(keys)) for keys in ids.ids()])
    predictions, labels = scored.score.predictions, scored.score.reference
    named = replace(  # by the names of their folders, from wherever they are compared
        scored.score,
        predictions=replace(predictions, name=output_dir.resolve().name),
        reference=replace(labels, name=Path(reference).resolve().name),
    )
    has_answer = (found >= 0) & (answers.indices[found] >= 0)
    outcomes = RunOutcomes(
        truths=np.where(has_answer, scored.classes[found], np.int16(-1)),
        answers=answers.indices[found],
        scores=np.zeros(len(found), np.float32) if answers.scores is None else answers.scores[found],
    )
    return Against(named, scored.names, outcomes)


def choose_errors(outcomes: RunOutcomes, count: int) -> list[int]:
    """Choose the errors of highest score, by descending score: indices in the columns."""
    wrong = np.flatnonzero(outcomes.is_wrong)
    chosen: list[int] = wrong[np.argsort(-outcomes.scores[wrong], kind="stable")[:count]].tolist()
    return chosen


def choose_in_cells(against: Against) -> dict[tuple[int, int], list[int]]:
    """Choose the utterances of highest score in each cell: indices in the columns, by class and answer."""
    outcomes, num_answers = against.outcomes, len(against.names)
    known = np.flatnonzero(outcomes.truths >= 0)
    known = known[np.argsort(-outcomes.scores[known], kind="stable")]
    codes = outcomes.truths[known].astype(np.int64) * num_answers + outcomes.answers[known]
    return {divmod(code, num_answers): known[codes == code][:IN_CELL].tolist() for code in np.unique(codes).tolist()}


def make_block(
    against: Against,
    errors: Sequence[int],
    in_cells: Mapping[tuple[int, int], Sequence[int]],
    numbers: Mapping[int, int],
) -> ReferenceBlock:
    """Make the block of a reference on the page.

    Args:
        against: the comparison.
        errors: errors that are shown: indices in the columns.
        in_cells: utterances by class and answer: indices in the columns.
        numbers: of utterances on the page, by their indices in the columns.
    """
    score, view = against.score, against.score.view
    cells = []
    for row, counts in enumerate(view.confusion):
        total = max(1, sum(counts))
        cells.append(
            [
                ConfusionCell(
                    truth=score.classes[row],
                    answer=answer,
                    count=count,
                    shade=-(-SHADES * count // total),
                    numbers=[numbers[index] for index in in_cells.get((row, against.names.index(answer)), ())],
                )
                for answer, count in zip(view.answers, counts, strict=True)
            ]
        )
    return ReferenceBlock(
        sentences=describe_comparison(score),
        metrics={name: score.metrics[name] for name in MAIN_METRICS},
        tables=list_tables(score),
        answers=view.answers,
        cells=cells,
        reliability=_draw_bins(score, against.outcomes) if view.calibration else None,
        errors=[numbers[index] for index in errors],
        num_errors=int(against.outcomes.is_wrong.sum()),
        methods=write_methods(score),
    )


def _draw_bins(score: Score, outcomes: RunOutcomes) -> Markup:
    """Draw accuracy by confidence, of the utterances whose class of the reference the model has."""
    has_class = np.array([name in score.model_classes for name in score.classes])
    known = (outcomes.truths >= 0) & has_class[outcomes.truths]
    scores, right = outcomes.scores[known], (outcomes.truths == outcomes.answers)[known]
    found = np.searchsorted(np.arange(1, BINS) / BINS, scores, side="left")
    counts = np.bincount(found, minlength=BINS)
    least = np.maximum(counts, 1)
    confidences = np.bincount(found, weights=scores, minlength=BINS) / least
    accuracies = np.bincount(found, weights=right, minlength=BINS) / least
    ece = score.view.calibration.ece if score.view.calibration else 0.0
    return draw_reliability(counts, confidences, accuracies, f"Accuracy by score; the ECE is {ece:.3f}")
