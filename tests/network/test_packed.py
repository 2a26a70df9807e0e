"""Products with weights packed for each library against PyTorch's own, and matrices that must not reach MKL."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.processes import ROOT
from torch import Tensor

from e2v_cli.inference.products import is_built_in
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import read_model
from e2v_cli.network import packed as mkl
from e2v_cli.network.packed import Product, pack_weights
from e2v_cli.network.products import ProductsName

has_mkl = pytest.mark.skipif(not is_built_in("mkl"), reason="this PyTorch has no MKL that packs weights")


def pack(weight: Tensor, products: ProductsName) -> Product:
    (product,) = pack_weights([weight], products)
    return product


def check(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> None:
    """Compare a product of random numbers with the one in float64."""
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(
        out.double(), F.gelu(expected) if gelu else expected, rtol=0, atol=1e-5 * weight.shape[1] ** 0.5
    )


@pytest.mark.parametrize(("columns", "depth"), [(1, 1), (3, 5), (61, 97), (512, 1024), (768, 3072)])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 256, 257, 300])
def test_product_matches_float64(rows: int, columns: int, depth: int, products: ProductsName) -> None:
    torch.manual_seed(0)
    weight, x, bias = torch.randn(columns, depth), torch.randn(rows, depth), torch.randn(columns)
    product = pack(weight, products)

    check(product(x), x, weight)
    check(product(x, bias), x, weight, bias)
    check(product(x, bias, gelu=True), x, weight, bias, gelu=True)
    check(product(x, gelu=True), x, weight, gelu=True)


def test_gelu_is_that_with_erf(products: ProductsName) -> None:
    """The form with tanh differs by up to 5e-4."""
    x = torch.linspace(-8, 8, 100_000).view(-1, 50)
    out = pack(torch.eye(50), products)(x, gelu=True)
    torch.testing.assert_close(out.double(), F.gelu(x.double()), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_rows_may_have_gaps_between_them(rows: int, products: ProductsName) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(33, 65), torch.randn(2 * rows, 70)[::2, 3:68]
    check(pack(weight, products)(x), x, weight)


@pytest.mark.parametrize("stride", [0, 1, 1000])
def test_a_single_row_may_have_any_stride(stride: int, products: ProductsName) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(4, 8), torch.randn(8).as_strided((1, 8), (stride, 1))
    check(pack(weight, products)(x), x, weight)


def test_parts_of_larger_weights_are_packed(products: ProductsName) -> None:
    torch.manual_seed(0)
    whole, x = torch.randn(20, 50), torch.randn(7, 9)
    parts = [whole[:, 3:12], whole[::2, 41:], whole[4:5, :9]]
    for part, product in zip(parts, pack_weights(parts, products), strict=True):
        check(product(x), x, part)


@pytest.mark.parametrize("products", ["mkl", "onednn"], indirect=True)
def test_packed_weights_are_independent(products: ProductsName) -> None:
    """Later changes of the weights and of other packed ones have no effect."""
    torch.manual_seed(0)
    weights = [torch.randn(columns, 64) for columns in (1, 700, 3, 512)]
    kept = [weight.clone() for weight in weights]
    packed = list(pack_weights(weights, products))
    last = packed[-1]
    x = torch.randn(5, 64)

    for weight in weights:
        weight.fill_(torch.nan)
    for one, weight in zip(packed, kept, strict=True):
        check(one(x), x, weight)

    del one, packed
    gc.collect()
    check(last(x), x, kept[-1])


@pytest.mark.parametrize(("packing", "multiplying"), [(1, 2), (2, 1)])
def test_number_of_threads_may_change_after_packing(packing: int, multiplying: int, products: ProductsName) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(512, 768), torch.randn(300, 768)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(packing)
        product = pack(weight, products)
        torch.set_num_threads(multiplying)
        out = product(x)
    finally:
        torch.set_num_threads(threads)
    check(out, x, weight)


def run_program(program: str, products: ProductsName) -> str:
    """Run a program in a process that has multiplied nothing, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, products],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


PACK_AND_FORK = """
import hashlib, os, sys
import torch
from e2v_cli.network.packed import pack_weights

torch.set_num_threads(1)
torch.manual_seed(0)
weight, bias, x = torch.randn(512, 768), torch.randn(512), torch.randn(300, 768)
(product,) = pack_weights([weight], sys.argv[1])
weight.fill_(torch.nan)
for number in range(3):
    if number == 2 or os.fork() == 0:
        print(hashlib.sha256(product(x, bias, gelu=True).numpy().tobytes()).hexdigest(), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize("products", ["mkl", "onednn"], indirect=True)
def test_forked_processes_multiply_to_the_same_bytes(products: ProductsName) -> None:
    """The weight was packed before, by a process that has multiplied nothing."""
    hashes = run_program(PACK_AND_FORK, products).split()
    assert len(hashes) == 3
    assert len(set(hashes)) == 1


MULTIPLY_MANY = """
import sys
import torch
from pathlib import Path
from e2v_cli.network.packed import pack_weights

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

torch.set_num_threads(1)
(product,) = pack_weights([torch.zeros(768, 64)], sys.argv[1])
product(torch.zeros(640, 64))
before = resident()
for number in range(640):
    product(torch.zeros(1 + number * 77 % 640, 64))
print(resident() - before)
"""


def test_products_of_many_numbers_of_rows_need_no_memory_each(products: ProductsName) -> None:
    """Without rounding, oneDNN keeps a kernel for each number of rows: 390 MB here, as in a worker at base shape."""
    assert int(run_program(MULTIPLY_MANY, products)) < 60e6


REFUSED = {
    "too few columns": torch.zeros(8, 7),
    "too many columns": torch.zeros(8, 9),
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
@pytest.mark.parametrize("refused", REFUSED)
def test_rows_that_mkl_cannot_read_are_refused(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    product = pack(torch.zeros(8, 8), "mkl")
    monkeypatch.setattr(mkl, "_mkl", lambda: pytest.fail("MKL was asked"))

    with pytest.raises(ValueError, match="is not a float32 matrix"):
        product(REFUSED[refused])


@has_mkl
@pytest.mark.parametrize("refused", ["float64", "gaps between columns", "rows that overlap", "not on the CPU"])
def test_weights_that_mkl_cannot_read_are_refused(refused: str) -> None:
    with pytest.raises(ValueError, match="is not a float32 matrix"):
        pack_weights([torch.zeros(8, 8), REFUSED[refused]], "mkl")


def test_network_has_the_same_features_with_all_products(tiny: Path, products: ProductsName) -> None:
    network = make_network(read_model("tiny", tiny))
    torch.manual_seed(0)
    waveforms = [torch.randn(length) for length in (400, 16_000, 9_000, 100_000)]

    with torch.inference_mode():
        before = network(waveforms)
        assert network.pack(products) is network
        after = network(waveforms)

    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
