"""Prediction → its embedding on disk: one ``.npy`` per utterance, or a Kaldi archive."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Protocol

import kaldiio
import numpy as np
from numpy.typing import NDArray

from e2v_cli.durable import sync_folder
from e2v_cli.records import Prediction
from e2v_cli.settings import EmbeddingDtype, EmbeddingFormat
from e2v_cli.tables import kaldi_key

MAX_NAME_BYTES = 200
"""Longer file names are cut and get a digest; most file systems end at 255 bytes."""


class EmbeddingWriter(Protocol):
    """What puts embeddings on disk."""

    def write(self, predictions: Iterable[Prediction]) -> list[str | None]:
        """Put embeddings on disk for good, and say where each is, relative to OUT."""

    def close(self) -> None:
        """Close what is open."""


def open_writer(output_dir: Path, kind: EmbeddingFormat, dtype: EmbeddingDtype) -> EmbeddingWriter:
    """Open the writer that the options ask for."""
    match kind:
        case "none":
            return NoWriter()
        case "npy":
            return NpyWriter(output_dir, dtype)
        case "ark":
            return ArkWriter(output_dir, dtype)


class NoWriter:
    """Embeddings are not asked for."""

    def write(self, predictions: Iterable[Prediction]) -> list[str | None]:
        """Write nothing."""
        return [None for _ in predictions]

    def close(self) -> None:
        """Nothing is open."""


class NpyWriter:
    """``embeddings/ID.npy``: float32 or float16, (dim,) or (frames, dim)."""

    def __init__(self, output_dir: Path, dtype: EmbeddingDtype) -> None:
        self.output_dir = output_dir
        self.dtype = dtype
        (output_dir / "embeddings").mkdir(exist_ok=True)
        sync_folder(output_dir)

    def write(self, predictions: Iterable[Prediction]) -> list[str | None]:
        """Write a file each, and the folder's entries, to the disk itself."""
        places: list[str | None] = []
        for prediction in predictions:
            place = f"embeddings/{file_name(prediction.utterance.utt_id)}.npy"
            content = BytesIO()  # np.save to a file loses the errors of its last bytes: a full disk would go unseen
            np.save(content, _rounded(prediction.embedding, self.dtype))
            with (self.output_dir / place).open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            places.append(place)
        sync_folder(self.output_dir / "embeddings")
        return places

    def close(self) -> None:
        """Nothing stays open."""


class ArkWriter:
    """``embeddings.N.ark``: Kaldi float vectors (dim,) or float matrices (frames, dim).

    Every attempt at a run writes a new N, so nothing that a journal speaks of is ever touched again.
    """

    def __init__(self, output_dir: Path, dtype: EmbeddingDtype) -> None:
        number = 1
        while (output_dir / f"embeddings.{number}.ark").exists():
            number += 1
        self.path = output_dir / f"embeddings.{number}.ark"
        self.dtype = dtype
        self.file = self.path.open("xb")
        sync_folder(output_dir)

    def write(self, predictions: Iterable[Prediction]) -> list[str | None]:
        """Append to the archive, to the disk itself. A place is the offset behind the key, as in a Kaldi scp."""
        places: list[str | None] = []
        for prediction in predictions:
            # Kaldi has no 16-bit floats: the values are rounded, so that they are those of the .npy, and stored in 32.
            embedding = _rounded(prediction.embedding, self.dtype).astype(np.float32)
            key = kaldi_key(prediction.utterance.utt_id)
            record = BytesIO()
            kaldiio.save_ark(record, {key: embedding})
            places.append(f"{self.path.name}:{self.file.tell() + len(key.encode()) + 1}")
            self.file.write(record.getbuffer())
        self.file.flush()
        os.fsync(self.file.fileno())
        return places

    def close(self) -> None:
        """Close the archive; one that nothing was written to goes away."""
        empty = self.file.tell() == 0
        self.file.close()
        if empty:
            self.path.unlink()


def file_name(utt_id: str) -> str:
    """Make a file name of an id: itself where that is safe, else percent-encoded, and cut where it is too long."""
    name = re.sub(r'[\x00-\x1f\x7f%/\\:*?"<>|]|^\.', lambda match: f"%{ord(match.group()):02X}", utt_id)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(utt_id.encode()).hexdigest()[:32]
    return name.encode()[: MAX_NAME_BYTES - 34].decode(errors="ignore") + "%-" + digest  # no other name has %-


def _rounded(embedding: NDArray[np.float32], dtype: EmbeddingDtype) -> NDArray[np.floating]:
    return embedding.astype(np.float16 if dtype == "fp16" else np.float32)
