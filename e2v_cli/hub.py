"""A model's name → its folder on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from e2v_cli.errors import ModelError

SAMPLE = "sample"
"""The toy model in the package."""


@dataclass(frozen=True)
class PublishedModel:
    """A model of the family, and where it is published."""

    name: str
    modelscope_id: str
    hugging_face_id: str | None


PUBLISHED_MODELS = (
    PublishedModel("emotion2vec_plus_seed", "iic/emotion2vec_plus_seed", "emotion2vec/emotion2vec_plus_seed"),
    PublishedModel("emotion2vec_plus_base", "iic/emotion2vec_plus_base", "emotion2vec/emotion2vec_plus_base"),
    PublishedModel("emotion2vec_plus_large", "iic/emotion2vec_plus_large", "emotion2vec/emotion2vec_plus_large"),
    PublishedModel("emotion2vec_base_finetuned", "iic/emotion2vec_base_finetuned", None),
    PublishedModel("emotion2vec_base", "iic/emotion2vec_base", "emotion2vec/emotion2vec_base"),
)


def find_model(name: str) -> Path:
    """Find the folder of a model: ``sample``, or a local folder.

    Raises:
        ModelError: there is no such folder; for a published model the message says how to get it.
    """
    if name == SAMPLE:
        return Path(__file__).parent / "sample"
    folder = Path(name)
    if folder.is_dir():
        return folder
    model = find_published(name)
    raise ModelError(
        f"{name}: this version does not download models; get its folder with\n"
        f"    modelscope download --model {model.modelscope_id} --local_dir {model.name}\n"
        f"and give it: --model ./{model.name}"
    )


def find_published(name: str) -> PublishedModel:
    """Find a model of the family by its name, or by its id on a hub.

    Raises:
        ModelError: there is none; the message lists the names.
    """
    for model in PUBLISHED_MODELS:
        if name in (model.name, model.modelscope_id, model.hugging_face_id):
            return model
    known = ", ".join([SAMPLE, *(model.name for model in PUBLISHED_MODELS)])
    raise ModelError(f"{name}: no such folder, and no model of that name (known: {known})")
