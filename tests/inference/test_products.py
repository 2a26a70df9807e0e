"""The choice of the library that multiplies the encoder's matrices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2v_cli.errors import DeviceError
from e2v_cli.inference.products import choose_products, find_fastest, is_built_in
from e2v_cli.network.products import ProductsName
from e2v_cli.options import ComputeOptions

CPU = """\
processor\t: 0
vendor_id\t: {vendor}
model name\t: Some CPU
flags\t\t: fpu sse2 {flags} clflush
bugs\t\t: avx2 avx512f

"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """PyTorch's library of a build that has everything."""
    path = tmp_path / "libtorch_cpu.so"
    path.write_bytes(b"\0cblas_sgemm_pack\0_ZN2at6native23mkldnn_linear_pointwiseE\0")
    return path


@pytest.mark.parametrize(
    ("vendor", "flags", "fastest"),
    [
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", "onednn"),
        ("AuthenticAMD", "avx avx2", "onednn"),
        ("AuthenticAMD", "avx", "torch"),
        ("GenuineIntel", "avx2 avx512f amx_tile", "mkl"),
        ("GenuineIntel", "avx2", "mkl"),
        ("GenuineIntel", "avx", "torch"),
        ("HygonGenuine", "avx2", "torch"),
    ],
)
@pytest.mark.parametrize("cores", [1, 3])
def test_fastest_products_of_a_cpu(
    vendor: str, flags: str, fastest: ProductsName, cores: int, library: Path, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(cores * CPU.format(vendor=vendor, flags=flags))
    assert find_fastest(tmp_path / "cpuinfo", library) == fastest


@pytest.mark.parametrize("cpu_info", [None, "", "processor\t: 0\nFeatures\t: fp asimd sve bf16\n"])
def test_unknown_cpu_has_pytorchs_own_products(cpu_info: str | None, library: Path, tmp_path: Path) -> None:
    """As on ARM, and without ``/proc``."""
    if cpu_info is not None:
        (tmp_path / "cpuinfo").write_text(cpu_info)
    assert find_fastest(tmp_path / "cpuinfo", library) == "torch"


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel"])
@pytest.mark.parametrize("content", [None, b"\0cblas_sgemm\0"])
def test_build_without_the_fastest_has_its_own_products(vendor: str, content: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPU.format(vendor=vendor, flags="avx2 avx512f"))
    library = tmp_path / "libtorch_cpu.so"
    if content is not None:
        library.write_bytes(content)
    assert find_fastest(tmp_path / "cpuinfo", library) == "torch"


def test_options_choose_products(library: Path) -> None:
    names: tuple[ProductsName, ...] = ("mkl", "onednn", "torch")
    assert tuple(choose_products(ComputeOptions(products=name), "cpu", library) for name in names) == names
    assert choose_products(ComputeOptions(), "cpu") == find_fastest()


def test_products_that_pytorch_lacks_are_refused(tmp_path: Path) -> None:
    message = "--products mkl: the PyTorch on this machine was built without; leave the option out"
    with pytest.raises(DeviceError, match=f"^{re.escape(message)}$"):
        choose_products(ComputeOptions(products="mkl"), "cpu", tmp_path / "none")


@pytest.mark.parametrize(
    ("compute", "device"),
    [
        (ComputeOptions(products="mkl"), "cuda:0"),
        (ComputeOptions(products="mkl", precision="bf16"), "cpu"),
        (ComputeOptions(products="mkl", engine="funasr"), "cpu"),
    ],
)
def test_other_computations_use_pytorchs_own_products(compute: ComputeOptions, device: str) -> None:
    assert choose_products(compute, device) == "torch"


def test_installed_pytorch_is_found() -> None:
    assert is_built_in("torch")
    assert is_built_in("onednn")
