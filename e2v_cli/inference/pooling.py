"""Frames → their mean over an utterance, and posteriors of each span of a timeline. Frames come in parts, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

State = Mapping[str, NDArray[Any]]
"""The sums and counts over the frames so far, by name, from which pooling can continue."""

Head = Callable[[Tensor], Tensor]
"""Means of frames, (spans, dim) → posteriors, (spans, labels)."""


class MeanPooling:
    """The mean over all frames, summed in double precision."""

    def __init__(self, dim: int, device: torch.device, name: str = "") -> None:
        """Begin without frames; ``name`` is the layer's name in states, empty for the last layer."""
        self._device = device
        self._prefix = f"{name}." if name else ""
        self._total = torch.zeros(dim, dtype=torch.float64, device=device)
        self._count = 0

    def add(self, frames: Tensor) -> None:
        """Add the next frames, (frames, dim)."""
        self._total.add_(frames.sum(dim=0, dtype=torch.float64))
        self._count += len(frames)

    def mean(self) -> Tensor:
        """Return the mean, (dim,)."""
        return (self._total / self._count).float()

    def state(self) -> State:
        """Return the state from which a later process can continue."""
        state = {"total": self._total.cpu().numpy(), "count": np.array(self._count)}
        return {f"{self._prefix}{name}": array for name, array in state.items()}

    def restore(self, state: State) -> None:
        """Continue from a state."""
        self._total = torch.from_numpy(state[f"{self._prefix}total"]).to(self._device)
        self._count = int(state[f"{self._prefix}count"])


class TimelinePooling:
    """The mean over the frames of each span, and its posteriors."""

    def __init__(self, dim: int, device: torch.device, hop: int, span_samples: int, head: Head) -> None:
        """Begin with the first span.

        Args:
            dim: values of a frame.
            device: where the frames are.
            hop: samples from a frame to the next.
            span_samples: samples of a span.
            head: applied to the means.
        """
        self._device, self._hop, self._span_samples, self._head = device, hop, span_samples, head
        self._span, self._count = 0, 0
        self._total = torch.zeros(dim, device=device)
        self._posteriors: list[NDArray[np.float32]] = []

    def add(self, first: int, frames: Tensor) -> None:
        """Add the next frames, (frames, dim); ``first`` is the number of the first of them."""
        spans = torch.arange(first, first + len(frames)) * self._hop // self._span_samples
        numbers, sizes = (counted.tolist() for counted in torch.unique_consecutive(spans, return_counts=True))
        means = []
        for number, run in zip(numbers, torch.split(frames, sizes), strict=True):
            if number != self._span:
                means.append(self._total / self._count)
                self._span, self._total, self._count = number, torch.zeros_like(self._total), 0
            self._total, self._count = self._total + run.sum(dim=0), self._count + len(run)
        if means:
            self._posteriors.append(self._head(torch.stack(means)).cpu().numpy())

    def posteriors(self) -> NDArray[np.float32]:
        """Return the posteriors of all spans, (spans, labels), when all frames were added."""
        last = self._head((self._total / self._count)[None]).cpu().numpy()
        return np.concatenate([*self._posteriors, last])

    def state(self) -> State:
        """Return the state from which a later process can continue."""
        state = {"number": np.array(self._span), "total": self._total.cpu().numpy(), "count": np.array(self._count)}
        if self._posteriors:
            state["posteriors"] = np.concatenate(self._posteriors)
        return {f"spans.{self._span_samples}.{name}": array for name, array in state.items()}

    def restore(self, state: State) -> None:
        """Continue from a state."""
        prefix = f"spans.{self._span_samples}."
        self._span, self._count = int(state[f"{prefix}number"]), int(state[f"{prefix}count"])
        self._total = torch.from_numpy(state[f"{prefix}total"]).to(self._device)
        self._posteriors = [state[f"{prefix}posteriors"]] if f"{prefix}posteriors" in state else []
