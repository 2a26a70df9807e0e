"""Quotas: the best utterances of each group first, those of equal score in C order of their ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.select.candidates import Candidates


def rank_best(
    candidates: Candidates, groups: NDArray[np.integer], chosen: NDArray[np.bool_] | None = None
) -> NDArray[np.int32]:
    """Rank utterances within their groups, best first, counted from 1: (utterances,), 0 for those not chosen.

    Args:
        candidates: in C order of their ids.
        groups: (utterances,) numbers of groups.
        chosen: (utterances,) which are ranked; None: all.
    """
    ranks = np.zeros(len(candidates), dtype=np.int32)
    order = order_best(candidates, groups, chosen)
    ranks[order] = 1 + np.arange(len(order)) - firsts_of(groups[order])
    return ranks


def order_best(
    candidates: Candidates, groups: NDArray[np.integer], chosen: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Return the indices of utterances, group by group, best first; the arguments are those of ``rank_best``."""
    rows = np.arange(len(candidates)) if chosen is None else np.flatnonzero(chosen)
    order: NDArray[np.int64] = rows[np.lexsort((-candidates.scores[rows], groups[rows]))]  # stable
    return order


def firsts_of(groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the index of the first element of each one's group: (elements,); groups lie together."""
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])) if len(groups) else np.zeros(0, dtype=np.int64)
    return np.repeat(starts, np.diff(np.append(starts, len(groups))))


def sum_best(candidates: Candidates, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sum up durations within each class, best first, up to each utterance: (utterances,) in ten-thousandths of a
    second, its own included; 0 for those not chosen.
    """
    order = order_best(candidates, candidates.labels, chosen)
    sums = np.zeros(len(candidates), dtype=np.int64)
    if len(order):
        totals = np.cumsum(candidates.durations[order])
        firsts = firsts_of(candidates.labels[order])
        sums[order] = totals - (totals - candidates.durations[order])[firsts]
    return sums
