"""Denormals, which engines flush while they compute, and their busy time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.engines import encode_one, limit_memory, make_batch, make_engine, make_long
from support.upstream import upstream_alone
from torch import Tensor

from e2v_cli.inference.upstream import FunasrEngine
from e2v_cli.models.folder import Model
from e2v_cli.network.emotion2vec import Emotion2vec, Taps
from e2v_cli.options import ResultOptions
from e2v_cli.records import Batch, Prediction

CPU = torch.device("cpu")


def flushes_denormals() -> bool:
    """Whether numbers below 1e-38 are flushed to zero."""
    return float(torch.full((), 1e-40, dtype=torch.float32) * 2) == 0


# -- denormals: numbers below 1e-38 ------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["kept", "flushed"])
def caller_flushes(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the engine's caller flushes denormals to zero."""
    flushed: bool = request.param
    if not torch.set_flush_denormal(flushed):
        pytest.skip("this CPU knows no such setting")
    yield flushed
    torch.set_flush_denormal(False)


def test_denormals_are_flushed_only_while_the_engine_computes(
    caller_flushes: bool, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def forward(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        seen.append(flushes_denormals())
        return Emotion2vec.forward(network, waveforms, *taps)

    monkeypatch.setattr(network, "forward", forward)
    pending = make_engine(model, network).start(make_batch([0.3]))

    assert flushes_denormals() == caller_flushes
    pending()
    assert (seen, flushes_denormals()) == ([True], caller_flushes)


def test_denormals_are_flushed_in_windows(
    caller_flushes: bool, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    encode = network.encode

    def note(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        seen.append(flushes_denormals())
        return encode(waveforms, *taps)

    monkeypatch.setattr(network, "encode", note)

    encode_one(make_engine(model, network, window=4.0), make_long(7.0)[1])

    assert len(seen) > 1
    assert all(seen)
    assert flushes_denormals() == caller_flushes


def test_flushing_is_restored_after_an_error(
    caller_flushes: bool, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "forward", None)

    with pytest.raises(TypeError):
        make_engine(model, network).start(make_batch([0.3]))

    assert flushes_denormals() == caller_flushes


def test_flushing_is_restored_after_a_lack_of_memory(
    caller_flushes: bool, model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(network, lambda waveforms: len(waveforms) == 1, monkeypatch)

    make_engine(model, network).start(make_batch([0.3, 0.3, 0.3]))()

    assert flushes_denormals() == caller_flushes


def test_flushing_is_restored_if_a_notebook_uses_float64(
    caller_flushes: bool, model: Model, network: Emotion2vec
) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        make_engine(model, network).start(make_batch([0.3]))()
    finally:
        torch.set_default_dtype(torch.float32)

    assert flushes_denormals() == caller_flushes


# -- busy time ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the engines, which only the test advances."""
    clock = [100.0]
    for module in ("engine", "upstream"):
        monkeypatch.setattr(f"e2v_cli.inference.{module}.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return clock


def test_busy_time_is_that_of_the_batches(
    clock: list[float], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing results and waiting for audio don't count."""
    seconds = iter([3.0, 0.5])

    def forward(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        clock[0] += next(seconds)
        return Emotion2vec.forward(network, waveforms, *taps)

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


def test_busy_time_includes_each_half(
    clock: list[float], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        if len(waveforms) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        clock[0] += 2.0
        return Emotion2vec.forward(network, waveforms, *taps)

    monkeypatch.setattr(network, "forward", forward)
    engine = make_engine(model, network)

    engine.start(make_batch([0.3, 0.4, 0.5]))()

    assert engine.busy_seconds == 6.0


def test_busy_time_includes_windows(
    clock: list[float], model: Model, network: Emotion2vec, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = network.encode

    def slow(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        clock[0] += 2.0
        return encode(waveforms, *taps)

    monkeypatch.setattr(network, "encode", slow)
    engine = make_engine(model, network, window=4.0)

    (result,) = engine.start(Batch((make_long(10.0)[1],)))()

    assert isinstance(result, Prediction)
    assert engine.busy_seconds == 2.0 * result.windows > 2.0


@pytest.mark.parity
def test_busy_time_of_upstreams_engine_is_that_of_the_batches(
    clock: list[float], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with upstream_alone():
        engine = FunasrEngine(model, CPU, ResultOptions())
    inference = engine.upstream.inference

    def slow(*args: Any, **kwargs: Any) -> Any:
        clock[0] += 2.0
        return inference(*args, **kwargs)

    monkeypatch.setattr(engine.upstream, "inference", slow)

    engine.start(make_batch([0.3, 0.4, 0.5]))()

    assert engine.busy_seconds == 6.0
