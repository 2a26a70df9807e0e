"""Candidates and rules → the kept utterances, the rule that rejected each of the others, and the funnel.

The order of rules is fixed, whatever that of the options: each utterance counts for the first rule that rejects it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.select.candidates import Candidates
from e2v_cli.analysis.select.rules import Judgement, Rule, scores_of

KEPT = -1
"""The number of the rule of an utterance that none rejects."""


@dataclass(frozen=True)
class Step:
    """A line of the funnel: how many utterances, and seconds, of each class."""

    name: str
    counts: NDArray[np.int64]
    """(classes,): numbers of utterances."""
    seconds: NDArray[np.float64]
    """(classes,): seconds of audio."""


@dataclass(frozen=True)
class Selection:
    """The outcome of rules for candidates."""

    rules: tuple[Rule, ...]
    judgements: tuple[Judgement, ...]
    """Judgement of each rule, without ``rejected``: see ``rejecting``."""
    rejecting: NDArray[np.int8]
    """(candidates,): the index of the first rule that rejects each, or KEPT."""
    funnel: tuple[Step, ...]
    """The input, what each rule rejects of what is left, and what is kept."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(candidates,): which are kept."""
        kept: NDArray[np.bool_] = self.rejecting == KEPT
        return kept

    @property
    def short(self) -> list[str]:
        """Shortfalls of each rule: ``--top: happy 3 of 10``."""
        return [
            f"--{rule.name}: {', '.join(judgement.short)}"
            for rule, judgement in zip(self.rules, self.judgements, strict=True)
            if judgement.short
        ]


def apply_rules(candidates: Candidates, rules: Sequence[Rule]) -> Selection:
    """Apply rules in their order."""
    rejecting = np.full(len(candidates), KEPT, dtype=np.int8)
    left = np.ones(len(candidates), dtype=np.bool_)
    judgements = []
    funnel = [Step("input", candidates.count(), candidates.seconds())]
    for number, rule in enumerate(rules):
        judgement = rule.judge(candidates, left)
        rejected = left & judgement.rejected
        rejecting[rejected] = number
        left &= ~rejected
        judgements.append(replace(judgement, rejected=rejected[:0]))  # by the ten million they take too much
        funnel.append(Step(rule.name, candidates.count(rejected), candidates.seconds(rejected)))
    funnel.append(Step("kept", candidates.count(left), candidates.seconds(left)))
    return Selection(tuple(rules), tuple(judgements), rejecting, tuple(funnel))


def assign_part(speaker: bytes, parts: Sequence[tuple[str, float]]) -> int:
    """Return the index of the part that a speaker is in, by a hash: it does not depend on the other speakers."""
    fraction = int.from_bytes(hashlib.sha256(speaker).digest()[:8], "big") / 2**64
    end = 0.0
    for index, (_, share) in enumerate(parts):
        end += share
        if fraction < end:
            return index
    return len(parts) - 1


def hours_above(
    candidates: Candidates, chosen: NDArray[np.bool_], limits: Sequence[float]
) -> Mapping[float, NDArray[np.float64]]:
    """Return the hours of each class that thresholds of the score would keep: (classes,) for each threshold.

    Args:
        candidates: all utterances.
        chosen: (candidates,) those that count.
        limits: the thresholds.
    """
    scores = scores_of(candidates, slice(None))
    return {limit: candidates.seconds(chosen & (scores >= limit)) / 3600 for limit in limits}
