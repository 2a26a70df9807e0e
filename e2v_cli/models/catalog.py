"""TODO."""

from __future__ import annotations

from dataclasses import dataclass

from e2v_cli.options import HubName

SAMPLE = "sample"
"""The toy model in the package."""

HUB_TITLES: dict[HubName, str] = {"ms": "ModelScope", "hf": "Hugging Face"}


@dataclass(frozen=True)
class PublishedModel:
    """A model of the family, and where it is published."""

    name: str
    size: str
    head: str
    ids: dict[HubName, str]


PUBLISHED_MODELS = (
    PublishedModel(
        "emotion2vec_plus_seed",
        "base, ~90 M",
        "9 classes",
        {"ms": "iic/emotion2vec_plus_seed", "hf": "emotion2vec/emotion2vec_plus_seed"},
    ),
    PublishedModel(
        "emotion2vec_plus_base",
        "base, ~90 M",
        "9 classes",
        {"ms": "iic/emotion2vec_plus_base", "hf": "emotion2vec/emotion2vec_plus_base"},
    ),
    PublishedModel(
        "emotion2vec_plus_large",
        "large, ~300 M",
        "9 classes",
        {"ms": "iic/emotion2vec_plus_large", "hf": "emotion2vec/emotion2vec_plus_large"},
    ),
    PublishedModel("emotion2vec_base_finetuned", "base", "9 classes", {"ms": "iic/emotion2vec_base_finetuned"}),
    PublishedModel(
        "emotion2vec_base",
        "base",
        "none: embeddings only",
        {"ms": "iic/emotion2vec_base", "hf": "emotion2vec/emotion2vec_base"},
    ),
)


def find_published(name: str) -> PublishedModel | None:
    """Find a model of the family by its name, or by its id on a hub."""
    return next((model for model in PUBLISHED_MODELS if name in (model.name, *model.ids.values())), None)
