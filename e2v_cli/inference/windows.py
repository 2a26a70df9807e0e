"""A long utterance → overlapping windows, each encoded by itself; every frame is kept once.

Time and memory of attention grow with the square of the length. A frame depends most on its neighbours, so every frame
is taken from a window in which it has context on both sides, except where the utterance itself ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from e2v_cli.network.config import NetworkConfig
from e2v_cli.records import SAMPLE_RATE

CONTEXT_SECONDS = 2.0
"""Context of a window on either side of the frames that are kept of it; a tenth of a window if that is less."""


class Window(NamedTuple):
    """A window of an utterance, in frames of the whole."""

    first: int
    end: int
    """End of the encoded frames, ``first`` to ``end``; the frame at ``end`` is not one of them."""
    first_kept: int
    end_kept: int
    """End of the kept frames, ``first_kept`` to ``end_kept``; the frame at ``end_kept`` is not one of them."""

    @property
    def kept(self) -> slice:
        """The frames that are kept of those that are encoded."""
        return slice(self.first_kept - self.first, self.end_kept - self.first)

    def samples(self, config: NetworkConfig) -> slice:
        """Return the samples of the utterance that the window is made of."""
        return slice(self.first * config.hop, (self.end - 1) * config.hop + config.receptive_field)


def cut_windows(num_frames: int, window_frames: int, context_frames: int) -> Iterator[Window]:
    """Cut an utterance into windows of about the same length, at most ``window_frames``.

    Args:
        num_frames: frames of the utterance, more than ``window_frames``.
        window_frames: frames of a window, more than twice the context.
        context_frames: frames on either side that are encoded with a window, but kept of its neighbours.
    """
    num_windows = -(-num_frames // (window_frames - 2 * context_frames))
    for first_kept, end_kept in pairwise(kept_edges(num_frames, num_windows)):
        first, end = max(0, first_kept - context_frames), min(num_frames, end_kept + context_frames)
        yield Window(first, end, first_kept, end_kept)


def kept_edges(num_frames: int, num_windows: int) -> list[int]:
    """Return the frames between which the frames of each window are kept: (windows + 1,)."""
    return [num_frames * number // num_windows for number in range(num_windows + 1)]


def window_frames(config: NetworkConfig, seconds: float) -> tuple[int, int]:
    """Return how many frames fit into a window of this length, and how many of them are context on either side."""
    frames = max(1, config.num_frames(int(seconds * SAMPLE_RATE)))
    return frames, int(min(CONTEXT_SECONDS * SAMPLE_RATE / config.hop, frames / 10))
