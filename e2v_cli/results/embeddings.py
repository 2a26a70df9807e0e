"""Embeddings on disk: a ``.npy`` for each utterance, or Kaldi archives."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from kaldiio.matio import read_kaldi, write_array, write_array_ascii
from numpy.typing import NDArray

from e2v_cli.options import EmbeddingDtype, ResultOptions, Shard
from e2v_cli.records import Place, Prediction
from e2v_cli.results.formats import STEM, draft_name
from e2v_cli.results.tables import file_name
from e2v_cli.system.files import draft_of, drafted, is_directory, naming, sync_file, sync_folder
from e2v_cli.system.spool import DiskArray, whole

AUTOMATIC_COMPRESSION = 1
"""Kaldi's default for matrices: 8 bits a value with a scale for each column, 16 bits where rows are few."""

TEXT_DIGITS = ".8e"
"""Nine digits distinguish all 32-bit floats. Each number has a point, by which kaldiio recognises floats."""


class EmbeddingWriter(Protocol):
    """A worker's writer of embeddings."""

    def write(self, predictions: Sequence[Prediction]) -> list[Place]:
        """Write and sync embeddings, and return the place of each.

        Raises:
            OSError: they can't be written.
        """


class NpyWriter:
    """``embeddings/ID.npy``: float32 or float16, (dim,) or (frames, dim).

    A file gets its name when it is complete, so concurrent writers of the same utterance do no harm.
    """

    def __init__(self, output_dir: Path, results: ResultOptions, shard: Shard, stem: str = STEM) -> None:
        """Write nothing yet; ``stem`` is the name of the folder."""
        self._output_dir, self._folder = output_dir, output_dir / stem
        self._dtype = results.dtype
        self._draft = draft_of(output_dir / draft_name(shard))

    def write(self, predictions: Sequence[Prediction]) -> list[Place]:
        """Write a file for each, and sync them and their folder."""
        if predictions and not is_directory(self._folder):  # no folder is left without a file
            self._folder.mkdir(exist_ok=True)
            sync_folder(self._output_dir)
        places = [
            Place(f"{self._folder.name}/{file_name(prediction.utterance.utt_id)}.npy") for prediction in predictions
        ]
        for place, prediction in zip(places, predictions, strict=True):
            with drafted(self._output_dir / place.file, self._draft) as file:
                file.write(self._header(prediction.embedding.shape))
                for block in _embedding_blocks(prediction.embedding):
                    file.write(_round_embedding(block, self._dtype).tobytes())
        if places:
            sync_folder(self._folder)
        return places

    def _header(self, shape: tuple[int, ...]) -> bytes:
        header = BytesIO()
        dtype = np.dtype(np.float16 if self._dtype == "fp16" else np.float32)
        np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        return header.getvalue()


class ArkWriter:
    """``embeddings.2-of-3.N.ark``: Kaldi float vectors (dim,) or float matrices (frames, dim).

    Every worker of every attempt at a shard writes a file with a new N, so recorded embeddings never change.
    """

    def __init__(
        self, output_dir: Path, results: ResultOptions, shard: Shard, stem: str = STEM, *, text: bool = False
    ) -> None:
        """Choose the name of the archive, which begins with ``stem``; ``text``: its numbers are text."""
        self._dtype = results.dtype
        self._text = text
        self._method = AUTOMATIC_COMPRESSION if results.compress else None
        self._file = GrowingFile(output_dir, f"{stem}.{shard.name}.", ".ark")

    def write(self, predictions: Sequence[Prediction]) -> list[Place]:
        """Append to the archive, and sync it. A place has the offset after the key, as in a Kaldi scp."""
        places: list[Place] = []
        if not predictions:
            return places
        with self._file.growing() as file:
            for prediction in predictions:
                file.write(f"{prediction.utterance.utt_id} ".encode())
                places.append(Place(self._file.name, file.tell()))
                for part in self._record(prediction.embedding):
                    file.write(part)
        return places

    def _record(self, embedding: NDArray[np.float32] | DiskArray) -> Iterator[bytes]:
        """Format the record after a key.

        Kaldi has no 16-bit floats: values are rounded as in the .npy, and stored in 32 bits.
        """
        if not self._text and self._method is None and isinstance(embedding, DiskArray):
            # A matrix that is too large for memory, as Kaldi's Matrix::Write formats it; kaldiio needs it in memory.
            yield b"\0BFM " + b"".join(struct.pack("<bi", 4, size) for size in embedding.shape)
            for block in embedding.blocks():
                yield _round_embedding(block, self._dtype).astype(np.float32).tobytes()
            return
        array = _round_embedding(whole(embedding), self._dtype).astype(np.float32)
        record = BytesIO()
        if self._text:
            write_array_ascii(record, array, digit=TEXT_DIGITS)
        else:
            write_array(record, array, compression_method=self._method)
        yield record.getvalue()


def read_npy(place: Path) -> NDArray[np.float32]:
    """Open a matrix of ``NpyWriter``, (frames, dim), which may be larger than memory."""
    matrix: NDArray[np.float32] = np.load(place, mmap_mode="r", allow_pickle=False)
    return matrix


def read_ark(place: Path) -> NDArray[np.float32]:
    """Read a matrix of ``ArkWriter``, (frames, dim), or a vector, at a place like ``embeddings.1-of-1.1.ark:17``.

    Raises:
        ValueError: it is another kind of record, of which kaldiio would run the code that is in some.
    """
    path, _, offset = str(place).rpartition(":")
    with open(path, "rb") as file:
        file.seek(int(offset))
        if not file.read(2).startswith((b"\0B", b" [")):
            raise ValueError(f"{place}: neither a vector nor a matrix")
        file.seek(int(offset))
        embedding: NDArray[np.float32] = read_kaldi(file)
    return embedding.astype(np.float32)


class GrowingFile:
    """A file that only this process appends to, created at the first write."""

    def __init__(self, output_dir: Path, prefix: str, suffix: str) -> None:
        self._output_dir, self._prefix, self._suffix = output_dir, prefix, suffix

    @property
    def name(self) -> str:
        """Name of the file, with a unique number."""
        return self._path.name

    @contextmanager
    def growing(self) -> Iterator[BinaryIO]:
        """Open the file at its end, and sync it when the block ends."""
        with naming(self._path), self._path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            yield file
            sync_file(file)

    @cached_property
    def _path(self) -> Path:
        number = 1
        while True:
            path = self._output_dir / f"{self._prefix}{number}{self._suffix}"
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                number += 1
            else:
                sync_folder(self._output_dir)
                return path


def _embedding_blocks(embedding: NDArray[np.float32] | DiskArray) -> Iterator[NDArray[np.float32]]:
    """Read an embedding in parts that fit into memory."""
    if isinstance(embedding, DiskArray):
        yield from embedding.blocks()
    else:
        yield embedding


def _round_embedding(embedding: NDArray[np.float32], dtype: EmbeddingDtype) -> NDArray[np.floating]:
    return embedding.astype(np.float16 if dtype == "fp16" else np.float32)
