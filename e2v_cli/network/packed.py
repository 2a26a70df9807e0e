"""Matrix products with weights that are packed once, by the MKL that is part of PyTorch.

At every product MKL brings both matrices into the order in which its kernels read them. A weight can be kept in that
order (``cblas_sgemm_pack`` and ``cblas_sgemm_compute`` in Intel's reference of oneMKL), which takes 5 to 25 % off the
time of a product with a few hundred rows. PyTorch has such products, too (``torch.ops.mkl._mkl_linear``), but they
neither add to a matrix nor take one with gaps between its rows. Only the builds of PyTorch for x86-64 have an MKL;
elsewhere weights are multiplied as they are.

A packed weight is valid at the address where MKL packed it: a copy, or another process's view of it, is not.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ROW_MAJOR, _NO_TRANS, _TRANS, _PACKED, _B_MATRIX = 101, 111, 112, 151, 162
"""MKL's constants for layouts and matrices."""

_TYPICAL_ROWS = 256
"""Rows of the other matrix for which a weight is packed; products may have any number."""

_PAGE = 4096


class PackedWeight:
    """A weight, (channels_out, channels_in), in MKL's order."""

    def __init__(self, shape: tuple[int, int], memory: mmap.mmap, start: int) -> None:
        """Use ``memory`` from ``start`` on, which holds the packed weight, or will."""
        self.shape = shape
        self._memory = memory  # kept as long as this object
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory, start))

    def fill(self, weight: Tensor) -> None:
        """Pack a weight of this shape, float32, whose rows are each without gaps."""
        columns, depth = self.shape
        _check_matrix(weight, (columns, depth))
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
            self._address,
        )

    def multiply(self, x: Tensor, out: Tensor, *, add: bool) -> None:
        """Multiply ``x @ weight.T`` into ``out``, or add it there.

        Args:
            x: (rows, channels_in), float32, each row without gaps.
            out: (rows, channels_out), likewise.
            add: whether to add to the values in ``out``.
        """
        columns, depth = self.shape
        _check_matrix(x, (len(x), depth))
        _check_matrix(out, (len(x), columns))
        _mkl().cblas_sgemm_compute(
            _ROW_MAJOR,
            _NO_TRANS,
            _PACKED,
            len(x),
            columns,
            depth,
            x.data_ptr(),
            max(x.stride(0), depth),  # PyTorch may report any stride for a single row
            self._address,
            columns,
            1.0 if add else 0.0,
            out.data_ptr(),
            max(out.stride(0), columns),
        )


def pack_weights(weights: Sequence[Tensor]) -> list[PackedWeight] | None:
    """Pack weights, each (channels_out, channels_in), float32 on CPU; None without MKL."""
    mkl = _mkl()
    if mkl is None:
        return None
    shapes = [(weight.shape[0], weight.shape[1]) for weight in weights]
    sizes = [mkl.cblas_sgemm_pack_get_size(_B_MATRIX, _TYPICAL_ROWS, *shape) for shape in shapes]
    *starts, end = accumulate((-(-size // _PAGE) * _PAGE for size in sizes), initial=0)
    memory = mmap.mmap(-1, max(end, 1))
    packed = [PackedWeight(shape, memory, start) for shape, start in zip(shapes, starts, strict=True)]
    for place, weight in zip(packed, weights, strict=True):
        place.fill(weight)
    return packed


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
    """Load MKL's functions from PyTorch's library; None if it has none."""
    try:
        library: Any = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        get_size, pack, compute = (
            library.cblas_sgemm_pack_get_size,
            library.cblas_sgemm_pack,
            library.cblas_sgemm_compute,
        )
    except (OSError, AttributeError):
        return None
    integer, address, number = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
    get_size.argtypes, get_size.restype = [integer] * 4, ctypes.c_size_t
    pack.argtypes, pack.restype = [*[integer] * 6, number, address, integer, address], None
    compute.argtypes = [*[integer] * 6, address, integer, address, integer, number, address, integer]
    compute.restype = None
    return library
