"""The rules of a selection: each tells which utterances it rejects, and for those the value and the limit.

Rules see all candidates, and judge each alone. Only quotas depend on the rules before them: they see what is left.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.select.candidates import MILLION, TICKS, Candidates
from e2v_cli.analysis.select.opinions import Opinion
from e2v_cli.analysis.select.quotas import rank_best, sum_best
from e2v_cli.system.text import number_word

Rows = NDArray[np.int64]
"""(some,): indices of candidates."""

Texts = Callable[[Rows], Sequence[str]]
"""Describes something of some candidates: (some,) texts."""

Numbers = Callable[[Candidates, "Rows | slice"], NDArray[np.float64]]
"""Returns a number of each of some candidates; NaN: no number."""

LIMIT_DECIMALS = 9
"""Decimals of limits in the table of what was rejected: a mean has more than the scores."""

_OPERATORS: Mapping[str, Callable[..., NDArray[np.bool_]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Judgement:
    """The candidates that a rule rejects, and the reasons."""

    rejected: NDArray[np.bool_]
    """(candidates,): whether each is rejected."""
    values: Texts
    """The values of rejected candidates, which are compared with limits."""
    limits: Texts
    """The limits of rejected candidates."""
    short: tuple[str, ...] = ()
    """Shortfalls: ``happy 3 of 10``."""


class Rule(Protocol):
    """A rule."""

    @property
    def name(self) -> str:
        """Name of the rule's option."""

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Judge candidates, of which some are left by the rules before: (candidates,)."""


@dataclass(frozen=True)
class Members:
    """The rule that rejects utterances outside a list that the user has named."""

    members: NDArray[np.bool_]
    """(candidates,): whether each is in the list."""
    name: str = "data"

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Reject by membership."""
        del candidates, left
        return Judgement(~self.members, _same(""), _same(""))


@dataclass(frozen=True)
class KeptClasses:
    """The rule that rejects labels that are not kept."""

    kept: tuple[str, ...]
    name: str = "classes"

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Reject by label."""
        del left
        is_kept = np.array([label in self.kept for label in candidates.classes])
        return Judgement(~is_kept[candidates.labels], _labels_of(candidates), _same(",".join(self.kept)))


@dataclass(frozen=True)
class Bound:
    """The rule that rejects utterances whose number does not meet their class's limit, or that have no number."""

    name: str
    numbers: Numbers
    operator: str
    limits: NDArray[np.float64]
    """(classes,): the limit of each."""
    decimals: int | None = None
    """Decimals of numbers in the table of what was rejected; None: as many as a number has."""
    limit: str = ""
    """Text of the limit in the table; empty: the number of the class's limit."""

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Reject by comparison."""
        del left
        limits = self.limits[candidates.labels]
        passes = _OPERATORS[self.operator](self.numbers(candidates, slice(None)), limits)
        limit_texts = [self.limit or number_word(round(limit, LIMIT_DECIMALS)) for limit in self.limits.tolist()]

        def values(rows: Rows) -> list[str]:
            return [self._format(number) for number in self.numbers(candidates, rows).tolist()]

        def describe_limits(rows: Rows) -> list[str]:
            return [limit_texts[label] for label in candidates.labels[rows].tolist()]

        return Judgement(~passes, values, describe_limits)

    def _format(self, number: float) -> str:
        if math.isnan(number):
            return ""
        return number_word(number) if self.decimals is None else f"{number:.{self.decimals}f}"


def scores_of(candidates: Candidates, rows: Rows | slice) -> NDArray[np.float64]:
    """Return scores, the doubles next to their six decimals."""
    return candidates.scores[rows] / MILLION


def margins_of(candidates: Candidates, rows: Rows | slice) -> NDArray[np.float64]:
    """Return margins."""
    return candidates.margins[rows] / MILLION


def durations_of(candidates: Candidates, rows: Rows | slice) -> NDArray[np.float64]:
    """Return durations, in seconds."""
    return candidates.durations[rows] / TICKS


@dataclass(frozen=True)
class BestOfClass:
    """The rule that rejects all but the best utterances of each class, ranked among all candidates."""

    counts: NDArray[np.int64]
    """(classes,): how many utterances are best."""
    thresholds: NDArray[np.float64]
    """(classes,): the score of the last of the best utterances."""
    name: str = "threshold"

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Reject by rank; of equal scores, ids that come first are better."""
        del left
        rejected = rank_best(candidates, candidates.labels) > self.counts[candidates.labels]

        def values(rows: Rows) -> list[str]:
            return [f"{score / MILLION:.6f}" for score in candidates.scores[rows].tolist()]

        def limits(rows: Rows) -> list[str]:
            return [f"{threshold:.6f}" for threshold in self.thresholds[candidates.labels[rows]].tolist()]

        return Judgement(rejected, values, limits)


@dataclass(frozen=True)
class Agreement:
    """The rule that rejects utterances whose second opinion differs or is missing."""

    opinion: Opinion
    own: tuple[str, ...]
    """(classes,): the model's classes, after merges."""
    name: str = "agree"

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Reject by label."""
        del left
        return Judgement(~self.opinion.agrees(candidates, self.own), self.opinion.words_of, _labels_of(candidates))


@dataclass(frozen=True)
class TopOfClass:
    """The rule that rejects all but the best utterances of each class, or of each speaker in each class."""

    count: int
    asked: NDArray[np.bool_]
    """(classes,): whether a class with fewer utterances than ``count`` is a shortfall."""
    speakers: NDArray[np.int32] | None = None
    """(candidates,): numbers of speakers; None: the quota is of the whole class."""

    @property
    def name(self) -> str:
        """Name of the rule's option."""
        return "top" if self.speakers is None else "max-per-speaker"

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Reject by rank."""
        groups: NDArray[np.integer] = candidates.labels
        if self.speakers is not None:
            groups = self.speakers.astype(np.int64) * len(candidates.classes) + candidates.labels
        ranks = rank_best(candidates, groups, left)
        counts = zip(candidates.classes, self.asked.tolist(), candidates.count(left).tolist(), strict=True)
        short = tuple(f"{name} {num} of {self.count}" for name, asked, num in counts if asked and num < self.count)
        if self.speakers is not None:
            short = ()
        return Judgement(ranks > self.count, _numbers_of(ranks), _same(str(self.count)), short)


@dataclass(frozen=True)
class HoursOfClass:
    """The rule that keeps the best utterances of each class, as many as fit into so many hours."""

    hours: float
    asked: NDArray[np.bool_]
    """(classes,): whether a class with less than ``hours`` is a shortfall."""
    name: str = "hours"

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Reject by the sum of durations, best first."""
        sums = sum_best(candidates, left)
        rejected = sums > self.hours * 3600 * TICKS
        hours = zip(candidates.classes, self.asked.tolist(), (candidates.seconds(left) / 3600).tolist(), strict=True)
        short = (f"{name} {own:.4g} of {self.hours:g} h" for name, asked, own in hours if asked and own < self.hours)

        def values(rows: Rows) -> list[str]:
            return [f"{total / (3600 * TICKS):.6f}" for total in sums[rows].tolist()]

        return Judgement(rejected, values, _same(number_word(self.hours)), tuple(short))


@dataclass(frozen=True)
class Balance:
    """The rule that cuts each class to the size of the smallest, best first; empty classes don't count."""

    name: str = "balance"

    def judge(self, candidates: Candidates, left: NDArray[np.bool_]) -> Judgement:
        """Reject by rank."""
        counts = candidates.count(left)
        smallest = int(counts[counts > 0].min(initial=np.iinfo(np.int32).max))
        ranks = rank_best(candidates, candidates.labels, left)
        return Judgement(ranks > smallest, _numbers_of(ranks), _same(str(smallest)))


def _labels_of(candidates: Candidates) -> Texts:
    return lambda rows: [candidates.classes[label] for label in candidates.labels[rows].tolist()]


def _numbers_of(numbers: NDArray[np.integer]) -> Texts:
    return lambda rows: list(map(str, numbers[rows].tolist()))


def _same(text: str) -> Texts:
    return lambda rows: [text] * len(rows)
