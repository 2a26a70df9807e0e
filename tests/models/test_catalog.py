"""The models of the family, as they are published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.checkpoints import make_config
from support.processes import ROOT

from e2v_cli.models.catalog import BASE, LARGE, PUBLISHED_MODELS, PublishedModel, find_published
from e2v_cli.models.config import parse_config
from e2v_cli.models.folder import read_model


def test_base_shape_matches_its_config(base: Path) -> None:
    assert read_model("base", base).config == BASE


def test_large_shape_matches_its_config() -> None:
    config = make_config(embed_dim=1024, num_heads=16, prenet_depth=8, depth=16, channels=512)
    config["model_conf"]["norm_eps"] = 1e-5
    assert parse_config(config) == LARGE


@pytest.mark.parametrize("model", PUBLISHED_MODELS, ids=lambda model: model.name)
def test_a_model_is_found_by_its_name_and_by_each_id(model: PublishedModel) -> None:
    assert model.ids
    for name in (model.name, *model.ids.values()):
        assert find_published(name) is model
    assert (model.shape is LARGE) == ("large" in model.name)


@pytest.mark.parametrize("name", ["", "emotion2vec", "iic", "iic/emotion2vec", "sample", "my/emotion2vec_base"])
def test_other_names_are_not_found(name: str) -> None:
    assert find_published(name) is None


def test_each_model_is_one_line_of_the_catalog() -> None:
    source = (ROOT / "e2v_cli" / "models" / "catalog.py").read_text()
    for model in PUBLISHED_MODELS:
        assert len(re.findall(f'^    PublishedModel\\("{model.name}", .*\\),$', source, re.M)) == 1
