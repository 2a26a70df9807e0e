"""The state of an utterance in windows: another engine continues there, unless it is of other audio, or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.engines import encode_one, make_long
from torch import Tensor

from e2v_cli.inference import kept
from e2v_cli.inference.engine import E2vEngine
from e2v_cli.models.folder import Model
from e2v_cli.network.emotion2vec import Emotion2vec, Taps
from e2v_cli.options import ComputeOptions, Granularity, ResultOptions
from e2v_cli.records import Waveform
from e2v_cli.system.spool import whole


@pytest.fixture(autouse=True)
def _keep_after_each_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEEP_SECONDS", 0.0)


class StoppedError(Exception):
    """A run was stopped."""


class StoppingNetwork:
    """A network that is stopped after some windows, and counts those that it has encoded."""

    def __init__(self, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.encoded = 1_000, 0
        encode = network.encode

        def encode_or_stop(waveforms: list[Tensor], *taps: Taps) -> list[Tensor]:
            if not self.left:
                raise StoppedError
            self.left, self.encoded = self.left - 1, self.encoded + 1
            return encode(waveforms, *taps)

        monkeypatch.setattr(network, "encode", encode_or_stop)


def open_engine(
    model: Model,
    network: Emotion2vec,
    out: Path,
    granularity: Granularity = "utterance",
    timelines: tuple[float, ...] = (0.5, 3.0),
) -> E2vEngine:
    return E2vEngine(model, network, ComputeOptions(window=2.0), ResultOptions(out, granularity, timelines=timelines))


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
@pytest.mark.parametrize("stops", [[1], [4, 1, 2]])
def test_engine_continues_after_the_windows_that_are_done(
    stops: list[int],
    granularity: Granularity,
    model: Model,
    network: Emotion2vec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, waveform = make_long(20.0)
    (tmp_path / "whole").mkdir()
    expected = encode_one(open_engine(model, network, tmp_path / "whole", granularity), waveform)
    stopping = StoppingNetwork(network, monkeypatch)

    for stop in stops:
        stopping.left = stop
        with pytest.raises(StoppedError):
            encode_one(open_engine(model, network, tmp_path, granularity), waveform)
    stopping.left = 1_000
    result = encode_one(open_engine(model, network, tmp_path, granularity), waveform)

    assert stopping.encoded == expected.windows == result.windows > 8
    assert result.num_frames == expected.num_frames
    np.testing.assert_array_equal(whole(result.embedding), whole(expected.embedding))
    for ours, theirs in zip(
        (result.posteriors, *result.timelines), (expected.posteriors, *expected.timelines), strict=True
    ):
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours, theirs)
    assert [len(timeline) for timeline in result.timelines] == [40, 7]

    kept.forget_windows(tmp_path, "long", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def change_audio(waveform: Waveform, _out: Path) -> None:
    samples = waveform.samples
    assert not isinstance(samples, np.ndarray)
    samples.append(np.full(1, 0.1, np.float32))


def cut_state(_waveform: Waveform, out: Path) -> None:
    (state,) = out.glob("*.npz")
    state.write_bytes(state.read_bytes()[:-40])


def empty_state(_waveform: Waveform, out: Path) -> None:
    (state,) = out.glob("*.npz")
    state.write_bytes(b"")


def cut_frames(_waveform: Waveform, out: Path) -> None:
    (frames,) = out.glob("*.frames")
    frames.write_bytes(frames.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [change_audio, cut_state, empty_state, cut_frames])
def test_unusable_state_is_ignored(
    damage: Callable[[Waveform, Path], None],
    model: Model,
    network: Emotion2vec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, waveform = make_long(10.0)
    stopping = StoppingNetwork(network, monkeypatch)
    stopping.left = 3
    with pytest.raises(StoppedError):
        encode_one(open_engine(model, network, tmp_path, "frame"), waveform)
    assert len(list(tmp_path.iterdir())) == 2
    damage(waveform, tmp_path)
    (tmp_path / "whole").mkdir()
    stopping.left = 1_000
    expected = encode_one(open_engine(model, network, tmp_path / "whole", "frame"), waveform)

    stopping.encoded = 0
    result = encode_one(open_engine(model, network, tmp_path, "frame"), waveform)

    assert stopping.encoded == result.windows
    np.testing.assert_array_equal(whole(result.embedding), whole(expected.embedding))


def test_state_with_other_spans_is_ignored(
    model: Model, network: Emotion2vec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, waveform = make_long(10.0)
    stopping = StoppingNetwork(network, monkeypatch)
    stopping.left = 3
    with pytest.raises(StoppedError):
        encode_one(open_engine(model, network, tmp_path, timelines=(0.5, 3.0)), waveform)
    stopping.left, stopping.encoded = 1_000, 0

    result = encode_one(open_engine(model, network, tmp_path, timelines=(0.5,)), waveform)

    assert stopping.encoded == result.windows


def test_state_is_kept_now_and_then(
    model: Model, network: Emotion2vec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEEP_SECONDS", 1e6)
    _, waveform = make_long(10.0)
    encode_one(open_engine(model, network, tmp_path), waveform)
    assert not list(tmp_path.iterdir())
