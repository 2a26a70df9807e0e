"""A model of tiny shape, and its network."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.network.emotion2vec import Emotion2vec


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return read_model("tiny", tiny)


@pytest.fixture
def network(model: Model) -> Emotion2vec:
    return make_network(model)
