"""Choices among the encoder's layers, which are its transformer blocks in order; it imports nothing of e2v."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

LAST_LAYER = "last"
"""Text for no choice: the last layer alone."""


@dataclass(frozen=True, order=True)
class LayerChoice:
    """A layer, or the mean of neighbouring ones; layers count from 1."""

    first: int
    last: int
    """Last layer, inclusive; ``first`` if the choice is a single layer."""

    def __str__(self) -> str:
        return str(self.first) if self.count == 1 else f"mean:{self.first}-{self.last}"

    @property
    def count(self) -> int:
        """Number of layers in the choice."""
        return self.last - self.first + 1

    @property
    def name(self) -> str:
        """Name of the choice in file names: ``layer6`` or ``mean8-12``."""
        return f"layer{self.first}" if self.count == 1 else f"mean{self.first}-{self.last}"

    @classmethod
    def parse(cls, word: str) -> LayerChoice:
        """Parse ``6`` or ``mean:8-12``.

        Raises:
            ValueError: the word is neither; the message is for users.
        """
        match = re.fullmatch(r"([1-9][0-9]{0,3})|mean:([1-9][0-9]{0,3})-([1-9][0-9]{0,3})", word)
        if match is None:
            raise ValueError(f"{word!r} is neither a layer counted from 1, like 6, nor a mean of layers like mean:8-12")
        single, first, last = match.groups()
        if single is None and int(first) >= int(last):
            raise ValueError(f"{word!r}: the first layer of a mean must be lower than its last")
        return cls(int(single or first), int(single or last))


def format_layers(layers: Iterable[LayerChoice]) -> str:
    """Format choices as the command line has them: ``6,9,mean:8-12``; ``last`` without any."""
    return ",".join(map(str, layers)) or LAST_LAYER


def parse_layers(text: str) -> tuple[LayerChoice, ...]:
    """Parse a text that ``format_layers`` returned."""
    return () if text == LAST_LAYER else tuple(map(LayerChoice.parse, text.split(",")))
