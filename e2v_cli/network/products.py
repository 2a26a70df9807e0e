"""The names of the libraries whose matrix products the encoder can use; it imports nothing."""

from __future__ import annotations

from typing import Literal

ProductsName = Literal["mkl", "onednn", "torch"]
