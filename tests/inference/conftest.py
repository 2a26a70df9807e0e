"""A model of tiny shape, its network and weights, and GPUs that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gpus import Gpus, stand_in

from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.models.weights import Weights, prepare_weights
from e2v_cli.network.emotion2vec import Emotion2vec


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return read_model("tiny", tiny)


@pytest.fixture
def network(model: Model) -> Emotion2vec:
    return make_network(model)


@pytest.fixture(scope="module")
def weights(model: Model) -> Weights:
    return prepare_weights(model)


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    """Two GPUs."""
    with stand_in(2) as gpus:
        yield gpus
