"""The layout of a batch: where each utterance lies in the stream of samples, among its frames, and with gaps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from e2v_cli.network.config import NetworkConfig

PADDING = 1.15
"""Largest ratio of padded to unpadded tokens in a group of attention on a GPU."""


class UtteranceTooShortError(ValueError):
    """A waveform has fewer samples than the receptive field of one frame."""


@dataclass(frozen=True)
class UtteranceLayout:
    """The position and the size of one utterance in the stream of samples."""

    index: int
    first_sample: int
    num_samples: int
    num_frames: int
    num_tokens: int


@dataclass(frozen=True)
class Layout:
    """The layout of a batch: utterances by length, so that those of the same length are neighbours."""

    utterances: tuple[UtteranceLayout, ...]
    num_samples: int
    hop: int
    gap: int
    """Rows of zeros between two utterances: as far as a positional convolution reaches."""

    @classmethod
    def of(cls, lengths: Sequence[int], config: NetworkConfig) -> Layout:
        """Arrange utterances of these lengths, in samples.

        Raises:
            UtteranceTooShortError: one has fewer samples than ``config.receptive_field``.
        """
        utterances = []
        first_sample = 0
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            num_frames = config.num_frames(lengths[index])
            if not num_frames:
                raise UtteranceTooShortError(
                    f"{lengths[index]} samples; the shortest utterance that gives a frame has {config.receptive_field}"
                )
            utterances.append(
                UtteranceLayout(index, first_sample, lengths[index], num_frames, num_frames + config.num_extra_tokens)
            )
            first_sample += math.ceil(lengths[index] / config.hop) * config.hop
        return cls(tuple(utterances), first_sample, config.hop, config.conv_pos_kernel // 2)

    def group(self) -> Iterator[list[int]]:
        """Group neighbours whose attention is computed together on a GPU: a group is the number of tokens of each."""
        group: list[int] = []
        for utterance in self.utterances:
            longest = utterance.num_tokens  # they are sorted
            if group and (len(group) + 1) * longest > PADDING * (sum(group) + longest):
                yield group
                group = []
            group.append(longest)
        yield group

    @property
    def num_gapped_rows(self) -> int:
        """Rows of the frames of all utterances, with gaps between utterances."""
        return sum(utterance.num_frames + self.gap for utterance in self.utterances) - self.gap

    def stream_rows(self, device: torch.device) -> Tensor:
        """Return the rows of all utterances' frames among the frames of the stream."""
        return _join_ranges(((u.first_sample // self.hop, u.num_frames) for u in self.utterances), device)

    def gapped_rows(self, device: torch.device) -> Tensor:
        """Return the rows of all utterances' frames where gaps lie between utterances."""
        firsts = accumulate((u.num_frames + self.gap for u in self.utterances[:-1]), initial=0)
        return _join_ranges(zip(firsts, (u.num_frames for u in self.utterances), strict=True), device)


def _join_ranges(ranges: Iterable[tuple[int, int]], device: torch.device) -> Tensor:
    """Concatenate ranges, each (first, length), to one index."""
    return to_device(device, torch.cat([torch.arange(first, first + length) for first, length in ranges]))


def to_device(device: torch.device, tensor: Tensor) -> Tensor:
    """Copy a tensor from the CPU to a device, without waiting for the pending work of a GPU."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
