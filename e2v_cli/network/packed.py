"""Products of rows with weights, by the library that is fastest on a CPU, in whose order each weight is kept.

- ``mkl``: the MKL that is part of PyTorch's builds for x86-64. At every product it brings both matrices into the order
  in which its kernels read them; a weight can be kept in that order (``cblas_sgemm_pack`` and ``cblas_sgemm_compute``
  in Intel's reference of oneMKL), which takes 5 to 25 % off the time of a product with a few hundred rows. On CPUs of
  AMD it is no faster than AVX2 allows. PyTorch has such products, too (``torch.ops.mkl._mkl_linear``), but only for one
  number of rows.
- ``onednn``: the oneDNN that is part of PyTorch (``torch.ops.mkldnn``), which uses the instructions that a CPU has,
  whoever made it, and computes the bias and GELU while a part of the product is in the cache.
- ``torch``: ``torch.nn.functional.linear``, on any device, in any type, of weights as they are.

A packed weight is valid in the process that packed it and in those forked from that: MKL's at the same address only.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from e2v_cli.network.products import ProductsName

_ROW_MAJOR, _NO_TRANS, _TRANS, _PACKED, _B_MATRIX = 101, 111, 112, 151, 162
"""MKL's constants for layouts and matrices."""

_TYPICAL_ROWS = 256
"""Rows of the other matrix for which a weight is packed; products may have any number."""

ONEDNN_ROWS = 32
"""Rows are padded to a multiple of this: oneDNN caches a primitive of some 0.6 MB for each number of rows."""

_PAGE = 4096


class Product(Protocol):
    """The product with a weight, (channels_out, channels_in)."""

    def __call__(self, x: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """Compute ``x @ weight.T + bias``, and GELU of that: (rows, channels_in) → (rows, channels_out)."""


def pack_weights(weights: Sequence[Tensor], products: ProductsName) -> Sequence[Product]:
    """Pack weights, each (channels_out, channels_in), float32 on CPU, for a library."""
    if products == "mkl":
        return [partial(multiply_with_mkl, weight) for weight in _pack_for_mkl(weights)]
    if products == "onednn":
        reorder = torch.ops.mkldnn._reorder_linear_weight
        return [partial(multiply_with_onednn, reorder(weight.contiguous(), _TYPICAL_ROWS)) for weight in weights]
    return [partial(multiply_with_torch, weight) for weight in weights]


def multiply_with_torch(weight: Tensor, x: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Compute the product with a weight as it is, and GELU of it."""
    out = F.linear(x, weight, bias)
    return _apply_gelu(out) if gelu else out


def multiply_with_onednn(weight: Tensor, x: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Compute the product with a weight in oneDNN's order, or as it is if without gaps, and GELU of it."""
    # A residual could be added, too, but then oneDNN would compile its kernel anew at every call.
    last = "gelu" if gelu else "none"  # the form of GELU with erf
    rows = len(x)
    if added := -rows % ONEDNN_ROWS:
        x = F.pad(x, (0, 0, 0, added))
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, last, [], "none")
    return out[:rows]


class MklWeight:
    """A weight, (channels_out, channels_in), in MKL's order."""

    def __init__(self, weight: Tensor, memory: mmap.mmap, start: int) -> None:
        """Pack a weight, float32, whose rows are each without gaps, into ``memory`` from ``start`` on."""
        columns, depth = self.shape = (weight.shape[0], weight.shape[1])
        _check_matrix(weight, self.shape)
        self._memory = memory  # kept as long as this object
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory, start))
        _mkl().cblas_sgemm_pack(
            _ROW_MAJOR,
            _B_MATRIX,
            _TRANS,
            _TYPICAL_ROWS,
            columns,
            depth,
            1.0,
            weight.data_ptr(),
            weight.stride(0),
            self.address,
        )


def _pack_for_mkl(weights: Sequence[Tensor]) -> list[MklWeight]:
    sizes = [_mkl().cblas_sgemm_pack_get_size(_B_MATRIX, _TYPICAL_ROWS, *weight.shape) for weight in weights]
    *starts, end = accumulate((-(-size // _PAGE) * _PAGE for size in sizes), initial=0)
    memory = mmap.mmap(-1, max(end, 1))
    return [MklWeight(weight, memory, start) for weight, start in zip(weights, starts, strict=True)]


def multiply_with_mkl(weight: MklWeight, x: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Compute the product with a weight in MKL's order, and GELU of it; the rows of ``x`` are each without gaps."""
    columns, depth = weight.shape
    _check_matrix(x, (len(x), depth))
    out = x.new_empty(len(x), columns)
    if bias is not None:
        out.copy_(bias)
    _mkl().cblas_sgemm_compute(
        _ROW_MAJOR,
        _NO_TRANS,
        _PACKED,
        len(x),
        columns,
        depth,
        x.data_ptr(),
        max(x.stride(0), depth),  # PyTorch may report any stride for a single row
        weight.address,
        columns,
        0.0 if bias is None else 1.0,
        out.data_ptr(),
        columns,
    )
    return _apply_gelu(out) if gelu else out


def _apply_gelu(x: Tensor) -> Tensor:
    """Apply GELU in place."""
    out: Tensor = torch.ops.aten.gelu.out(x, out=x)
    return out


def _check_matrix(matrix: Tensor, shape: tuple[int, int]) -> None:
    """Check a matrix for MKL, which sees addresses only, so that it stays within.

    Raises:
        ValueError: the matrix has another shape, type or device, or gaps within its rows.
    """
    ok = tuple(matrix.shape) == shape and matrix.dtype == torch.float32 and matrix.device.type == "cpu"
    if not ok or matrix.stride(1) != 1 or (len(matrix) > 1 and matrix.stride(0) < shape[1]):
        raise ValueError(
            f"{tuple(matrix.shape)} {matrix.dtype} with strides {matrix.stride()} is not a float32 matrix {shape}"
        )


@cache
def _mkl() -> Any:
    """Load MKL's functions from PyTorch's library."""
    library: Any = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    get_size, pack, compute = (
        library.cblas_sgemm_pack_get_size,
        library.cblas_sgemm_pack,
        library.cblas_sgemm_compute,
    )
    integer, address, number = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
    get_size.argtypes, get_size.restype = [integer] * 4, ctypes.c_size_t
    pack.argtypes, pack.restype = [*[integer] * 6, number, address, integer, address], None
    compute.argtypes = [*[integer] * 6, address, integer, address, integer, number, address, integer]
    compute.restype = None
    return library
