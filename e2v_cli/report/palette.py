"""Colours and letters of labels: neither alone tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from e2v_cli.analysis.labels.labels import canonical_name

COLOURS = 10
"""Colours in ``page.css``, chosen so that people with any colour vision tell them apart; more labels begin again."""

_OF_EMOTION = {
    "neutral": 0,
    "angry": 1,
    "happy": 2,
    "sad": 3,
    "surprised": 4,
    "fearful": 5,
    "disgusted": 6,
    "other": 7,
    "unknown": 8,
}
"""Numbers of colours that labels have on every page, whatever the model."""


@dataclass(frozen=True)
class Mark:
    """Colour and letters of a label."""

    label: str
    letters: str
    """Letters and digits that no other label has, mostly two."""
    colour: int
    """Number of the colour, counted from 0."""


def mark_labels(labels: Sequence[str]) -> tuple[Mark, ...]:
    """Choose a colour and letters for each label of a model."""
    fixed = [_OF_EMOTION.get(canonical_name(label) or "") for label in labels]
    free = [colour for colour in range(COLOURS) if colour not in fixed] or list(range(COLOURS))
    marks: list[Mark] = []
    taken: set[int] = set()
    others = 0
    for label, colour in zip(labels, fixed, strict=True):
        if colour is None or colour in taken:
            colour, others = free[others % len(free)], others + 1
        taken.add(colour)
        marks.append(Mark(label, _choose_letters(label, {mark.letters for mark in marks}), colour))
    return tuple(marks)


def _choose_letters(label: str, taken: Iterable[str]) -> str:
    """Choose the first letter and the next one that together are free; else a number."""
    letters = [letter for letter in label if letter.isalnum()] or ["?"]
    pairs = [letters[0].upper() + letter for letter in letters[1:]] or [letters[0].upper()]
    numbered = (f"{letters[0].upper()}{number}" for number in range(2, len(list(taken)) + 3))
    return next(pair for pair in (*pairs, *numbered) if pair not in taken)
