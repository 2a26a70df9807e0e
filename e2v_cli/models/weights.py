"""A model's weights in the form that its network takes, prepared once in the user's cache and mapped into memory.

A checkpoint also holds tensors of pretraining. Its prepared copy holds the tensors of encoder and head alone,
under the network's own names and in its shapes, as float32, each on a line of the CPU's cache. No tensor is read before
it is needed, and all workers share the pages. The SHA-256 of the checkpoint and of the copy are kept beside it; without
reading both files again it is only trusted as long as neither has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from e2v_cli.errors import ModelError
from e2v_cli.models.cache import FileState, cache_folder, hash_file
from e2v_cli.models.checkpoint import load_plain, make_network, save_plain, without_neighbours
from e2v_cli.models.folder import Model
from e2v_cli.system.files import exists, published, remove_drafts

if TYPE_CHECKING:
    from torch import Tensor

    from e2v_cli.network.emotion2vec import Emotion2vec


logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of copies: raised whenever the code changes the file, or the names or shapes of the network's tensors."""

CLOCK_TICK = 2_000_000_000
"""Nanoseconds within which two changes of a file may bear the same time, on the coarsest of file systems."""


@dataclass(frozen=True)
class Weights:
    """The state of a model's weights when a run began."""

    sha256: str
    """SHA-256 of the checkpoint, in hexadecimal."""
    source: FileState
    copy: Path | None
    """Path of the prepared copy; None if the copy can't be written."""
    was_damaged: bool = False
    """Whether an earlier copy had changed since it was written."""


@dataclass(frozen=True)
class _CopyRecord:
    """The record beside a copy: its source, and the state of both files."""

    path: str
    """Path of the checkpoint, for people."""
    source: FileState
    sha256: str
    shape: str
    """A digest of the network that the copy is for."""
    copy: FileState
    copy_sha256: str
    checked: int
    """The time when the digests were known to be right, in nanoseconds."""


class _Origin(NamedTuple):
    """The parts of a copy that name its origin."""

    source: str
    """The SHA-256 of the checkpoint."""
    shape: str
    """A digest of the network that the copy is for."""


def prepare_weights(model: Model) -> Weights:
    """Hash a model's checkpoint and prepare a copy of its weights, unless a copy is there that can be trusted.

    If it can't be written, the checkpoint itself is used every time.

    Raises:
        ModelError: the checkpoint can't be read, or its weights are not the model's.
    """
    folder = _folder_of(model)
    if ready := _find_ready(model, folder):
        return ready
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock_of(folder):
            return _find_ready(model, folder) or _prepare_copy(model, folder)
    except OSError as error:
        problem = f"{error.filename or folder}: {error.strerror or error}"
        logger.warning("%s: the weights are prepared again at every start; set E2V_CACHE to another folder", problem)
    source = _state_of(model)
    sha256 = _hash_checkpoint(model)
    make_network(model)  # a checkpoint that can't be used is refused before a run begins
    return Weights(sha256, source, copy=None)


def hash_weights(model: Model) -> str:
    """Return the SHA-256 of a model's checkpoint, in hexadecimal; the file is only read if it is not known.

    Raises:
        ModelError: it can't be read.
    """
    ready = _find_ready(model, _folder_of(model))
    return ready.sha256 if ready else _hash_checkpoint(model)


def load_network(model: Model, weights: Weights) -> Emotion2vec:
    """Load a model's weights into its network, float32 on CPU; those of a prepared copy stay memory-mapped.

    Raises:
        ModelError: they have changed since the run began.
    """
    state = None
    if weights.copy is not None:
        state = _map_copy(weights.copy, _Origin(weights.sha256, _digest_shape(model)))
    if state is None:
        check_unchanged(model, weights)
    return make_network(model, state)


def check_unchanged(model: Model, weights: Weights) -> None:
    """Check that a checkpoint has not changed since the run began.

    Raises:
        ModelError: the checkpoint has changed.
    """
    if _state_of(model) != weights.source:
        raise ModelError(f"{model.weights} has changed since the run began; what is done is safe, start it again")


def _find_ready(model: Model, folder: Path) -> Weights | None:
    """Find a copy that can be trusted without reading it or its source again."""
    record = _read_copy_record(folder)
    source = _state_of(model)
    if record is None or (record.source, record.shape) != (source, _digest_shape(model)):
        return None
    with suppress(OSError):
        is_settled = source.changed + CLOCK_TICK < record.checked
        if is_settled and FileState.of(_copy_in(folder)) == record.copy:
            return Weights(record.sha256, source, _copy_in(folder))
    return None


def _prepare_copy(model: Model, folder: Path) -> Weights:
    """Prepare a copy, unless the one in place and the checkpoint that it came from still have their SHA-256.

    Raises:
        ModelError: the checkpoint can't be read, or its weights are not the model's.
        OSError: the copy can't be written.
    """
    started = time.time_ns()
    copy, shape = _copy_in(folder), _digest_shape(model)
    source, sha256 = _state_of(model), _hash_checkpoint(model)
    record = _read_copy_record(folder)
    copy_sha256, was_damaged = "", False
    if record is not None and (record.sha256, record.shape) == (sha256, shape) and exists(copy):
        copy_sha256 = hash_file(copy)
        was_damaged = copy_sha256 != record.copy_sha256
        if was_damaged:
            logger.warning("%s was changed since e2v wrote it, and is replaced", copy)
    if not copy_sha256 or was_damaged:
        copy_sha256 = _write_copy(model, copy, _Origin(sha256, shape))
    if _state_of(model) != source:
        raise ModelError(f"{model.weights} changed while it was read: run the same command again when it is complete")
    record = _CopyRecord(
        path=str(model.weights.absolute()),
        source=source,
        sha256=sha256,
        shape=shape,
        copy=FileState.of(copy),
        copy_sha256=copy_sha256,
        checked=started,
    )
    with published(_record_in(folder)) as file:
        file.write(json.dumps(asdict(record), indent=1).encode())
    return Weights(sha256, source, copy, was_damaged)


def _write_copy(model: Model, copy: Path, origin: _Origin) -> str:
    """Write a copy, durably; return its SHA-256.

    PyTorch begins every tensor on a multiple of 64 bytes. This must stay so: of weights that lie otherwise, MKL rounds
    products differently.
    """
    state = {name: without_neighbours(tensor) for name, tensor in make_network(model).state_dict().items()}
    remove_drafts(copy)
    with published(copy) as file:
        save_plain({**origin._asdict(), "state_dict": state}, file)
        file.flush()
        return hash_file(Path(file.name))


def _map_copy(copy: Path, origin: _Origin) -> dict[str, Tensor] | None:
    """Map a copy into memory; None if it is missing, damaged or of another origin."""
    try:
        content = load_plain(copy)
    except ModelError as error:
        logger.info("%s", error)
        return None
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in origin._asdict().items()):
        return None
    state: dict[str, Tensor] = content["state_dict"]
    return state


def _read_copy_record(folder: Path) -> _CopyRecord | None:
    """Read the record beside a copy; None if it is missing, damaged or of another version."""
    try:
        fields = json.loads(_record_in(folder).read_bytes())
        states = {name: FileState(**fields[name]) for name in ("source", "copy")}
        return _CopyRecord(**{**fields, **states})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _folder_of(model: Model) -> Path:
    """Return the folder of a checkpoint's copy and its record, which is named after the checkpoint's path."""
    digest = hashlib.sha256(str(model.weights.resolve()).encode(errors="surrogateescape")).hexdigest()
    return cache_folder() / "prepared" / digest[:32]


def _copy_in(folder: Path) -> Path:
    return folder / "weights.pt"


def _record_in(folder: Path) -> Path:
    return folder / "record.json"


def _digest_shape(model: Model) -> str:
    """Compute a digest of all that decides which tensors of a checkpoint are taken, and in what shape."""
    decisive = (FORMAT, model.config, len(model.tokens), model.declares_head, model.scope_map)
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


def _state_of(model: Model) -> FileState:
    try:
        return FileState.of(model.weights)
    except OSError as error:
        raise ModelError(f"{model.weights}: {error.strerror}") from None


def _hash_checkpoint(model: Model) -> str:
    try:
        return hash_file(model.weights)
    except OSError as error:
        raise ModelError(f"{model.weights}: {error.strerror}") from None


@contextmanager
def _lock_of(folder: Path) -> Iterator[None]:
    """Hold the lock of a copy until the block ends. Where locks don't work, two processes may prepare it, unharmed."""
    with (folder / "lock").open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
