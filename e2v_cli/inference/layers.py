"""Embeddings of chosen layers: each layer is reduced as soon as it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from e2v_cli.network.emotion2vec import Taps
from e2v_cli.network.layers import LayerChoice


class LayerEmbeddings:
    """The embeddings of each choice for the utterances of one forward pass."""

    def __init__(self, choices: Sequence[LayerChoice], keep: Callable[[Tensor], Tensor]) -> None:
        """Begin without layers.

        Args:
            choices: the layers, and the means of layers.
            keep: linear function of an utterance's frames in a layer, (frames, dim), to the part that is kept.
        """
        self._choices, self._keep = choices, keep
        self._sums: list[list[Tensor]] = [[] for _ in choices]
        """Sums over the layers so far: for each choice, a tensor for each utterance; empty before its first layer."""

    @property
    def taps(self) -> Taps:
        """The functions that the network calls with the layers."""
        numbers = {number for choice in self._choices for number in range(choice.first, choice.last + 1)}
        return {number: partial(self._add, number) for number in numbers}

    def _add(self, number: int, features: Sequence[Tensor]) -> None:
        kept = [self._keep(frames) for frames in features]
        for index, choice in enumerate(self._choices):
            if choice.first <= number <= choice.last:
                sums = self._sums[index]
                self._sums[index] = [one + other for one, other in zip(sums, kept, strict=True)] if sums else kept

    def of_choices(self) -> list[list[Tensor]]:
        """Return the embeddings of all utterances for each choice, when the pass is over."""
        pairs = zip(self._choices, self._sums, strict=True)
        return [[total / choice.count for total in sums] if choice.count > 1 else sums for choice, sums in pairs]
