"""Prediction → its embedding on disk: one ``.npy`` per utterance, or a Kaldi archive."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Protocol

import kaldiio
import numpy as np
from numpy.typing import NDArray

from e2v_cli.durable import draft_of, naming, sync_file, sync_folder
from e2v_cli.records import Prediction
from e2v_cli.settings import EmbeddingDtype, EmbeddingFormat, Shard
from e2v_cli.tables import kaldi_key

MAX_NAME_BYTES = 200
"""Longer file names are cut and get a digest; most file systems end at 255 bytes."""


class EmbeddingWriter(Protocol):
    """What puts embeddings on disk."""

    def write(self, predictions: Sequence[Prediction]) -> list[str]:
        """Put embeddings on disk for good, and say where each is, relative to OUT.

        Raises:
            OSError: they can't be written.
        """


def open_writer(output_dir: Path, kind: EmbeddingFormat, dtype: EmbeddingDtype, shard: Shard) -> EmbeddingWriter:
    """Open the writer that the options ask for."""
    match kind:
        case "none":
            return NoWriter()
        case "npy":
            return NpyWriter(output_dir, dtype, shard)
        case "ark":
            return ArkWriter(output_dir, dtype, shard)


class NoWriter:
    """Embeddings are not asked for."""

    def write(self, predictions: Sequence[Prediction]) -> list[str]:
        """Write nothing."""
        return [""] * len(predictions)


class NpyWriter:
    """``embeddings/ID.npy``: float32 or float16, (dim,) or (frames, dim).

    A file gets its name when it is whole, so whoever else writes the same utterance at the same time does no harm.
    """

    def __init__(self, output_dir: Path, dtype: EmbeddingDtype, shard: Shard) -> None:
        self.output_dir = output_dir
        self.dtype = dtype
        self._draft = draft_of(output_dir / npy_draft_name(shard))
        (output_dir / "embeddings").mkdir(exist_ok=True)
        sync_folder(output_dir)

    def write(self, predictions: Sequence[Prediction]) -> list[str]:
        """Write a file each, and the folder's entries, to the disk itself."""
        places = [f"embeddings/{file_name(prediction.utterance.utt_id)}.npy" for prediction in predictions]
        for place, prediction in zip(places, predictions, strict=True):
            content = BytesIO()  # np.save to a file loses the errors of its last bytes: a full disk would go unseen
            np.save(content, _rounded(prediction.embedding, self.dtype))
            path = self.output_dir / place
            with naming(path):
                with self._draft.open("wb") as file:
                    file.write(content.getbuffer())
                    sync_file(file)
                self._draft.replace(path)
        if places:
            sync_folder(self.output_dir / "embeddings")
        return places


class ArkWriter:
    """``embeddings.2-of-3.N.ark``: Kaldi float vectors (dim,) or float matrices (frames, dim).

    Every worker of every attempt at a shard writes a new N, so nothing that a journal speaks of is ever touched again.
    """

    def __init__(self, output_dir: Path, dtype: EmbeddingDtype, shard: Shard) -> None:
        self.output_dir = output_dir
        self.dtype = dtype
        self.shard = shard

    def write(self, predictions: Sequence[Prediction]) -> list[str]:
        """Append to the archive, to the disk itself. A place is the offset behind the key, as in a Kaldi scp."""
        places: list[str] = []
        if not predictions:
            return places
        with naming(self._path), self._path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            for prediction in predictions:
                # Kaldi has no 16-bit floats: values are rounded, so that they are those of the .npy, and stored in 32.
                embedding = _rounded(prediction.embedding, self.dtype).astype(np.float32)
                key = kaldi_key(prediction.utterance.utt_id)
                record = BytesIO()
                kaldiio.save_ark(record, {key: embedding})
                places.append(f"{self._path.name}:{file.tell() + len(key.encode()) + 1}")
                file.write(record.getbuffer())
            sync_file(file)
        return places

    @cached_property
    def _path(self) -> Path:
        """Create the archive, once there is something to write."""
        number = 1
        while True:
            path = self.output_dir / f"embeddings.{self.shard.name}.{number}.ark"
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                number += 1
            else:
                sync_folder(self.output_dir)
                return path


def npy_draft_name(shard: Shard) -> str:
    """Name what the drafts of a shard's ``.npy`` files are of."""
    return f"npy.{shard.name}"


def file_name(utt_id: str) -> str:
    """Make a file name of an id: itself where that is safe, else percent-encoded, and cut where it is too long."""
    name = re.sub(r'[\x00-\x1f\x7f%/\\:*?"<>|]|^\.', lambda match: f"%{ord(match.group()):02X}", utt_id)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(utt_id.encode()).hexdigest()[:32]
    return name.encode()[: MAX_NAME_BYTES - 34].decode(errors="ignore") + "%-" + digest  # no other name has %-


def _rounded(embedding: NDArray[np.float32], dtype: EmbeddingDtype) -> NDArray[np.floating]:
    return embedding.astype(np.float16 if dtype == "fp16" else np.float32)
