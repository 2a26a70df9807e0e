"""FunASR's emotion2vec without the other models, which its package imports, too: a fifth of a second instead of five.

Tests that show that FunASR is loaded as users load it import the whole package.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

WANTED = ("funasr.models.emotion2vec.model", "funasr.models.emotion2vec.timm_modules", "funasr.utils.load_utils")


@contextmanager
def upstream_alone() -> Iterator[None]:
    """Have these modules imported until the block ends, unless FunASR is already imported."""
    if "funasr" in sys.modules:
        yield
        return
    sys.modules.update(_import_alone())
    try:
        yield
    finally:
        _remove()


@cache
def _import_alone() -> dict[str, ModuleType]:
    found = find_spec("funasr")
    assert found is not None
    package = sys.modules["funasr"] = ModuleType("funasr")
    package.__path__ = list(found.submodule_search_locations or ())
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # upstream prints where FFmpeg is missing
            warnings.simplefilter("ignore", DeprecationWarning)  # of distutils
            for name in WANTED:
                import_module(name)
    finally:
        modules = _remove()
    return modules


def _remove() -> dict[str, ModuleType]:
    """Remove FunASR's modules, so that another import gets the whole package; return them."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "funasr"}
