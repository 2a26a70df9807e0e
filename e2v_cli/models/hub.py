"""A model's name → its folder on this machine; it is downloaded from a hub if it is not there.

The hubs' own packages look for models, download them and keep them (``hub_clients``). The folders that they find are
noted in e2v's cache, so that a model that is here costs neither their import nor a request. A note holds for the caches
of the packages that the environment names: with others, the package is asked again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from e2v_cli.errors import ModelError, OutputError, UsageError
from e2v_cli.models.cache import cache_folder, hash_file
from e2v_cli.models.catalog import HUB_TITLES, PUBLISHED_MODELS, SAMPLE, find_published
from e2v_cli.models.folder import DEFAULT_FILES, missing_files, model_file, read_configuration
from e2v_cli.options import HubName, ModelRequest
from e2v_cli.system.files import exists, is_directory, is_regular_file, published

logger = logging.getLogger(__name__)

_ENDPOINTS: dict[HubName, tuple[str, ...]] = {
    "ms": ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN", "https://www.modelscope.cn"),
    "hf": ("HF_ENDPOINT", "https://huggingface.co"),
}
"""The hubs' addresses: each variable that their packages read, then the default."""

_CACHES: dict[HubName, tuple[str, ...]] = {
    "ms": ("MODELSCOPE_CACHE", "MS_CACHE_HOME", "~/.cache/modelscope"),
    "hf": ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "~/.cache/huggingface"),
}
"""The caches of the hubs' packages: each variable that they read, then the default.

Their caches know no endpoint: a mirror has the same models.
"""

CHECKSUMS = "SHA256SUMS"
"""The file that ``sha256sum -c`` reads, in a folder that is to be carried elsewhere."""

_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)

_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][\w./+@-]*", re.ASCII)
"""Pattern of a revision: ModelScope's package makes a path of it, which must not lead anywhere else."""


@dataclass(frozen=True)
class RemoteModel:
    """A model on a hub."""

    hub: HubName
    id: str
    revision: str | None
    """Revision of the model; None: the newest on the hub."""

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id


def find_model(request: ModelRequest) -> Path:
    """Find the folder of a model: ``sample``, a local folder, or one that a hub's package keeps; else download it.

    Raises:
        ModelError: there is no such folder or model, or it can't be downloaded; the message tells what to do.
        UsageError: a revision of a folder is asked for.
    """
    folder = Path(__file__).parent.parent / "sample" if request.name == SAMPLE else Path(request.name)
    if is_directory(folder):
        if request.revision is not None:
            raise UsageError(f"--revision {request.revision}: {request.name} is a folder here, and has none")
        return folder
    remote = find_remote(request)
    (found,) = find_here([remote])
    if found is None and request.offline:
        raise ModelError(_describe_problem(remote, "is not on this machine, and no download is allowed"))
    return found or _download_model(remote)


def find_remote(request: ModelRequest) -> RemoteModel:
    """Find a model on a hub by the name or an id of one of the family, or by any other id.

    Raises:
        ModelError: there is no such model; the message lists the names.
        UsageError: the revision can't be one.
    """
    if request.revision is not None and not _REVISION.fullmatch(request.revision):
        raise UsageError(f"--revision {request.revision!r}: not a branch, tag or commit")
    published = find_published(request.name)
    if published is None:
        if exists(Path(request.name)):
            raise ModelError(f"{request.name} is a file: name the model's folder")
        if other := find_published(request.name.lower().replace("-", "_")):
            raise ModelError(
                f"{request.name}: no such folder, and no model of that name; did you mean: -m {other.name}"
            )
        if not _ID.fullmatch(request.name):
            known = ", ".join([SAMPLE, *(model.name for model in PUBLISHED_MODELS)])
            raise ModelError(f"{request.name}: no such folder, and no model of that name (known: {known})")
        return RemoteModel(request.hub, request.name, request.revision)
    if request.hub not in published.ids:
        others = ", ".join(f"--hub {hub}" for hub in published.ids)
        raise ModelError(f"{published.name} is not on {HUB_TITLES[request.hub]}: choose {others}")
    return RemoteModel(request.hub, published.ids[request.hub], request.revision)


def find_here(remotes: Sequence[RemoteModel]) -> list[Path | None]:
    """Find the folders of models, of the same hub, on this machine; None for those that aren't here."""
    found = [_recall_folder(remote) for remote in remotes]
    unknown = [remote for remote, folder in zip(remotes, found, strict=True) if folder is None]
    if unknown:
        answers = dict(zip(unknown, _run_package("find", unknown), strict=True))
        for index, remote in enumerate(remotes):
            if folder := answers.get(remote, {}).get("folder"):
                found[index] = _note_folder(remote, Path(folder))
    return found


def pull_from_hub(request: ModelRequest) -> Path:
    """Find the folder of a model, after bringing it up to date if it is on a hub.

    Raises:
        ModelError: there is no such folder or model, or it can't be downloaded.
    """
    is_folder = request.name == SAMPLE or is_directory(Path(request.name))
    if is_folder and find_published(request.name) is None:  # a folder with a name of the family may be half a copy
        return find_model(request)
    return _download_model(find_remote(request))


def copy_model(folder: Path, to: Path) -> None:
    """Copy the files of a model into a folder that stands by itself, with their SHA-256 digests.

    Raises:
        ModelError: one of them leads out of the folder.
        OutputError: the folder holds another file of that name, or can't be written.
    """
    files = DEFAULT_FILES | read_configuration(folder) | {"configuration": "configuration.json"}
    sources = {name: model_file(folder, name) for name in files.values() if is_regular_file(folder / name)}
    try:
        digests = {name: hash_file(source) for name, source in sources.items()}
        for name in sources:
            path = to / name
            if exists(path) and hash_file(path) != digests[name]:
                raise OutputError(f"{path} is there already, and another file: choose another --to, or remove it")
        for name, source in sources.items():
            if not exists(to / name):
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                with source.open("rb") as original, published(to / name) as file:
                    shutil.copyfileobj(original, file, 1 << 20)
        with published(to / CHECKSUMS) as file:
            file.write("".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode())
    except OSError as error:
        raise OutputError(f"{error.filename or to}: {error.strerror or error}") from error


def _download_model(remote: RemoteModel) -> Path:
    """Download the new files of a model, by its hub's package.

    Raises:
        ModelError: it can't be downloaded.
    """
    *variables, default = _ENDPOINTS[remote.hub]
    endpoint = next(filter(None, map(os.environ.get, variables)), default)
    source = f"{HUB_TITLES[remote.hub]} ({endpoint})"
    logger.warning("looking for %s on %s", remote, source)
    (answer,) = _run_package("pull", [remote])
    if "refused" in answer:
        raise ModelError(answer["refused"])
    if "folder" not in answer:
        raise ModelError(_describe_problem(remote, f"can't be downloaded from {source}: {answer['error']}"))
    return _note_folder(remote, Path(answer["folder"]))


def _run_package(verb: Literal["find", "pull"], remotes: Sequence[RemoteModel]) -> list[dict[str, str]]:
    """Run a hub's package in a process of its own; return each model's "folder", an "error" or why it is "refused".

    There it may import PyTorch, print anything, and be killed at any moment, as threads that download can't be.
    """
    # an empty endpoint counts as unset
    environment = {name: value for name, value in os.environ.items() if value or not name.endswith("_ENDPOINT")}
    has_terminal = sys.stderr is not None and sys.stderr.isatty()
    # modules come from the same folders as in this process, and not from the current one
    client = "from e2v_cli.models.hub_clients import run_client; run_client()"
    start = f"import sys; sys.path[:] = sys.argv.pop(1).split(':'); {client}"
    request = json.dumps([(remote.id, remote.revision) for remote in remotes])
    with subprocess.Popen(  # noqa: S603 — Python itself, and no shell
        [
            *(sys.executable, "-c", start, ":".join(filter(None, sys.path))),
            *(str(os.getpid()), verb, remotes[0].hub, request),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment if has_terminal else {**environment, "TQDM_DISABLE": "1"},
        start_new_session=True,  # signals of the terminal are handled here
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    try:
        answers: list[dict[str, str]] = json.loads(output)
    except ValueError:
        error = f"its package ended with exit code {process.returncode}"
        answers = [{"error": f"{error}; see above"}] * len(remotes)
    return answers


def _describe_problem(remote: RemoteModel, problem: str) -> str:
    """Describe the problem with a model on a hub, and the two remedies."""
    subject = f"{remote}" if find_published(remote.id) else f"{remote}: no such folder, and it"
    options = "" if remote.hub == "ms" else f" --hub {remote.hub}"
    options += f" --revision {remote.revision}" if remote.revision else ""
    return (
        f"{subject} {problem}\n"
        f"On a machine with a network, 'e2v models pull {remote.id}{options} --to DIR' makes a folder to copy here; "
        "name that, or another model's folder, as --model DIR"
    )


def _note_folder(remote: RemoteModel, folder: Path) -> Path:
    """Note the folder of a model in e2v's cache, and return it."""
    with suppress(OSError):  # then its hub's package is asked again next time
        path = _note_path(remote)
        path.parent.mkdir(parents=True, exist_ok=True)
        with published(path) as file:
            file.write(json.dumps({"hub": remote.hub, "id": remote.id, "folder": str(folder)}).encode())
    return folder


def _recall_folder(remote: RemoteModel) -> Path | None:
    """Return the folder that was noted for a model; None if there is no note, or the folder lacks a file."""
    try:
        folder = Path(json.loads(_note_path(remote).read_bytes())["folder"])
        return None if missing_files(folder) else folder
    except ModelError:  # it is there, and read_model tells why it can't be used
        return folder
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _note_path(remote: RemoteModel) -> Path:
    """Return the path of the note of a model's folder, another one for each set of caches."""
    *variables, default = _CACHES[remote.hub]
    caches = {name: os.environ[name] for name in variables if name in os.environ} | {"default": default}
    paths = [os.path.realpath(os.path.expandvars(os.path.expanduser(path))) for path in caches.values()]  # noqa: PTH111
    digest = hashlib.sha256(repr((remote, caches, paths)).encode(errors="surrogateescape")).hexdigest()
    return cache_folder() / "models" / f"{digest[:32]}.json"
