"""The shape of an emotion2vec network, which imports nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ConvLayer:
    """One strided convolution of the local encoder."""

    channels: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of an emotion2vec network: all values of a model's config that change a number."""

    conv_layers: tuple[ConvLayer, ...]
    conv_norm: Literal["layer", "group"]
    """``layer``: a LayerNorm after each convolution; ``group``: one per channel and utterance, only after the first."""
    embed_dim: int
    num_heads: int
    prenet_depth: int
    depth: int
    mlp_dim: int
    norm_eps: float
    norm_affine: bool
    layer_norm_first: bool
    normalize: bool
    num_extra_tokens: int
    conv_pos_depth: int
    conv_pos_kernel: int
    conv_pos_groups: int
    conv_pos_pre_ln: bool
    num_alibi_heads: int
    """Heads with ALiBi, which are the first ones; 0: none."""
    alibi_scales: tuple[int, int]
    """Shape of the learned ALiBi scales: (1 or one per layer, 1 or one per ALiBi head)."""

    @property
    def num_layers(self) -> int:
        """Number of transformer blocks, the prenet's included: 12 in the base models, 24 in the large one."""
        return self.prenet_depth + self.depth

    @property
    def hop(self) -> int:
        """Samples from one frame to the next (320: 20 ms at 16 kHz)."""
        return math.prod(layer.stride for layer in self.conv_layers)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees, the length of the shortest utterance with a frame (400: 25 ms at 16 kHz)."""
        field = 1
        for layer in reversed(self.conv_layers):
            field = (field - 1) * layer.stride + layer.kernel
        return field

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of an utterance of ``num_samples`` samples; 0 if it is shorter than the receptive field."""
        return max(0, (num_samples - self.receptive_field) // self.hop + 1)
