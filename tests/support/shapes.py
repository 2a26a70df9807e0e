"""Shapes of networks that a config can have, and waveforms to encode with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPES: dict[str, dict[str, Any]] = {
    "as published": {},
    "12 heads, no power of two": {"num_heads": 12},
    "fewer heads with ALiBi than heads": {"audio": {"num_alibi_heads": 3}},
    "an ALiBi scale a layer and head": {"audio": {"learned_alibi_scale_per_layer": True}},
    "an ALiBi scale a layer": {"audio": {"learned_alibi_scale_per_layer": True, "learned_alibi_scale_per_head": False}},
    "one ALiBi scale": {"audio": {"learned_alibi_scale_per_head": False}},
    "no ALiBi": {"audio": {"use_alibi_encoder": False}},
    "no extra tokens": {"audio": {"num_extra_tokens": 0}},
    "pre-norm": {"model": {"layer_norm_first": True}},
    "norms without weights": {"model": {"norm_affine": False}},
    "another epsilon": {"model": {"norm_eps": 0.01}},
    "waveforms as they are": {"model": {"normalize": False}},
    "wide MLP": {"model": {"mlp_ratio": 5.5}},
    "no prenet": {"prenet_depth": 0},
    "prenet alone": {"depth": 0},
    "group norm in the local encoder": {"audio": {"extractor_mode": "default"}},
    "norm before the positional encoder": {"audio": {"conv_pos_pre_ln": True}},
    "even positional kernel": {"audio": {"conv_pos_width": 90}},
    "one positional layer": {"audio": {"conv_pos_depth": 1}},
    "short positional kernel": {"audio": {"conv_pos_width": 5}},
    "another local encoder": {"audio": {"feature_encoder_spec": "[(48, 12, 4)] + 2 * [(32, 5, 2), (64, 2, 3)]"}},
    "kernels shorter than strides": {"audio": {"feature_encoder_spec": "[(32, 10, 5)] + [(48, 2, 3)] * 4"}},
}


def make_waveforms(lengths: Sequence[int], seed: int = 0) -> list[NDArray[np.float32]]:
    """Make waveforms of tones with noise: loud and quiet, with an offset, of changing pitch."""
    rng = np.random.default_rng(seed)
    waveforms = []
    for length in lengths:
        time = np.arange(length) / 16_000
        tone = np.sin(2 * np.pi * rng.uniform(80, 400) * time * (1 + 0.1 * np.sin(3 * time)))
        noise = rng.standard_normal(length)
        waveform = 10 ** rng.uniform(-4, 0) * (tone + 0.3 * noise + rng.uniform(-0.5, 0.5))
        waveforms.append(waveform.astype(np.float32))
    return waveforms
