"""Embeddings of layers: what is kept of a pass, in halved batches and in lower precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.engines import limit_memory, make_batch

from e2v_cli.inference.engine import E2vEngine
from e2v_cli.inference.layers import LayerEmbeddings
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.network.layers import LayerChoice
from e2v_cli.options import ComputeOptions, Granularity, ResultOptions
from e2v_cli.records import Prediction
from e2v_cli.system.spool import whole

CHOICES = (LayerChoice(1, 1), LayerChoice(1, 3), LayerChoice(2, 2))


def open_engine(model: Model, network: Emotion2vec, granularity: Granularity) -> E2vEngine:
    return E2vEngine(model, network, ComputeOptions(), ResultOptions(granularity=granularity, layers=CHOICES))


def test_only_chosen_layers_are_kept_and_means_hold_no_frames() -> None:
    embeddings = LayerEmbeddings((LayerChoice(2, 2), LayerChoice(5, 7)), lambda frames: frames.mean(dim=0))
    taps = embeddings.taps
    assert sorted(taps) == [2, 5, 6, 7]

    for number, tap in taps.items():
        tap([torch.full((frames, 8), float(number)) for frames in (100, 1)])

    for expected, tensors in zip((2.0, 6.0), embeddings.of_choices(), strict=True):
        for tensor in tensors:
            assert tensor.tolist() == [expected] * 8
            assert tensor.untyped_storage().nbytes() == 8 * 4


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_halved_batch_has_the_layers_of_each_utterance(
    granularity: Granularity, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch([0.3, 1.0, 0.5])
    at_once = open_engine(model, make_network(model), granularity).start(batch)()
    limit_memory(network, lambda waveforms: len(waveforms) == 1, monkeypatch)

    halved = open_engine(model, network, granularity).start(batch)()

    for one, other, frames in zip(at_once, halved, (14, 49, 24), strict=True):
        assert isinstance(one, Prediction)
        assert isinstance(other, Prediction)
        assert len(one.layers) == len(other.layers) == 3
        for ours, theirs in zip(one.layers, other.layers, strict=True):
            assert ours.shape == ((96,) if granularity == "utterance" else (frames, 96))
            np.testing.assert_allclose(whole(ours), whole(theirs), rtol=0, atol=1e-5)


def test_layers_of_a_lower_precision_are_floats_of_32_bits(model: Model, network: Emotion2vec) -> None:
    batch = make_batch([0.5])
    (exact,) = open_engine(model, make_network(model), "frame").start(batch)()
    (lower,) = open_engine(model, network.lower(torch.bfloat16), "frame").start(batch)()

    assert isinstance(exact, Prediction)
    assert isinstance(lower, Prediction)
    for ours, theirs in zip(lower.layers, exact.layers, strict=True):
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == np.float32
        assert 0 < np.abs(ours - whole(theirs)).mean() < 0.05
