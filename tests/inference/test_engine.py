"""What the engine makes of a batch that is too large for memory, of an utterance that is, and of a timeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from support.checkpoints import make_config, make_model
from torch import Tensor

from e2v_cli.inference.engine import E2vEngine
from e2v_cli.inference.upstream import FunasrEngine
from e2v_cli.inference.windows import cut_windows, window_frames
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.options import ComputeOptions, Granularity, Precision, ResultOptions
from e2v_cli.records import Batch, Failure, Prediction, Utterance, Waveform
from e2v_cli.system.spool import DiskArray, DiskWaveform

CPU = torch.device("cpu")


def read_switches() -> tuple[str, str]:
    """Say how GPUs multiply float32 matrices, and convolve."""
    backends: Any = torch.backends
    return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision


def flushes() -> bool:
    """Say whether numbers below 1e-38 are taken for zero."""
    return float(torch.full((), 1e-40, dtype=torch.float32) * 2) == 0


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return read_model("tiny", tiny)


@pytest.fixture
def network(model: Model) -> Emotion2vec:
    return make_network(model)


def make_engine(
    model: Model,
    network: Emotion2vec,
    granularity: Granularity = "utterance",
    *,
    window: float = 60.0,
    timeline: float | None = None,
    precision: Precision = "fp32",
) -> E2vEngine:
    """Make an engine of a network."""
    results = ResultOptions(None if timeline is None else Path("out"), granularity, timeline=timeline)
    return E2vEngine(model, network, ComputeOptions(window=window, precision=precision), results)


def make_batch(seconds: Sequence[float]) -> Batch:
    """Make noise of so many seconds."""
    generator = np.random.default_rng(0)
    return Batch(
        tuple(
            Waveform(
                Utterance(index, f"utt{index}", f"{index}.wav"),
                generator.normal(scale=0.1, size=round(duration * 16_000)).astype(np.float32),
                duration,
            )
            for index, duration in enumerate(seconds)
        )
    )


def cramp(network: Emotion2vec, fits: Callable[[Sequence[Tensor]], bool], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a network have no memory for what doesn't fit, and note how many waveforms it is given at a time."""
    given: list[int] = []
    forward = network.forward

    def forward_if_it_fits(waveforms: Sequence[Tensor]) -> list[Tensor]:
        given.append(len(waveforms))
        if not fits(waveforms):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(waveforms)

    monkeypatch.setattr(network, "forward", forward_if_it_fits)
    return given


def total_seconds(waveforms: Sequence[Tensor]) -> float:
    return sum(len(waveform) for waveform in waveforms) / 16_000


def assert_same(results: Sequence[Prediction | Failure], expected: Sequence[Prediction | Failure]) -> None:
    """Check that predictions are the same, to the bit."""
    assert [result.utterance for result in results] == [result.utterance for result in expected]
    for result, other in zip(results, expected, strict=True):
        assert isinstance(result, Prediction)
        assert isinstance(other, Prediction)
        assert result.posteriors is not None
        assert other.posteriors is not None
        assert (result.duration, result.num_frames, result.windows) == (other.duration, other.num_frames, other.windows)
        np.testing.assert_array_equal(result.posteriors, other.posteriors)
        np.testing.assert_array_equal(result.embedding, other.embedding)


def test_what_fits_is_encoded_at_once(model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    given = cramp(network, lambda waveforms: len(waveforms) <= 5, monkeypatch)

    results = make_engine(model, network).start(make_batch([0.5] * 5))()

    assert given == [5]
    assert [result.utterance.utt_id for result in results] == ["utt0", "utt1", "utt2", "utt3", "utt4"]


@pytest.mark.parametrize(
    ("number", "room", "calls"),
    [
        (2, 1, [2, 1, 1]),
        (5, 4, [5, 2, 3]),
        (5, 1, [5, 2, 1, 1, 3, 1, 2, 1, 1]),
        (8, 2, [8, 4, 2, 2, 4, 2, 2]),
        (7, 3, [7, 3, 4, 2, 2]),
    ],
)
def test_a_batch_too_large_is_halved_until_it_fits(
    number: int, room: int, calls: list[int], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are those of the smaller batches, in the order of the large one."""
    batch = make_batch([0.3 + 0.1 * index for index in range(number)])
    engine = make_engine(model, make_network(model))
    cramped = make_engine(model, network)
    given = cramp(network, lambda waveforms: len(waveforms) <= room, monkeypatch)

    results = cramped.start(batch)()

    assert given == calls
    fitting: list[Prediction | Failure] = []
    for size in (size for size in calls if size <= room):
        fitting += engine.start(Batch(batch.waveforms[len(fitting) : len(fitting) + size]))()
    assert_same(results, fitting)


def test_frames_are_those_of_each_utterance_also_when_halved(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramp(network, lambda waveforms: len(waveforms) == 1, monkeypatch)

    results = make_engine(model, network, "frame").start(make_batch([0.3, 1.0, 0.5]))()

    assert [result.embedding.shape for result in results if isinstance(result, Prediction)] == [
        (14, 96),
        (49, 96),
        (24, 96),
    ]


def test_one_that_alone_is_too_large_fails_and_the_others_do_not(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch([0.5, 0.6, 2.54, 0.7])
    engine = make_engine(model, network)
    expected = [engine.start(Batch(half))() for half in (batch.waveforms[:2], batch.waveforms[3:])]
    cramp(network, lambda waveforms: total_seconds(waveforms) <= 2.0, monkeypatch)

    results = engine.start(batch)()

    detail = "2.5 s are too long for the memory of cpu; try a smaller --window"
    assert results[2] == Failure(batch.waveforms[2].utterance, "model", "out of memory", detail)
    assert_same([*results[:2], *results[3:]], [*expected[0], *expected[1]])


def test_without_any_memory_all_fail(model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    given = cramp(network, lambda _: False, monkeypatch)

    results = make_engine(model, network).start(make_batch([0.5, 0.6, 0.7]))()

    assert given == [3, 1, 2, 1, 1]
    assert [(result.utterance.index, result.reason) for result in results if isinstance(result, Failure)] == [
        (0, "out of memory"),
        (1, "out of memory"),
        (2, "out of memory"),
    ]


def test_what_is_not_finite_fails_alone(model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch([0.5, 0.6, 0.7])
    engine = make_engine(model, network)
    expected = engine.start(batch)()
    forward = network.forward

    def spoil(waveforms: Sequence[Tensor]) -> list[Tensor]:
        first, second, third = forward(waveforms)
        return [first, second * torch.nan, third]

    monkeypatch.setattr(network, "forward", spoil)

    results = engine.start(batch)()

    detail = "the model gives NaN or infinite numbers for it"
    assert results[1] == Failure(batch.waveforms[1].utterance, "model", "not finite", detail)
    assert_same([results[0], results[2]], [expected[0], expected[2]])


def test_an_error_of_another_kind_is_not_taken_for_a_lack_of_memory(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail(waveforms: Sequence[Tensor]) -> list[Tensor]:
        calls.append(len(waveforms))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(network, "forward", fail)

    message = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        make_engine(model, network).start(make_batch([0.5, 0.5]))()
    assert calls == [2]


# -- windows -----------------------------------------------------------------------------------------------------------


def make_long(seconds: float) -> tuple[NDArray[np.float32], Waveform]:
    """Make an utterance, of changing loudness and with an offset: in memory, and spooled."""
    samples = make_samples(seconds)
    spooled = DiskWaveform()
    for first in range(0, len(samples), 10_007):
        spooled.append(samples[first : first + 10_007])
    return samples, Waveform(Utterance(0, "long", "long.wav"), spooled, seconds)


def make_samples(seconds: float) -> NDArray[np.float32]:
    noise = np.random.default_rng(1).normal(size=round(seconds * 16_000))
    samples: NDArray[np.float32] = (noise * np.linspace(0.01, 0.2, len(noise)) + 0.05).astype(np.float32)
    return samples


def encode_one(engine: E2vEngine, waveform: Waveform | NDArray[np.float32]) -> Prediction:
    """Encode an utterance alone."""
    if not isinstance(waveform, Waveform):
        waveform = Waveform(Utterance(0, "long", "long.wav"), waveform, len(waveform) / 16_000)
    (prediction,) = engine.start(Batch((waveform,)))()
    assert isinstance(prediction, Prediction)
    return prediction


@torch.inference_mode()
def encode_in_windows(network: Emotion2vec, samples: NDArray[np.float32], window: float) -> tuple[Tensor, int]:
    """Encode each window of the normalised whole, and join the frames that are kept: (frames, dim), and how many."""
    whole = torch.from_numpy(samples)
    normalised = F.layer_norm(whole, whole.shape)
    num_frames = network.config.num_frames(len(samples))
    windows = list(cut_windows(num_frames, *window_frames(network.config, window)))
    parts = []
    for part in windows:
        (frames,) = network.encode([normalised[part.samples(network.config)]])
        assert len(frames) == part.end - part.first
        parts.append(frames[part.first_kept - part.first : part.end_kept - part.first])
    return torch.cat(parts), len(windows)


@torch.inference_mode()
def encode_whole(network: Emotion2vec, samples: NDArray[np.float32]) -> Tensor:
    """Encode an utterance at once: (frames, dim)."""
    frames: Tensor
    (frames,) = network([torch.from_numpy(samples)])
    return frames


@torch.inference_mode()
def apply_head(network: Emotion2vec, frames: Tensor) -> NDArray[np.float32]:
    """Apply the head to the mean of frames: (labels,)."""
    posteriors: NDArray[np.float32] = network.logits(frames.mean(dim=0)[None]).softmax(dim=1)[0].numpy()
    return posteriors


@pytest.mark.parametrize(("seconds", "window"), [(10.0, 4.0), (7.3, 1.0), (4.02, 4.0), (61.0, 60.0)])
def test_a_long_utterance_is_what_its_windows_are_together(
    seconds: float, window: float, model: Model, network: Emotion2vec
) -> None:
    samples, waveform = make_long(seconds)
    frames, num_windows = encode_in_windows(network, samples, window)

    pooled = encode_one(make_engine(model, network, window=window), waveform)
    framed = encode_one(make_engine(model, network, "frame", window=window), waveform)

    assert num_windows >= 2
    for prediction in (pooled, framed):
        assert (prediction.windows, prediction.num_frames) == (num_windows, (len(samples) - 400) // 320 + 1)
        assert prediction.duration == seconds
        assert prediction.posteriors is not None
        np.testing.assert_allclose(prediction.posteriors, apply_head(network, frames), rtol=0, atol=1e-5)
    assert isinstance(framed.embedding, DiskArray)
    assert framed.embedding.shape == (framed.num_frames, 96)
    np.testing.assert_allclose(framed.embedding.read(), frames.numpy(), rtol=0, atol=1e-4)
    assert isinstance(pooled.embedding, np.ndarray)
    np.testing.assert_allclose(pooled.embedding, frames.mean(dim=0).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_an_utterance_that_fits_into_a_window_is_as_if_it_were_not_spooled(
    granularity: Granularity, model: Model, network: Emotion2vec
) -> None:
    samples, waveform = make_long(10.0)
    engine = make_engine(model, network, granularity, timeline=0.5)

    spooled = encode_one(engine, waveform)
    whole = encode_one(engine, samples)

    assert (spooled.windows, spooled.num_frames) == (whole.windows, whole.num_frames) == (1, 499)
    embedding = spooled.embedding.read() if isinstance(spooled.embedding, DiskArray) else spooled.embedding
    assert isinstance(whole.embedding, np.ndarray)
    np.testing.assert_allclose(embedding, whole.embedding, rtol=0, atol=1e-4)
    for one, other in ((spooled.posteriors, whole.posteriors), (spooled.timeline, whole.timeline)):
        assert one is not None
        assert other is not None
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_in_windows_an_utterance_is_about_the_same_as_at_once(model: Model, network: Emotion2vec) -> None:
    """Here the weights are random, and some heads hear everything alike: of what is learned more is near."""
    samples, waveform = make_long(30.0)

    in_windows = encode_one(make_engine(model, network, window=12.0), waveform)
    at_once = encode_one(make_engine(model, network), samples)

    assert (in_windows.windows, at_once.windows) == (4, 1)
    assert in_windows.posteriors is not None
    assert at_once.posteriors is not None
    np.testing.assert_allclose(in_windows.posteriors, at_once.posteriors, rtol=0, atol=1e-3)


def test_samples_that_are_not_normalised_are_encoded_as_they_are(tmp_path: Path) -> None:
    model = read_model("raw", make_model(tmp_path, make_config(model={"normalize": False})))
    network = make_network(model)
    samples, waveform = make_long(5.0)

    spooled = encode_one(make_engine(model, network), waveform)

    assert isinstance(spooled.embedding, np.ndarray)
    expected = encode_whole(network, samples).mean(dim=0)
    np.testing.assert_allclose(spooled.embedding, expected.numpy(), rtol=0, atol=1e-5)


def test_a_window_that_is_too_large_for_memory_fails(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, waveform = make_long(10.0)

    def fail(_: Sequence[Tensor]) -> list[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(network, "encode", fail)
    (result,) = make_engine(model, network, "frame", window=4.0).start(Batch((waveform,)))()

    detail = "10.0 s are too long for the memory of cpu; try a smaller --window"
    assert result == Failure(waveform.utterance, "model", "out of memory", detail)


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_a_window_that_is_not_finite_makes_the_whole_fail(
    granularity: Granularity, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, waveform = make_long(10.0)
    calls: list[int] = []
    encode = network.encode

    def spoil(waveforms: Sequence[Tensor]) -> list[Tensor]:
        calls.append(len(waveforms))
        (frames,) = encode(waveforms)
        return [frames * (torch.inf if len(calls) == 2 else 1)]

    monkeypatch.setattr(network, "encode", spoil)
    (result,) = make_engine(model, network, granularity, window=4.0).start(Batch((waveform,)))()

    assert calls == [1, 1, 1, 1]
    detail = "the model gives NaN or infinite numbers for it"
    assert result == Failure(waveform.utterance, "model", "not finite", detail)


# -- the timeline ------------------------------------------------------------------------------------------------------

HOPS = [0.02, 0.05, 0.1, 0.25, 0.33, 1.0, 3.0, 1000.0]


def expected_timeline(network: Emotion2vec, frames: Tensor, hop: float) -> NDArray[np.float32]:
    """Apply the head to the mean of each span, by the definition: frame k begins at k × 20 ms."""
    spans = [int(20 * frame // round(1000 * hop)) for frame in range(len(frames))]
    assert sorted(set(spans)) == list(range(spans[-1] + 1))
    number = torch.tensor(spans)
    return np.stack([apply_head(network, frames[number == span]) for span in range(spans[-1] + 1)])


@pytest.mark.parametrize("hop", HOPS)
def test_a_timeline_is_the_head_on_the_mean_of_each_span(hop: float, model: Model, network: Emotion2vec) -> None:
    """Of every utterance of a batch."""
    batch = make_batch([0.5, 3.0, 0.03, 1.51])
    plain = make_engine(model, network).start(batch)()

    results = make_engine(model, network, timeline=hop).start(batch)()

    assert_same(results, plain)  # it changes nothing else
    for waveform, result in zip(batch.waveforms, results, strict=True):
        assert isinstance(result, Prediction)
        assert result.timeline is not None
        expected = expected_timeline(network, encode_whole(network, waveform.whole), hop)
        assert (result.timeline.dtype.name, result.timeline.shape) == ("float32", expected.shape)
        np.testing.assert_allclose(result.timeline, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("hop", HOPS)
@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_a_timeline_of_windows_is_one_of_all_frames(
    granularity: Granularity, hop: float, model: Model, network: Emotion2vec
) -> None:
    """Also where a span begins in a window and ends in the next, or the one behind that."""
    samples, waveform = make_long(11.3)
    frames, num_windows = encode_in_windows(network, samples, 2.0)

    prediction = encode_one(make_engine(model, network, granularity, window=2.0, timeline=hop), waveform)

    assert prediction.windows == num_windows == 7
    assert prediction.timeline is not None
    expected = expected_timeline(network, frames, hop)
    assert prediction.timeline.shape == expected.shape
    np.testing.assert_allclose(prediction.timeline, expected, rtol=0, atol=1e-5)


def test_a_timeline_has_the_labels_in_use_alone(tmp_path: Path) -> None:
    model = read_model("five", make_model(tmp_path, tokens=("calm", "unuse_0", "tense", "<unk>", "unuse_1")))
    network = make_network(model)
    (waveform,) = make_batch([1.0]).waveforms

    prediction = encode_one(make_engine(model, network, timeline=0.5), waveform)

    assert prediction.timeline is not None
    assert prediction.timeline.shape == (2, len(model.labels)) == (2, 3)
    np.testing.assert_allclose(prediction.timeline.sum(axis=1), 1, rtol=0, atol=1e-6)


def test_without_a_timeline_there_is_none(model: Model, network: Emotion2vec) -> None:
    assert encode_one(make_engine(model, network), make_long(1.0)[0]).timeline is None
    assert encode_one(make_engine(model, network, "frame", window=2.0), make_long(5.0)[1]).timeline is None


# -- how GPUs multiply -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "inside"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_switches_of_pytorch_are_set_within_alone(
    precision: Precision, inside: str, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def forward(waveforms: Sequence[Tensor]) -> list[Tensor]:
        seen.append(read_switches())
        return Emotion2vec.forward(network, waveforms)

    monkeypatch.setattr(network, "forward", forward)
    before = read_switches()

    make_engine(model, network, precision=precision).start(make_batch([0.3]))()

    assert seen == [(inside, inside)]
    assert read_switches() == before


def test_switches_of_pytorch_are_set_back_after_an_error(
    model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_switches()
    monkeypatch.setattr(network, "forward", None)

    with pytest.raises(TypeError):
        make_engine(model, network, precision="tf32").start(make_batch([0.3]))()

    assert read_switches() == before


@pytest.fixture
def _bf16_is_allowed() -> Iterator[None]:
    """A notebook has allowed CPUs to multiply as bfloat16."""
    backends: Any = torch.backends
    switches = [backends.mkldnn.matmul, backends.mkldnn.conv]
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "bf16"
    yield
    for switch, setting in zip(switches, before, strict=True):
        switch.fp32_precision = setting


@pytest.mark.usefixtures("_bf16_is_allowed")
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_what_a_notebook_allows_cpus_is_not_made_use_of(
    precision: Precision, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends: Any = torch.backends
    seen = []

    def read() -> tuple[str, str]:
        return backends.mkldnn.matmul.fp32_precision, backends.mkldnn.conv.fp32_precision

    def forward(waveforms: Sequence[Tensor]) -> list[Tensor]:
        seen.append(read())
        return Emotion2vec.forward(network, waveforms)

    monkeypatch.setattr(network, "forward", forward)

    make_engine(model, network, precision=precision).start(make_batch([0.3]))()

    assert seen == [("ieee", "ieee")]
    assert read() == ("bf16", "bf16")


@pytest.mark.parity
def test_upstreams_engine_multiplies_exactly(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FunasrEngine(model, CPU, ResultOptions())
    inference, seen = engine.upstream.inference, []

    def note(*args: Any, **kwargs: Any) -> Any:
        seen.append(read_switches())
        return inference(*args, **kwargs)

    monkeypatch.setattr(engine.upstream, "inference", note)
    before = read_switches()

    engine.start(make_batch([0.3]))()

    assert seen == [("ieee", "ieee")]
    assert read_switches() == before


# -- numbers below 1e-38 -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["kept", "flushed"])
def callers(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether who calls the engine takes numbers below 1e-38 for zero."""
    flushed: bool = request.param
    if not torch.set_flush_denormal(flushed):
        pytest.skip("this CPU knows no such setting")
    yield flushed
    torch.set_flush_denormal(False)


def test_numbers_below_1e38_are_zero_within_alone(
    callers: bool, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def forward(waveforms: Sequence[Tensor]) -> list[Tensor]:
        seen.append(flushes())
        return Emotion2vec.forward(network, waveforms)

    monkeypatch.setattr(network, "forward", forward)
    pending = make_engine(model, network).start(make_batch([0.3]))

    assert flushes() == callers
    pending()
    assert (seen, flushes()) == ([True], callers)


def test_numbers_below_1e38_are_zero_in_windows(
    callers: bool, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    encode = network.encode

    def note(waveforms: Sequence[Tensor]) -> list[Tensor]:
        seen.append(flushes())
        return encode(waveforms)

    monkeypatch.setattr(network, "encode", note)

    encode_one(make_engine(model, network, window=4.0), make_long(7.0)[1])

    assert len(seen) > 1
    assert all(seen)
    assert flushes() == callers


def test_numbers_below_1e38_are_as_before_after_an_error(
    callers: bool, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "forward", None)

    with pytest.raises(TypeError):
        make_engine(model, network).start(make_batch([0.3]))

    assert flushes() == callers


def test_numbers_below_1e38_are_as_before_where_memory_is_short(
    callers: bool, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramp(network, lambda waveforms: len(waveforms) == 1, monkeypatch)

    make_engine(model, network).start(make_batch([0.3, 0.3, 0.3]))()

    assert flushes() == callers


def test_numbers_below_1e38_are_as_before_also_where_a_notebook_computes_in_float64(
    callers: bool, model: Model, network: Emotion2vec
) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        make_engine(model, network).start(make_batch([0.3]))()
    finally:
        torch.set_default_dtype(torch.float32)

    assert flushes() == callers


# -- the time that it takes --------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the engines, which stands still until it is put on."""
    clock = [100.0]
    for module in ("engine", "upstream"):
        monkeypatch.setattr(f"e2v_cli.inference.{module}.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return clock


def test_it_is_busy_for_as_long_as_batches_take(
    clock: list[float], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while results are written, or audio is waited for."""
    seconds = iter([3.0, 0.5])

    def forward(waveforms: Sequence[Tensor]) -> list[Tensor]:
        clock[0] += next(seconds)
        return Emotion2vec.forward(network, waveforms)

    monkeypatch.setattr(network, "forward", forward)
    engine = make_engine(model, network)
    busy = [engine.busy_seconds]

    for _ in range(2):
        clock[0] += 100.0
        pending = engine.start(make_batch([0.3, 0.4]))
        clock[0] += 100.0
        pending()
        busy.append(engine.busy_seconds)

    assert busy == [0.0, 3.0, 3.5]


def test_it_is_busy_with_each_half(
    clock: list[float], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(waveforms: Sequence[Tensor]) -> list[Tensor]:
        if len(waveforms) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        clock[0] += 2.0
        return Emotion2vec.forward(network, waveforms)

    monkeypatch.setattr(network, "forward", forward)
    engine = make_engine(model, network)

    engine.start(make_batch([0.3, 0.4, 0.5]))()

    assert engine.busy_seconds == 6.0


def test_it_is_busy_with_windows(
    clock: list[float], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = network.encode

    def slow(waveforms: Sequence[Tensor]) -> list[Tensor]:
        clock[0] += 2.0
        return encode(waveforms)

    monkeypatch.setattr(network, "encode", slow)
    engine = make_engine(model, network, window=4.0)

    (result,) = engine.start(Batch((make_long(10.0)[1],)))()

    assert isinstance(result, Prediction)
    assert engine.busy_seconds == 2.0 * result.windows > 2.0


@pytest.mark.parity
def test_upstreams_engine_is_busy_for_as_long_as_batches_take(
    clock: list[float], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FunasrEngine(model, CPU, ResultOptions())
    inference = engine.upstream.inference

    def slow(*args: Any, **kwargs: Any) -> Any:
        clock[0] += 2.0
        return inference(*args, **kwargs)

    monkeypatch.setattr(engine.upstream, "inference", slow)

    engine.start(make_batch([0.3, 0.4, 0.5]))()

    assert engine.busy_seconds == 6.0
