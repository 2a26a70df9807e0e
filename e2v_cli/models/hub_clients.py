"""The hubs' own packages, called in a process of its own, whose arguments are PARENT VERB HUB MODELS.

The process ends with PARENT, a process id. VERB is ``find`` (in the package's cache) or ``pull`` (new files). MODELS
is a JSON list of ids and revisions. Caches, resumed downloads, tokens, mirrors and offline switches are the packages'.
The answer is JSON on standard output: for each model its folder, or an error. All other output goes to standard error.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from e2v_cli.errors import E2vError
from e2v_cli.models.cache import hash_file
from e2v_cli.models.folder import DEFAULT_FILES, missing_files, read_configuration
from e2v_cli.system.files import exists, is_regular_file
from e2v_cli.system.process import die_with_parent

FILES = ("configuration.json", *DEFAULT_FILES.values(), "tokens.json")
"""The files that a model needs, unless its ``configuration.json`` names others."""


class DownloadError(Exception):
    """A model can't be found or downloaded; the message tells why."""


class Client(Protocol):
    """A hub's package."""

    def find(self) -> Path | None:
        """Find the folder of the model in the package's cache, whole or not."""

    def pull(self, names: Iterable[str]) -> Path:
        """Download the new files of these names, as far as the model has them, and return their folder.

        Raises:
            DownloadError: the model can't be downloaded.
        """


class ModelScope:
    """https://www.modelscope.cn, or MODELSCOPE_ENDPOINT, by the package ``modelscope``."""

    def __init__(self, model_id: str, revision: str | None) -> None:
        from modelscope.hub.snapshot_download import snapshot_download

        logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)  # errors are shown once, by e2v
        self._download = snapshot_download
        self._id, self._revision = model_id, revision or "master"

    def find(self) -> Path | None:
        """Find the folder of the model in the package's cache, whole or not."""
        folder = self._find_any()
        return None if folder is None or self._is_of_unknown_revision(folder) else folder

    def pull(self, names: Iterable[str]) -> Path:
        """Download the new files; the package checks their SHA-256."""
        folder = self._find_any()
        if folder is not None and self._is_of_unknown_revision(folder):
            raise DownloadError(f"{folder}, of an older modelscope, would be overwritten: move it away")
        try:
            folder = Path(self._download(self._id, revision=self._revision, allow_patterns=_exactly(names)))
        except Exception as error:
            raise DownloadError(self._explain(error)) from error
        return folder

    def _find_any(self) -> Path | None:
        try:
            return Path(self._download(self._id, revision=self._revision, local_files_only=True))
        except Exception:  # of several kinds, by its version
            return None

    def _is_of_unknown_revision(self, folder: Path) -> bool:
        """Whether a folder is of the layout before modelscope 1.38, which knew no revisions; it is taken for master."""
        return self._revision not in ("master", folder.name)

    def _explain(self, error: BaseException) -> str:
        failed: dict[str, BaseException] = getattr(error, "failed_files", {})
        if failed:
            reasons = {self._explain(cause): name for name, cause in failed.items()}  # a full disk fails all alike
            return "; ".join(f"{name}: {reason}" for reason, name in reasons.items())
        for cause in _list_causes(error):
            match type(cause).__name__:
                case "NotExistError":
                    return "no such model" + ("" if self._revision == "master" else ", or no such revision")
                case "AuthenticationError" | "PermissionDeniedError":
                    return _describe_restriction("on its page", "MODELSCOPE_API_TOKEN")
                case "FileIntegrityError" | "FileSizeMismatchError":
                    return "the download differs from what the hub lists; try again"
        return _summarize_error(error, "MODELSCOPE_CACHE")


class HuggingFace:
    """https://huggingface.co, or HF_ENDPOINT, by the package ``huggingface_hub``."""

    def __init__(self, model_id: str, revision: str | None) -> None:
        from huggingface_hub import HfApi, snapshot_download

        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
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
        """Download the new files, and check their SHA-256: the package checks only the size."""
        try:
            # if the hub can't be reached, the package silently returns its cached files
            self._api.model_info(self._id, revision=self._revision)
            folder = Path(self._download(self._id, revision=self._revision, allow_patterns=_exactly(names)))
        except Exception as error:
            raise DownloadError(self._explain(error)) from error
        for name in names:
            blob = (folder / name).resolve()  # whose name, if it is large, is its SHA-256
            if re.fullmatch(r"[0-9a-f]{64}", blob.name) and is_regular_file(blob) and hash_file(blob) != blob.name:
                blob.unlink()
                (folder / name).unlink()
                raise DownloadError(f"{name}: the download differs from what the hub lists; try again")
        return folder

    def _explain(self, error: BaseException) -> str:
        from huggingface_hub.errors import (
            GatedRepoError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        for cause in _list_causes(error):
            match cause:
                case GatedRepoError():
                    return _describe_restriction(f"at {self._api.endpoint}/{self._id}", "HF_TOKEN")
                case RepositoryNotFoundError():
                    return "no such model, or it is private: set HF_TOKEN"
                case RevisionNotFoundError():
                    return "no such revision"
                case OfflineModeIsEnabled():
                    return "HF_HUB_OFFLINE is set"
        return _summarize_error(error, "HF_HOME")


def find_whole(client: Client) -> Path:
    """Find a model in the package's cache, whole.

    Raises:
        DownloadError: it is not there.
    """
    folder = client.find()
    # without a configuration.json, it is unknown whether the package got to the end of a download
    if folder is None or not exists(folder / "configuration.json") or missing_files(folder):
        raise DownloadError("not on this machine")
    return folder


def pull_whole(client: Client) -> Path:
    """Download the new files of a model.

    Raises:
        DownloadError: it can't be downloaded, or lacks a file.
        E2vError: its ``configuration.json`` names files outside its folder, or can't be read.
    """
    folder = client.pull(FILES)
    others = set(read_configuration(folder).values()) - set(FILES)
    if others:
        client.pull([*FILES, *others])
    if missing := missing_files(folder):
        raise DownloadError(
            f"it has no {' and no '.join(missing)}: not a model in FunASR's format, or no such revision"
        )
    return folder


def run_client() -> None:
    """Answer the request in the arguments on standard output."""
    parent, verb, hub, models = sys.argv[1:]
    die_with_parent(int(parent))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    do = {"find": find_whole, "pull": pull_whole}[verb]
    client = ModelScope if hub == "ms" else HuggingFace
    json.dump([_answer_for(do, client, model_id, revision) for model_id, revision in json.loads(models)], answers)
    answers.close()


def _answer_for(
    do: Callable[[Client], Path], client: Callable[[str, str | None], Client], model_id: str, revision: str | None
) -> dict[str, str]:
    """Find or download a model: its "folder", an "error" or why it is "refused"."""
    try:
        return {"folder": str(do(client(model_id, revision)).absolute())}
    except DownloadError as error:
        return {"error": str(error)}
    except ImportError as error:
        return {"error": f"its package can't be imported: {error}; install it again"}
    except E2vError as error:
        return {"refused": str(error)}
    except OSError as error:
        return {"error": f"{error.filename}: {error.strerror}" if error.filename else str(error)}
    except Exception as error:  # any other error of the package
        return {"error": f"its package failed: {type(error).__name__}: {' '.join(str(error).split())}"}


def _exactly(names: Iterable[str]) -> list[str]:
    """Return patterns that match nothing but these names."""
    return [glob.escape(name) for name in names]


def _describe_restriction(where: str, variable: str) -> str:
    """Describe a model to which access is restricted: where to ask for it, and the variable of the token."""
    token = f"{variable}, which does not open it now" if os.environ.get(variable) else variable
    return f"access is restricted: ask for it {where}, and set {token}"


def _summarize_error(error: BaseException, cache_variable: str) -> str:
    """Summarize an error, in the system's words if it has some, without its way through the libraries."""
    for cause in _list_causes(error):
        status = getattr(cause, "status_code", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            return f"the hub answered with status {status}"
    for cause in _list_causes(error):
        known = re.search(r"\[Errno -?\d+\] ([^\"'()\n]+)|Error\(\d+, '([^']+)'\)|(timed out)", str(cause))
        if known:
            words = next(filter(None, known.groups()))
            return f"{words}: set {cache_variable} to another folder" if "space left" in words else words
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """List an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
