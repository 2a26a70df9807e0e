"""What the hubs' own packages do for e2v, in a process of its own: ``python -m e2v_cli.downloads VERB HUB MODELS``.

MODELS is JSON, a list of ids and revisions. Verbs are ``find`` (in the package's cache) and ``pull`` (what is new).
Caches, resumed downloads, tokens, mirrors and offline switches are the packages'. The answer is JSON on standard
output: for each model its folder, or an error. All else that is printed goes to standard error.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from e2v_cli.cache import hash_file
from e2v_cli.checkpoint import DEFAULT_FILES, missing_files, read_configuration
from e2v_cli.errors import E2vError
from e2v_cli.process import die_with_parent

FILES = ("configuration.json", *DEFAULT_FILES.values(), "tokens.json")
"""The only files that a model needs, unless its ``configuration.json`` names others."""


class DownloadError(Exception):
    """A model can't be had; the message says why."""


class Client(Protocol):
    """A hub's package."""

    def find(self) -> Path | None:
        """Find the folder of the model in the package's cache, whole or not."""

    def pull(self, names: Iterable[str]) -> Path:
        """Bring files of these names up to date, those of them that the model has, and give their folder.

        Raises:
            DownloadError: that can't be done.
        """


class ModelScope:
    """https://www.modelscope.cn, or what MODELSCOPE_ENDPOINT says, with the package ``modelscope``."""

    def __init__(self, model_id: str, revision: str | None) -> None:
        from modelscope.hub.snapshot_download import snapshot_download

        logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # what goes wrong is said once, by e2v
        self._download = snapshot_download
        self._id, self._revision = model_id, revision

    def find(self) -> Path | None:
        """Find the folder of the model in the package's cache, whole or not."""
        try:
            return Path(self._download(self._id, revision=self._revision, local_files_only=True))
        except Exception:  # of several kinds, by its version
            return None

    def pull(self, names: Iterable[str]) -> Path:
        """Bring files up to date; the package checks their SHA-256."""
        try:
            folder = self._download(self._id, revision=self._revision, allow_patterns=_exactly(names))
        except Exception as error:
            raise DownloadError(self._explain(error)) from error
        return Path(folder)

    def _explain(self, error: BaseException) -> str:
        failed: dict[str, BaseException] = getattr(error, "failed_files", {})
        if failed:
            return "; ".join(f"{name}: {self._explain(cause)}" for name, cause in failed.items())
        cause = error.__cause__ or error
        match type(cause).__name__:
            case "NotExistError":
                return f"there is no model {self._id}" + (f" of revision {self._revision}" if self._revision else "")
            case "AuthenticationError" | "PermissionDeniedError":
                return f"access to {self._id} is restricted: get it on its page, and set MODELSCOPE_API_TOKEN"
        return _in_short(error)


class HuggingFace:
    """https://huggingface.co, or what HF_ENDPOINT says, with the package ``huggingface_hub``."""

    def __init__(self, model_id: str, revision: str | None) -> None:
        from huggingface_hub import HfApi, snapshot_download

        self._download = snapshot_download
        self._api = HfApi()
        self._id, self._revision = model_id, revision

    def find(self) -> Path | None:
        """Find the folder of the model in the package's cache, whole or not."""
        try:
            found = self._download(
                self._id, revision=self._revision, local_files_only=True, allow_patterns=_exactly(FILES)
            )
            return Path(found)
        except (OSError, ValueError):
            return None

    def pull(self, names: Iterable[str]) -> Path:
        """Bring files up to date, and check their SHA-256, of which the package checks nothing but the size."""
        try:
            folder = Path(self._download(self._id, revision=self._revision, allow_patterns=_exactly(names)))
            present = [name for name in names if (folder / name).is_file()]
            # asked of the hub: where that can't be reached, the package is content with what it has
            listed = self._api.get_paths_info(self._id, present, revision=folder.name)
        except Exception as error:
            raise DownloadError(self._explain(error)) from error
        for entry in listed:
            lfs = getattr(entry, "lfs", None)
            if lfs is not None and hash_file(folder / entry.path) != lfs.sha256:
                (folder / entry.path).resolve().unlink()
                (folder / entry.path).unlink(missing_ok=True)
                raise DownloadError(f"{entry.path} came damaged: its SHA-256 is not {lfs.sha256}; try again")
        return folder

    def _explain(self, error: BaseException) -> str:
        from huggingface_hub.errors import (
            GatedRepoError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        match error:
            case GatedRepoError():
                page = f"{self._api.endpoint}/{self._id}"
                return f"access to {self._id} is restricted: get it at {page}, and set HF_TOKEN"
            case RepositoryNotFoundError():
                return f"there is no model {self._id}, or it is private: then set HF_TOKEN"
            case RevisionNotFoundError():
                return f"{self._id} has no revision {self._revision}"
            case OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE is set"
        return self._explain(error.__cause__) if error.__cause__ else _in_short(error)


def fetch(verb: str, client: Client) -> Path:
    """Find or download a model, whole.

    Raises:
        DownloadError: it is not here, or can't be had.
        E2vError: it names files that it must not have.
    """
    if verb == "find":
        found = client.find()
        # without a configuration.json, nobody can say whether the package got to its end
        if found and (found / "configuration.json").exists() and not missing_files(found):
            return found
        raise DownloadError("it is not here")
    folder = client.pull(FILES)
    others = set(read_configuration(folder).values()) - set(FILES)
    if others:
        client.pull([*FILES, *others])
    if missing := missing_files(folder):
        raise DownloadError(
            f"there is no {' and no '.join(missing)}: it is no model of FunASR, or has no such revision"
        )
    return folder


def main() -> None:
    """Answer on standard output."""
    die_with_parent(os.getppid())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    verb, hub, models = sys.argv[1:]
    client = ModelScope if hub == "ms" else HuggingFace
    json.dump([answer(verb, client, model_id, revision) for model_id, revision in json.loads(models)], answers)
    answers.close()


def answer(
    verb: str, client: Callable[[str, str | None], Client], model_id: str, revision: str | None
) -> dict[str, str]:
    """Find or download a model: its "folder", or an "error"."""
    try:
        return {"folder": str(fetch(verb, client(model_id, revision)).absolute())}
    except (DownloadError, E2vError) as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"{error.filename}: {error.strerror}" if error.filename else str(error)}


def _exactly(names: Iterable[str]) -> list[str]:
    """Make patterns that match nothing but these names."""
    return [glob.escape(name) for name in names]


def _in_short(error: BaseException) -> str:
    """Say what went wrong, without the path that it took through the libraries where the system has a word for it."""
    known = re.search(r"\[Errno -?\d+\] ([^\"'()]+)", str(error))
    if known:
        return known.group(1)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    main()
