"""``e2v models``: the models of the family, those on this machine, what to cite, and downloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2v_cli.errors import ModelError
from e2v_cli.models.cache import cache_folder
from e2v_cli.models.catalog import (
    CODE,
    HUB_TITLES,
    LICENCES,
    OWNERS,
    PAPER,
    PUBLISHED_MODELS,
    SAMPLE,
    PublishedModel,
    find_published,
)
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import RemoteModel, copy_model, find_here, find_model, pull_from_hub
from e2v_cli.models.weights import hash_weights
from e2v_cli.options import HubName, ModelRequest
from e2v_cli.system.files import is_directory
from e2v_cli.system.text import columns, tsv_row

SHOWN = 12
"""Digits of a commit or a SHA-256 in the table of all models."""

NO_REVISION = "–"

_SAMPLE_FACTS = ("tiny, 0.45 M", "9 classes; a toy")

_LEGEND = f"""\
ms: ModelScope, {OWNERS["ms"]}/NAME; hf: Hugging Face, {OWNERS["hf"]}/NAME
e2v models NAME: source, licence and citation; folder, revision and SHA-256 in full
"""


def describe_models() -> str:
    """Format the tables of the models of the family, and of those on this machine."""
    family: list[Sequence[str]] = [("name", "size", "head", "hubs")]
    family += [(model.name, model.size, model.head, " ".join(model.hubs)) for model in PUBLISHED_MODELS]
    family.append((SAMPLE, *_SAMPLE_FACTS, "in the package"))
    here: list[Sequence[str]] = [("here", "from", "revision", "size", "SHA-256 of the weights")]
    for found in (_find_sample(), *_find_local_models(PUBLISHED_MODELS)):
        end = ("–", "can't be used") if found.fault else (found.size, found.sha256[:SHOWN])
        here.append((found.name, found.source, found.revision[:SHOWN], *end))
    return "\n".join([columns(family), columns(here), f"{_LEGEND}e2v's own cache: {cache_folder()}\n"])


def describe_model(name: str) -> str:
    """Format the facts of a model of the family: source, licence, copies on this machine, and BibTeX entries.

    For a folder: its size and its SHA-256.

    Raises:
        ModelError: it is neither a model of the family nor the folder of one.
    """
    if name == SAMPLE:
        size, head = _SAMPLE_FACTS
        facts = [("size", size), ("head", head), ("source", "the package"), ("licence", "Apache-2.0, as e2v")]
        return "\n".join([f"{name}\n", columns([*facts, *_describe_copy(_find_sample())]), PAPER])
    model = find_published(name)
    if model is None and is_directory(Path(name)):
        own = _read_local(name, None, Path(name))
        if own.fault:
            raise ModelError(own.fault)
        return "\n".join([f"{name}\n", columns([("folder", str(own.folder)), ("SHA-256", own.weights_digest)])])
    if model is None:
        known = ", ".join([SAMPLE, *(model.name for model in PUBLISHED_MODELS)])
        raise ModelError(f"{name}: no model of the family ({known}); of any other, its card on the hub has the licence")
    found = list(_find_local_models([model]))
    facts = [("size", model.size), ("head", model.head)]
    facts += [(HUB_TITLES[hub], model.pages[hub]) for hub in model.hubs]
    facts.append(("code", CODE))
    facts += [("licence", f"on {HUB_TITLES[hub]}: {LICENCES.get(hub, 'see the card there')}") for hub in model.hubs]
    for copy in found:
        facts += _describe_copy(copy)
    if not found:
        facts.append(("here", f"no; download it by: e2v models pull {model.name}"))
    return "\n".join([f"{model.name}\n", columns(facts), _cite(model, found), PAPER])


def pull(request: ModelRequest, to: Path | None) -> Path:
    """Download a model, check that it can be used, and copy it to a folder if one is named; return its folder.

    Offline, it must be on this machine.

    Raises:
        ModelError: it can't be found or downloaded, or can't be used.
        OutputError: it can't be copied.
    """
    folder = find_model(request) if request.offline else pull_from_hub(request)
    read_model(request.name, folder)
    if to is None:
        return folder
    copy_model(folder, to)
    return to


@dataclass(frozen=True)
class _LocalModel:
    """A model on this machine."""

    name: str
    hub: HubName | None
    """Hub that the copy is from; None: the package."""
    folder: Path
    size: str = ""
    sha256: str = ""
    """SHA-256 of the weights, in hexadecimal."""
    fault: str = ""
    """Reason why the model can't be used; empty: it can."""

    @property
    def weights_digest(self) -> str:
        """The SHA-256 and the size of the weights, for people."""
        return f"{self.sha256} ({self.size})"

    @property
    def source(self) -> str:
        """The hub that the model is from, or the package, for people."""
        return HUB_TITLES[self.hub] if self.hub else "the package"

    @property
    def revision(self) -> str:
        """Commit or branch of the model on its hub."""
        return self.folder.name if self.folder.parent.name == "snapshots" else NO_REVISION


def _find_sample() -> _LocalModel:
    return _read_local(SAMPLE, None, find_model(ModelRequest(SAMPLE)))


def _find_local_models(models: Sequence[PublishedModel]) -> Iterator[_LocalModel]:
    """Find those of the family's models that are on this machine."""
    for hub in HUB_TITLES:
        published = [model for model in models if hub in model.ids]
        folders = find_here([RemoteModel(hub, model.ids[hub], revision=None) for model in published])
        for model, folder in zip(published, folders, strict=True):
            if folder is not None:
                yield _read_local(model.name, hub, folder)


def _read_local(name: str, hub: HubName | None, folder: Path) -> _LocalModel:
    try:
        model = read_model(name, folder)
        size = f"{model.weights.stat().st_size / 1e6:.0f} MB"
        return _LocalModel(name, hub, folder, size, hash_weights(model))
    except ModelError as error:
        return _LocalModel(name, hub, folder, fault=tsv_row([str(error)]))


def _describe_copy(copy: _LocalModel) -> list[tuple[str, str]]:
    """Make the rows of a copy on this machine."""
    weights = ("can't be used", copy.fault) if copy.fault else ("SHA-256", copy.weights_digest)
    revision = "" if copy.revision == NO_REVISION else f", revision {copy.revision}"
    return [("here", f"from {copy.source}{revision}"), ("folder", str(copy.folder)), weights]


def _cite(model: PublishedModel, found: Sequence[_LocalModel]) -> str:
    """Format the BibTeX entry of a model: its author is its owner on the hub, and it notes which copy is here."""
    usable = next((copy for copy in found if not copy.fault), None)
    hub = (usable.hub if usable else None) or model.hubs[-1]
    title = model.name.replace("_", r"\_")
    fields = {"title": title, "author": f"{{{OWNERS[hub]}}}", "year": str(model.year)}
    fields["howpublished"] = f"{HUB_TITLES[hub]}, \\url{{{model.pages[hub]}}}"
    if usable:
        fields["note"] = f"revision {usable.revision},\n{' ' * 18}SHA-256 {usable.sha256}"
    width = max(map(len, fields))
    lines = [f"  {name.ljust(width)} = {{{value}}}" for name, value in fields.items()]
    return "".join([f"@misc{{{model.name},\n", ",\n".join(lines), "\n}\n"])
