"""Which library multiplies the encoder's matrices on a CPU: the fastest there, by a table; PyTorch isn't imported."""

from __future__ import annotations

import mmap
import re
from importlib.machinery import PathFinder
from pathlib import Path

from e2v_cli.errors import DeviceError
from e2v_cli.network.products import ProductsName
from e2v_cli.options import ComputeOptions

CPU_INFO = Path("/proc/cpuinfo")
"""The vendor and the instructions of the CPU, on Linux."""

_FASTEST: tuple[tuple[str, str, ProductsName], ...] = (
    # GFLOP/s of one core with packed weights, as tests/bench/products.py prints them
    ("AuthenticAMD", "avx512f", "onednn"),  # 225, MKL 102 on Zen 5; 111, MKL 95 on Zen 4
    ("AuthenticAMD", "avx2", "onednn"),  # 123, MKL 106 on Zen 5 with ONEDNN_MAX_CPU_ISA=AVX2
    ("GenuineIntel", "avx2", "mkl"),  # 168, oneDNN no more on a Xeon with AMX
)
"""Vendor, instructions and the fastest library. Of other CPUs nothing has been measured: PyTorch's own products."""

_FUNCTIONS = {"mkl": b"cblas_sgemm_pack", "onednn": b"mkldnn_linear_pointwise"}
"""Function that PyTorch's library has only in builds with this library, by the library's name."""


def choose_products(compute: ComputeOptions, device: str, library: Path | None = None) -> ProductsName:
    """Choose whose products the encoder uses on a device, like ``cpu`` or ``cuda:0``.

    Args:
        compute: the options.
        device: the device.
        library: PyTorch's library; None: that of the installed PyTorch.

    Raises:
        DeviceError: PyTorch was built without the library that the options name.
    """
    if device != "cpu" or compute.engine != "e2v" or compute.precision != "fp32":
        return "torch"
    if compute.products is None:
        return find_fastest(library=library)
    if not is_built_in(compute.products, library):
        raise DeviceError(
            f"--products {compute.products}: the PyTorch on this machine was built without; leave the option out"
        )
    return compute.products


def find_fastest(cpu_info: Path = CPU_INFO, library: Path | None = None) -> ProductsName:
    """Find the fastest products of this CPU; PyTorch's own where that has not been measured, or can't be had."""
    try:
        text = cpu_info.read_text()
    except OSError:  # not Linux
        return "torch"
    for vendor, instructions, products in _FASTEST:
        if re.search(rf"^vendor_id\s*: {vendor}$.*^flags\s*:[^\n]* {instructions}\b", text, re.MULTILINE | re.DOTALL):
            return products if is_built_in(products, library) else "torch"
    return "torch"


def is_built_in(products: ProductsName, library: Path | None = None) -> bool:
    """Whether PyTorch, which need not be imported yet, was built with such products."""
    if products == "torch":
        return True
    try:
        library = library or _find_library()
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # names stand at the end, in all of PyTorch's builds: a millisecond; from the beginning up to a hundred
            return content.rfind(_FUNCTIONS[products]) >= 0
    except OSError:
        return False


def _find_library() -> Path:
    """Return the path of PyTorch's library, which does not exist if the library is missing."""
    spec = PathFinder.find_spec("torch")
    return Path(str(spec and spec.origin)).with_name("lib") / "libtorch_cpu.so"
