"""Products with packed weights against PyTorch's own, and matrices that must not reach MKL."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import read_model
from e2v_cli.network import packed as mkl
from e2v_cli.network.packed import PackedWeight, pack_weights

has_mkl = pytest.mark.skipif(mkl._mkl() is None, reason="this PyTorch has no MKL that packs weights")


def pack(*weights: Tensor) -> list[PackedWeight]:
    packed = pack_weights(weights)
    assert packed is not None
    return packed


def multiply(x: Tensor, packed: PackedWeight) -> Tensor:
    out = torch.full((len(x), packed.shape[0]), torch.nan)
    packed.multiply(x, out, add=False)
    return out


def check(out: Tensor, x: Tensor, weight: Tensor, before: Tensor | None = None) -> None:
    """Compare a product of random numbers with the one in float64."""
    expected = x.double() @ weight.double().T
    if before is not None:
        expected += before
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5 * weight.shape[1] ** 0.5)


@has_mkl
@pytest.mark.parametrize(("columns", "depth"), [(1, 1), (3, 5), (61, 97), (512, 1024), (768, 3072)])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 256, 257, 300])
def test_packed_product_matches_float64(rows: int, columns: int, depth: int) -> None:
    torch.manual_seed(0)
    weight, x, before = torch.randn(columns, depth), torch.randn(rows, depth), torch.randn(rows, columns)
    (packed,) = pack(weight)

    check(multiply(x, packed), x, weight)

    out = before.clone()
    packed.multiply(x, out, add=True)
    check(out, x, weight, before)


@has_mkl
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_product_of_strided_rows_writes_no_other_rows(rows: int, add: bool) -> None:
    torch.manual_seed(0)
    weight, whole = torch.randn(33, 65), torch.randn(2 * rows, 70)
    (packed,) = pack(weight)
    x = whole[::2, 3:68]
    around = torch.full((2 * rows, 40), torch.nan)
    out = around[1::2, 4:37]
    before = torch.randn(rows, 33) if add else torch.zeros(rows, 33)
    if add:
        out.copy_(before)

    packed.multiply(x, out, add=add)

    check(out, x, weight, before)
    out.fill_(torch.nan)
    assert around.isnan().all()  # nothing beside the rows was written


@has_mkl
def test_product_is_written_to_every_second_row() -> None:
    """As in a paired convolution: there is no gap between the rows."""
    torch.manual_seed(0)
    weight, x = torch.randn(16, 8), torch.randn(5, 8)
    steps = torch.full((5, 2, 16), torch.nan)
    (packed,) = pack(weight)

    packed.multiply(x, steps[:, 1], add=False)

    check(steps[:, 1], x, weight)
    assert steps[:, 0].isnan().all()


@has_mkl
@pytest.mark.parametrize("stride", [0, 1, 1000])
def test_a_single_row_may_have_any_stride(stride: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(4, 8), torch.randn(8).as_strided((1, 8), (stride, 1))
    (packed,) = pack(weight)
    check(multiply(x, packed), x, weight)


@has_mkl
def test_parts_of_larger_weights_are_packed() -> None:
    torch.manual_seed(0)
    whole, x = torch.randn(20, 50), torch.randn(7, 9)
    parts = [whole[:, 3:12], whole[::2, 41:], whole[4:5, :9]]
    for part, packed in zip(parts, pack(*parts), strict=True):
        check(multiply(x, packed), x, part)


@has_mkl
def test_packed_weights_are_independent() -> None:
    """Later changes of the weights and of other packed ones have no effect."""
    torch.manual_seed(0)
    weights = [torch.randn(columns, 64) for columns in (1, 700, 3, 512)]
    kept = [weight.clone() for weight in weights]
    packed = pack(*weights)
    last = packed[-1]
    x = torch.randn(5, 64)

    for weight in weights:
        weight.fill_(torch.nan)
    for one, weight in zip(packed, kept, strict=True):
        check(multiply(x, one), x, weight)

    del one, packed
    gc.collect()
    check(multiply(x, last), x, kept[-1])


@has_mkl
@pytest.mark.parametrize(("packing", "multiplying"), [(1, 2), (2, 1)])
def test_number_of_threads_may_change_after_packing(packing: int, multiplying: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(512, 768), torch.randn(300, 768)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(packing)
        (packed,) = pack(weight)
        torch.set_num_threads(multiplying)
        out = multiply(x, packed)
    finally:
        torch.set_num_threads(threads)
    check(out, x, weight)


REFUSED = {
    "too few columns": torch.zeros(8, 7),
    "too many columns": torch.zeros(8, 9),
    "too few rows": torch.zeros(7, 8),
    "one dimension": torch.zeros(8),
    "three dimensions": torch.zeros(8, 8, 1),
    "float64": torch.zeros(8, 8, dtype=torch.float64),
    "bfloat16": torch.zeros(8, 8, dtype=torch.bfloat16),
    "integers": torch.zeros(8, 8, dtype=torch.int32),
    "gaps between columns": torch.zeros(8, 16)[:, ::2],
    "transposed": torch.zeros(8, 8).T,
    "rows that overlap": torch.zeros(100).as_strided((8, 8), (7, 1)),
    "one row again and again": torch.zeros(8).expand(8, 8),
    "not on the CPU": torch.zeros(8, 8, device="meta"),
}


@has_mkl
@pytest.mark.parametrize("place", ["x", "out", "weight"])
@pytest.mark.parametrize("refused", REFUSED)
def test_unsuitable_matrix_is_refused(refused: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (packed,) = pack(torch.zeros(8, 8))
    good, bad = torch.zeros(8, 8), REFUSED[refused]
    ask: dict[str, Callable[[], None]] = {
        "x": lambda: packed.multiply(bad, good, add=False),
        "out": lambda: packed.multiply(good, bad, add=False),
        "weight": lambda: packed.fill(bad),
    }
    monkeypatch.setattr(mkl, "_mkl", lambda: pytest.fail("MKL was asked"))

    with pytest.raises(ValueError, match="is not a float32 matrix"):
        ask[place]()


@has_mkl
@pytest.mark.parametrize("refused", ["float64", "gaps between columns", "rows that overlap", "not on the CPU"])
def test_weights_that_cannot_be_packed_are_refused(refused: str) -> None:
    with pytest.raises(ValueError, match="is not a float32 matrix"):
        pack(torch.zeros(8, 8), REFUSED[refused])


def no_library(*_: Any) -> None:
    raise OSError("libtorch_cpu.so: cannot open shared object file")


class OtherLibrary:
    """A library with matrix products, but without packed ones."""

    def __init__(self, *_: Any) -> None:
        self.cblas_sgemm = None


@pytest.mark.parametrize("library", [no_library, OtherLibrary])
def test_library_without_mkl_is_recognised(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert mkl._mkl.__wrapped__() is None


def test_network_without_mkl_stays_unpacked(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mkl, "_mkl", lambda: None)
    assert pack_weights([torch.zeros(8, 8)]) is None
    network = make_network(read_model("tiny", tiny))
    torch.manual_seed(0)
    waveforms = [torch.randn(length) for length in (400, 16_000, 9_000)]

    with torch.inference_mode():
        before = network(waveforms)
        assert network.pack() is network
        after = network(waveforms)

    assert not any(getattr(module, "packed", ()) for module in network.modules())
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
