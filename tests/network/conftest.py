"""The libraries of matrix products that this PyTorch has."""

from __future__ import annotations

from typing import get_args

import pytest

from e2v_cli.inference.products import is_built_in
from e2v_cli.network.products import ProductsName


@pytest.fixture(params=get_args(ProductsName))
def products(request: pytest.FixtureRequest) -> ProductsName:
    """Each library in turn; tests may name some of them."""
    name: ProductsName = request.param
    if not is_built_in(name):
        pytest.skip(f"this PyTorch has no {name}")
    return name
