"""Random predictions as candidates, and as rows of plain Python numbers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from random import Random

import numpy as np

from e2v_cli.analysis.select.candidates import MILLION, TICKS, Candidates
from e2v_cli.analysis.select.sorted_ids import SortedIds

CLASSES = ("angry", "happy", "neutral", "other", "sad")


@dataclass(frozen=True)
class Row:
    """A prediction."""

    utt_id: str
    label: str
    posteriors: tuple[int, ...]
    """In millionths."""
    ticks: int
    """Its duration, in ten-thousandths of a second."""
    speaker: str

    @property
    def score(self) -> float:
        return max(self.posteriors) / MILLION

    @property
    def margin(self) -> float:
        first, second, *_ = sorted(self.posteriors, reverse=True)
        return (first - second) / MILLION

    @property
    def seconds(self) -> float:
        return self.ticks / TICKS


def make_rows(seed: int, most: int = 60) -> list[Row]:
    """Make predictions in C order of their ids; many scores are equal, and some classes are rare or missing."""
    random = Random(seed)
    grid = random.choice([10, 100, MILLION])
    weights = [random.choice([0, 1, 5]) for _ in CLASSES]
    weights[random.randrange(len(CLASSES))] += 1
    numbers = count()
    rows = []
    for _ in range(random.randint(1, most)):
        best = random.choices(range(len(CLASSES)), weights)[0]
        parts = [random.randrange(grid) for _ in CLASSES]
        parts[best] = max(parts) + random.randrange(grid)
        total = sum(parts) or 1
        posteriors = [part * MILLION // total for part in parts]
        posteriors[best] += MILLION - sum(posteriors)
        utt_id = f"{random.choice('aAzü笑~!')}{random.randrange(30)}-{next(numbers)}"
        seconds = random.choice([random.randrange(1, 200_000), 10_000])
        rows.append(Row(utt_id, CLASSES[best], tuple(posteriors), seconds, random.choice("xyz")))
    return sorted(rows, key=lambda row: row.utt_id.encode())


def make_candidates(rows: list[Row]) -> Candidates:
    """Make the columns of rows that are in C order."""
    return Candidates(
        CLASSES,
        np.array([CLASSES.index(row.label) for row in rows], dtype=np.int16),
        np.array([max(row.posteriors) for row in rows], dtype=np.int32),
        np.array([round(row.margin * MILLION) for row in rows], dtype=np.int32),
        np.array([row.ticks for row in rows], dtype=np.int64),
    )


def make_ids(rows: list[Row]) -> SortedIds:
    return SortedIds(iter([[row.utt_id.encode() for row in rows]]))
