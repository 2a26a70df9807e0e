"""``e2v models``: the models of the family, those on this machine, and downloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2v_cli.errors import ModelError
from e2v_cli.models.cache import cache_folder
from e2v_cli.models.catalog import HUB_TITLES, PUBLISHED_MODELS, SAMPLE
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import RemoteModel, copy_model, find_here, find_model, pull_from_hub
from e2v_cli.models.weights import hash_weights
from e2v_cli.options import ModelRequest
from e2v_cli.system.text import columns, tsv_row


def describe_models() -> str:
    """Format the tables of the models of the family, and of those on this machine."""
    family: list[Sequence[str]] = [("name", "size", "head", *HUB_TITLES.values())]
    for model in PUBLISHED_MODELS:
        family.append((model.name, model.size, model.head, *(model.ids.get(hub, "–") for hub in HUB_TITLES)))
    family.append((SAMPLE, "tiny, 0.45 M", "9 classes; a toy", "in the package", ""))
    here: list[Sequence[str]] = [("here", "from", "revision", "size", "SHA-256 of the weights", "folder")]
    here += [_describe_found(found) for found in _find_local_models()]
    return "\n".join([columns(family), columns(here), f"e2v's own cache: {cache_folder()}\n"])


def pull(request: ModelRequest, to: Path | None) -> Path:
    """Download a model, check that it can be used, and copy it to a folder if one is named; return its folder.

    Raises:
        ModelError: it can't be downloaded, or can't be used.
        OutputError: it can't be copied.
    """
    folder = pull_from_hub(request)
    read_model(request.name, folder)
    if to is None:
        return folder
    copy_model(folder, to)
    return to


@dataclass(frozen=True)
class _LocalModel:
    """A model on this machine."""

    name: str
    hub: str
    folder: Path


def _find_local_models() -> Iterator[_LocalModel]:
    """Find the models of the family that are on this machine."""
    yield _LocalModel(SAMPLE, "the package", find_model(ModelRequest(SAMPLE)))
    for hub, title in HUB_TITLES.items():
        published = [model for model in PUBLISHED_MODELS if hub in model.ids]
        folders = find_here([RemoteModel(hub, model.ids[hub], revision=None) for model in published])
        for model, folder in zip(published, folders, strict=True):
            if folder is not None:
                yield _LocalModel(model.name, title, folder)


def _describe_found(found: _LocalModel) -> Sequence[str]:
    """Make a row of the table of models on this machine."""
    revision = found.folder.name if found.folder.parent.name == "snapshots" else "–"
    try:
        model = read_model(found.name, found.folder)
        size = f"{model.weights.stat().st_size / 1e6:.0f} MB"
        return found.name, found.hub, revision, size, hash_weights(model), str(found.folder)
    except ModelError as error:
        return found.name, found.hub, revision, "–", "can't be used", tsv_row([str(error)])
