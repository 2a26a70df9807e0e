"""The utterances of a page, and their numbers on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from e2v_cli.report.against import Against, choose_errors, choose_in_cells
from e2v_cli.report.columns import RunResults
from e2v_cli.report.doubtful import choose_doubtful, choose_next_doubtful, choose_typical

LONGEST = 12
"""Utterances whose whole timelines are shown."""


@dataclass(frozen=True)
class Choice:
    """Utterances by their indices in the columns."""

    doubtful: Sequence[int] = ()
    errors: Sequence[int] = ()
    next_doubtful: Sequence[int] = ()
    typical: Sequence[int] = ()
    in_cells: Mapping[tuple[int, int], Sequence[int]] = field(default_factory=dict)
    """Utterances in the cells of the confusion matrix, by class and answer."""
    longest: Sequence[int] = ()

    @property
    def with_cards(self) -> list[int]:
        """Utterances with a card; the first ones get clips."""
        return list(dict.fromkeys((*self.doubtful, *self.errors, *self.next_doubtful, *self.typical)))

    @property
    def numbers(self) -> dict[int, int]:
        """Numbers on the page, by index, of all utterances but ``longest``; utterances with a card come first."""
        others = (index for cell in self.in_cells.values() for index in cell)
        return {index: number for number, index in enumerate(dict.fromkeys((*self.with_cards, *others)))}


def choose_utterances(run: RunResults, count: int, against: Against | None) -> Choice:
    """Choose the utterances of a page.

    Two thirds of ``count`` are doubtful and a third typical; with a reference, two fifths are doubtful, four fifteenths
    errors, and a third typical. At most half of the run is doubtful: the rest of a short list hardly is.
    """
    columns, speakers = run.columns, run.speakers.numbers
    longest: list[int] = []
    if run.header.fingerprint["timeline"] != "off":
        longest = np.argsort(-columns.durations, kind="stable")[:LONGEST].tolist()
    if not run.header.labels:
        return Choice(longest=longest)
    num_doubtful = min(count * 2 // (3 if against is None else 5), (len(columns) + 1) // 2)
    doubtful = choose_doubtful(columns, speakers, num_doubtful)
    following = choose_next_doubtful(columns, set(doubtful), num_doubtful - len(doubtful))
    return Choice(
        doubtful=doubtful,
        errors=choose_errors(against.outcomes, count * 4 // 15) if against else (),
        next_doubtful=following,
        typical=choose_typical(columns, speakers, count // 3, {*doubtful, *following}),
        in_cells=choose_in_cells(against) if against else {},
        longest=longest,
    )
