"""The timeline of an utterance, whole and in windows, against its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.checkpoints import make_model
from support.engines import (
    apply_head,
    assert_same,
    encode_in_windows,
    encode_one,
    encode_whole,
    make_batch,
    make_engine,
    make_long,
)
from torch import Tensor

from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.options import Granularity
from e2v_cli.records import Prediction
from e2v_cli.system.spool import whole

# -- the timeline ------------------------------------------------------------------------------------------------------

HOPS = [0.02, 0.05, 0.1, 0.25, 0.33, 1.0, 3.0, 1000.0]


def expected_timeline(network: Emotion2vec, frames: Tensor, hop: float) -> NDArray[np.float32]:
    """Apply the head to the mean of each span, by the definition: frame k begins at k × 20 ms."""
    spans = [int(20 * frame // round(1000 * hop)) for frame in range(len(frames))]
    assert sorted(set(spans)) == list(range(spans[-1] + 1))
    number = torch.tensor(spans)
    return np.stack([apply_head(network, frames[number == span]) for span in range(spans[-1] + 1)])


@pytest.mark.parametrize("hop", HOPS)
def test_timeline_applies_the_head_to_the_mean_of_each_span(hop: float, model: Model, network: Emotion2vec) -> None:
    """For every utterance of a batch."""
    batch = make_batch([0.5, 3.0, 0.03, 1.51])
    plain = make_engine(model, network).start(batch)()

    results = make_engine(model, network, timelines=(hop,)).start(batch)()

    assert_same(results, plain)  # the timeline changes nothing else
    for waveform, result in zip(batch.waveforms, results, strict=True):
        assert isinstance(result, Prediction)
        (timeline,) = result.timelines
        expected = expected_timeline(network, encode_whole(network, waveform.whole), hop)
        assert (timeline.dtype.name, timeline.shape) == ("float32", expected.shape)
        np.testing.assert_allclose(timeline, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("hop", HOPS)
@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_timeline_of_windows_is_that_of_all_frames(
    granularity: Granularity, hop: float, model: Model, network: Emotion2vec
) -> None:
    """Including spans over two or three windows."""
    samples, waveform = make_long(11.3)
    frames, num_windows = encode_in_windows(network, samples, 2.0)

    prediction = encode_one(make_engine(model, network, granularity, window=2.0, timelines=(hop,)), waveform)

    assert prediction.windows == num_windows == 7
    (timeline,) = prediction.timelines
    expected = expected_timeline(network, frames, hop)
    assert timeline.shape == expected.shape
    np.testing.assert_allclose(timeline, expected, rtol=0, atol=1e-5)


def test_each_of_several_timelines_is_as_if_it_were_alone(model: Model, network: Emotion2vec) -> None:
    _, waveform = make_long(11.3)

    several = encode_one(make_engine(model, network, window=2.0, timelines=tuple(HOPS)), waveform)

    for hop, timeline in zip(HOPS, several.timelines, strict=True):
        (alone,) = encode_one(make_engine(model, network, window=2.0, timelines=(hop,)), waveform).timelines
        np.testing.assert_array_equal(timeline, alone)


def test_timelines_of_kept_frames_are_the_same_to_the_bit(model: Model, network: Emotion2vec) -> None:
    """Of utterances in a batch, and of one in windows."""
    engine = make_engine(model, network, "frame", window=2.0, timelines=tuple(HOPS))
    predictions = [*engine.start(make_batch([0.5, 1.9, 0.03, 1.51]))(), encode_one(engine, make_long(11.3)[1])]

    for prediction in predictions:
        assert isinstance(prediction, Prediction)
        again = engine.make_timelines(whole(prediction.embedding), prediction.windows)
        for timeline, expected in zip(again, prediction.timelines, strict=True):
            np.testing.assert_array_equal(timeline, expected)


def test_timeline_has_only_the_labels_in_use(tmp_path: Path) -> None:
    model = read_model("five", make_model(tmp_path, tokens=("calm", "unuse_0", "tense", "<unk>", "unuse_1")))
    network = make_network(model)
    (waveform,) = make_batch([1.0]).waveforms

    prediction = encode_one(make_engine(model, network, timelines=(0.5,)), waveform)

    (timeline,) = prediction.timelines
    assert timeline.shape == (2, len(model.labels)) == (2, 3)
    np.testing.assert_allclose(timeline.sum(axis=1), 1, rtol=0, atol=1e-6)


def test_timeline_is_none_unless_requested(model: Model, network: Emotion2vec) -> None:
    assert encode_one(make_engine(model, network), make_long(1.0)[0]).timelines == ()
    assert encode_one(make_engine(model, network, "frame", window=2.0), make_long(5.0)[1]).timelines == ()
