"""What engines set in their process and set back again, and the time that they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.engines import cramp, encode_one, make_batch, make_engine, make_long
from torch import Tensor

from e2v_cli.inference.upstream import FunasrEngine
from e2v_cli.models.folder import Model
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.options import Precision, ResultOptions
from e2v_cli.records import Batch, Prediction

CPU = torch.device("cpu")


def read_switches() -> tuple[str, str]:
    """Say how GPUs multiply float32 matrices, and convolve."""
    backends: Any = torch.backends
    return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision


def flushes() -> bool:
    """Say whether numbers below 1e-38 are taken for zero."""
    return float(torch.full((), 1e-40, dtype=torch.float32) * 2) == 0


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
