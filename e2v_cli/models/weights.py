"""A model's weights as its network wants them, prepared once in the user's cache, and mapped into memory from there.

A checkpoint is a pickle in a zip file, of all that pretraining left behind, too. Its prepared copy holds the tensors of
encoder and head alone, in the network's own names and shapes, as safetensors: nothing of it is read before it is
needed, and all workers share its pages. It is as good as its source: the SHA-256 of both stands beside it, and it is
only trusted without reading them again as long as both are the files that they were.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from e2v_cli.errors import ModelError
from e2v_cli.models.cache import FileState, cache_folder, hash_file
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model
from e2v_cli.system.files import published, remove_drafts

if TYPE_CHECKING:
    from torch import Tensor

    from e2v_cli.network.emotion2vec import Emotion2vec


logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised whenever a change of the code changes the names or shapes of the network's tensors."""

CLOCK_TICK = 2_000_000_000
"""Nanoseconds within which two changes of a file may bear the same time, on the coarsest of file systems."""

ALIGNMENT = 64
"""Bytes of a cache line."""


@dataclass(frozen=True)
class Weights:
    """A model's weights as they were when a run began."""

    sha256: str
    """Of the checkpoint, in hexadecimal."""
    source: FileState
    copy: Path | None
    """The prepared copy; None where there is no room for one."""
    was_damaged: bool = False
    """Whether the copy that was there had changed since it was written."""


@dataclass(frozen=True)
class _Record:
    """What stands beside a copy."""

    path: str
    """Of the checkpoint; for people."""
    source: FileState
    sha256: str
    shape: str
    """A digest of the network that the copy is for."""
    copy: FileState
    copy_sha256: str
    checked: int
    """When the digests were known to be right, in nanoseconds."""


def prepare_weights(model: Model) -> Weights:
    """Hash a model's checkpoint and prepare a copy of its weights, unless a copy is there that can be trusted.

    Where it can't be written, the checkpoint itself is used every time.

    Raises:
        ModelError: the checkpoint can't be read, or its weights are not the model's.
    """
    place = _place_of(model)
    if ready := _find_ready(model, place):
        return ready
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            return _find_ready(model, place) or _prepare(model, place)
    except OSError as error:
        problem = f"{error.filename or place}: {error.strerror or error}"
        logger.warning("%s: the weights are prepared anew at every start; E2V_CACHE can be another place", problem)
    source = _look_at(model)
    sha256 = _hash(model)
    make_network(model)  # it is known before a run begins whether there is one
    return Weights(sha256, source, copy=None)


def hash_weights(model: Model) -> str:
    """Say what the SHA-256 of a model's checkpoint is, in hexadecimal; read only where that is not known.

    Raises:
        ModelError: it can't be read.
    """
    ready = _find_ready(model, _place_of(model))
    return ready.sha256 if ready else _hash(model)


def load_network(model: Model, weights: Weights) -> Emotion2vec:
    """Load a model's weights into its network, float32 on CPU; those of a prepared copy stay memory-mapped.

    Raises:
        ModelError: they are not those any more that they were when the run began.
    """
    state = None
    if weights.copy is not None:
        state = _map_copy(weights.copy, _metadata(weights.sha256, _digest_shape(model)))
    if state is None:
        check_unchanged(model, weights)
    return make_network(model, state)


def check_unchanged(model: Model, weights: Weights) -> None:
    """Check that a checkpoint is the file that it was.

    Raises:
        ModelError: it is not.
    """
    if _look_at(model) != weights.source:
        raise ModelError(f"{model.weights} has changed since the run began; what is done is safe, start it again")


def _find_ready(model: Model, place: Path) -> Weights | None:
    """Find a copy that can be trusted without reading it or its source again."""
    record = _read_record(place)
    source = _look_at(model)
    if record is None or (record.source, record.shape) != (source, _digest_shape(model)):
        return None
    with suppress(OSError):
        is_settled = source.changed + CLOCK_TICK < record.checked
        if is_settled and FileState.of(_copy_in(place)) == record.copy:
            return Weights(record.sha256, source, _copy_in(place))
    return None


def _prepare(model: Model, place: Path) -> Weights:
    """Prepare a copy, unless the one that is there has what it had, and came from what is in the checkpoint now.

    Raises:
        ModelError: the checkpoint can't be read, or its weights are not the model's.
        OSError: the copy can't be written.
    """
    started = time.time_ns()
    copy, shape = _copy_in(place), _digest_shape(model)
    source, sha256 = _look_at(model), _hash(model)
    record = _read_record(place)
    copy_sha256, was_damaged = "", False
    if record is not None and (record.sha256, record.shape) == (sha256, shape) and copy.exists():
        copy_sha256 = hash_file(copy)
        was_damaged = copy_sha256 != record.copy_sha256
        if was_damaged:
            logger.warning("%s was changed since e2v wrote it, and is made anew", copy)
    if not copy_sha256 or was_damaged:
        copy_sha256 = _write_copy(model, copy, _metadata(sha256, shape))
    if _look_at(model) != source:
        raise ModelError(f"{model.weights} changes while it is read; start again when it is whole")
    record = _Record(
        path=str(model.weights.absolute()),
        source=source,
        sha256=sha256,
        shape=shape,
        copy=FileState.of(copy),
        copy_sha256=copy_sha256,
        checked=started,
    )
    with published(_record_in(place)) as file:
        file.write(json.dumps(asdict(record), indent=1).encode())
    return Weights(sha256, source, copy, was_damaged)


def _metadata(sha256: str, shape: str) -> dict[str, str]:
    """Make what a copy says of itself."""
    return {"source": sha256, "shape": shape}


def _write_copy(model: Model, copy: Path, metadata: Mapping[str, str]) -> str:
    """Write a copy; return its SHA-256.

    safetensors' own writer can't be used: what it writes is not on the disk itself, nor removed when it is killed.
    """
    # those of odd sizes at the end, and all others begin on a cache line
    state = sorted(make_network(model).state_dict().items(), key=lambda item: item[1].nbytes % ALIGNMENT > 0)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in state:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)
    digest = hashlib.sha256()
    remove_drafts(copy)
    with published(copy) as file:
        parts: Iterator[bytes | memoryview] = chain(
            [len(encoded).to_bytes(8, "little"), encoded], (_bytes_of(tensor) for _, tensor in state)
        )
        for part in parts:
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().numpy().reshape(-1).data.cast("B")


def _map_copy(copy: Path, metadata: Mapping[str, str]) -> dict[str, Tensor] | None:
    """Map a copy into memory, if it is there and what it should be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(copy, framework="pt") as file:
            if file.metadata() == metadata:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — it is no mapping
    except (OSError, SafetensorError) as error:
        logger.info("%s: %s", copy, error)
    return None


def _read_record(place: Path) -> _Record | None:
    try:
        fields = json.loads(_record_in(place).read_bytes())
        states = {name: FileState(**fields[name]) for name in ("source", "copy")}
        return _Record(**{**fields, **states})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # there is none, or one of another version
        return None


def _place_of(model: Model) -> Path:
    """Say where the copy of a checkpoint is, and what stands beside it: known by the checkpoint's path."""
    digest = hashlib.sha256(str(model.weights.resolve()).encode(errors="surrogateescape")).hexdigest()
    return cache_folder() / "prepared" / digest[:32]


def _copy_in(place: Path) -> Path:
    return place / "weights.safetensors"


def _record_in(place: Path) -> Path:
    return place / "record.json"


def _digest_shape(model: Model) -> str:
    """Digest all that decides which tensors of a checkpoint are taken, and in what shape."""
    decisive = (FORMAT, model.config, len(model.tokens), model.declares_head, model.scope_map)
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


def _look_at(model: Model) -> FileState:
    try:
        return FileState.of(model.weights)
    except OSError as error:
        raise ModelError(f"{model.weights}: {error.strerror}") from None


def _hash(model: Model) -> str:
    try:
        return hash_file(model.weights)
    except OSError as error:
        raise ModelError(f"{model.weights}: {error.strerror}") from None


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Let no other process prepare the same copy; where locks don't work, both do, and neither is harmed."""
    with (place / "lock").open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
