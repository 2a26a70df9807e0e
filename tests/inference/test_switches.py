"""PyTorch's switches for products of float32 matrices, which are those of the process: engines set and restore them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any

import pytest
import torch
from support.engines import assert_same, make_batch
from support.upstream import upstream_alone
from torch import Tensor

from e2v_cli.inference.engine import E2vEngine
from e2v_cli.inference.load import load_engine
from e2v_cli.inference.upstream import FunasrEngine
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import Weights
from e2v_cli.network.emotion2vec import Emotion2vec, Taps
from e2v_cli.options import ComputeOptions, Precision, ResultOptions

BACKENDS: Any = torch.backends

SWITCHES = [
    BACKENDS.cudnn,
    BACKENDS.cuda.matmul,
    BACKENDS.cudnn.conv,
    BACKENDS.cudnn.rnn,
    BACKENDS.mkldnn.matmul,
    BACKENDS.mkldnn.conv,
]

pytestmark = pytest.mark.usefixtures("gpus")


def read_switches(device: str) -> tuple[str, str]:
    """Return the precision of float32 matrix products and convolutions on a device."""
    backends = (BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv)
    if device != "cpu":
        backends = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv)
    matmul, conv = (switch.fp32_precision for switch in backends)
    return matmul, conv


def read_all() -> list[str]:
    """Return all settings, and what they become if the most general one changes, which the others may follow."""
    before = BACKENDS.fp32_precision
    settings = []
    for general in (before, "ieee", "tf32"):
        BACKENDS.fp32_precision = general
        settings += [switch.fp32_precision for switch in SWITCHES]
    BACKENDS.fp32_precision = before
    return settings


@pytest.fixture
def load_on(model: Model, weights: Weights) -> Callable[[str, Precision], E2vEngine]:
    """Load an engine in a precision on a device."""

    def load(device: str, precision: Precision) -> E2vEngine:
        engine = load_engine(model, weights, device, ComputeOptions(precision=precision), ResultOptions())
        assert isinstance(engine, E2vEngine)
        return engine

    return load


Load = Callable[[str, Precision], E2vEngine]


def before_forward(network: Emotion2vec, note: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a function whenever the network has been given waveforms."""

    def forward(waveforms: Sequence[Tensor], *taps: Taps) -> list[Tensor]:
        note()
        return Emotion2vec.forward(network, waveforms, *taps)

    monkeypatch.setattr(network, "forward", forward)


@pytest.fixture(params=["nothing", "TF32 everywhere", "TF32 on GPUs", "TF32 products", "bfloat16 on CPUs"])
def _allowed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Switches as a notebook may have set them."""
    switches = {
        "nothing": [],
        "TF32 everywhere": [BACKENDS],
        "TF32 on GPUs": [BACKENDS.cudnn],
        "TF32 products": [BACKENDS.cuda.matmul],
        "bfloat16 on CPUs": [BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv],
    }[request.param]
    for switch in switches:
        switch.fp32_precision = "bf16" if "bfloat16" in request.param else "tf32"
    yield
    for switch in switches:
        switch.fp32_precision = "none"


@pytest.mark.usefixtures("_allowed")
@pytest.mark.parametrize(
    ("device", "precision", "inside"),
    [
        ("cpu", "fp32", {"ieee"}),
        ("cpu", "bf16", {"ieee"}),
        ("cuda:0", "fp32", {"ieee"}),
        ("cuda:1", "bf16", {"ieee"}),
        ("cuda:1", "tf32", {"tf32"}),
    ],
)
def test_precision_is_set_only_while_the_engine_computes(
    device: str, precision: Precision, inside: set[str], load_on: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, seen, before = load_on(device, precision), [], read_all()
    before_forward(engine.network, lambda: seen.append(read_switches(device)), monkeypatch)

    engine.start(make_batch([0.3]))()

    assert [set(settings) for settings in seen] == [inside]
    assert read_all() == before


@pytest.mark.parametrize(("device", "other"), [("cpu", "cuda:0"), ("cuda:0", "cpu")])
def test_switches_of_other_devices_are_left_alone(
    device: str, other: str, load_on: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, seen, before = load_on(device, "fp32"), [], read_switches(other)
    before_forward(engine.network, lambda: seen.append(read_switches(other)), monkeypatch)

    engine.start(make_batch([0.3]))()

    assert seen == [before]


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_precision_is_restored_after_an_error(device: str, load_on: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, before = load_on(device, "fp32"), read_all()
    monkeypatch.setattr(engine.network, "forward", None)

    with pytest.raises(TypeError):
        engine.start(make_batch([0.3]))()

    assert read_all() == before


@pytest.mark.parity
def test_upstreams_engine_multiplies_exactly(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with upstream_alone():
        engine = FunasrEngine(model, torch.device("cpu"), ResultOptions())
    inference, seen, before = engine.upstream.inference, [], read_all()

    def note(*args: Any, **kwargs: Any) -> Any:
        seen.append(read_switches("cpu"))
        return inference(*args, **kwargs)

    monkeypatch.setattr(engine.upstream, "inference", note)

    engine.start(make_batch([0.3]))()

    assert seen == [("ieee", "ieee")]
    assert read_all() == before


class NotingLock:
    """A lock that notes when a second thread wants it."""

    def __init__(self, wanted: Event) -> None:
        self._lock = Lock()
        self._wanted = wanted

    def __enter__(self) -> None:
        if self._lock.locked():
            self._wanted.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.usefixtures("_allowed")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("cpu", "fp32"), ("cpu", "bf16")),
        (("cpu", "bf16"), ("cpu", "fp32")),
        (("cuda:0", "fp32"), ("cuda:1", "tf32")),
        (("cuda:0", "tf32"), ("cuda:0", "fp32")),
    ],
)
def test_threads_do_not_disturb_the_precision_of_each_other(
    first: tuple[str, Precision], second: tuple[str, Precision], load_on: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second thread begins in the middle of the first one's batch, and computes on when that is done."""
    before, batch = read_all(), make_batch([0.3, 0.5])
    engines = [load_on(*first), load_on(*second)]
    alone = [engine.start(batch)() for engine in engines]
    has_begun, first_is_done = Event(), Event()
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr("e2v_cli.inference.engine.SWITCHES", NotingLock(has_begun), raising=False)

    with ThreadPoolExecutor(1) as thread:

        def interrupt() -> None:
            seen.append(read_switches(first[0]))
            results.append(thread.submit(lambda: engines[1].start(batch)()))
            assert has_begun.wait(60)
            seen.append(read_switches(first[0]))

        def go_on() -> None:
            has_begun.set()
            assert first_is_done.wait(60)
            seen.append(read_switches(second[0]))

        results: list[Any] = []
        before_forward(engines[0].network, interrupt, monkeypatch)
        before_forward(engines[1].network, go_on, monkeypatch)
        pending = engines[0].start(batch)
        first_is_done.set()
        assert_same(pending(), alone[0])
        assert_same(results[0].result(), alone[1])

    settings = ["tf32" if precision == "tf32" else "ieee" for precision in (first[1], first[1], second[1])]
    assert seen == [(setting, setting) for setting in settings]
    assert read_all() == before
