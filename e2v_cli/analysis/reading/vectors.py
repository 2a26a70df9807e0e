"""EMBEDDINGS: the embeddings of a run, of an ``embeddings.scp``, or of a folder of ``.npy``; read one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.keyed import KeyedLines
from e2v_cli.corpus.lists import BLANKS, LineList, ListWriter, check_id, index_lines, open_list
from e2v_cli.errors import CorpusError
from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.journal import Header, holds_run
from e2v_cli.options import ComputeOptions
from e2v_cli.results.embeddings import read_ark, read_npy
from e2v_cli.results.formats import EMBEDDING_FORMATS, embedding_stems, layers_of, with_stem
from e2v_cli.results.publish import open_run_folder
from e2v_cli.system.files import is_directory

FORMS = "EMBEDDINGS is an OUT of e2v predict with --embeddings ark or npy, an embeddings.scp, or a folder of .npy"

NAMED = 3
"""Utterances in a message; of more, only their number."""

_LINE = re.compile(rb"([^\s#]\S*)[ \t]+\S(?:[^\n]*\S)?(?:\.npy|:[0-9]+)\s*$")
_LAYER_INDEX = re.compile(r"embeddings\.(?:layer)?((?:mean[0-9]+-)?[0-9]+)(?:\.(?:scp|tsv))?")
"""Lists and folders of ``--layers``."""


@dataclass(frozen=True)
class EmbeddingOrigin:
    """Origin of embeddings: the run, model and options that computed them; None: not known."""

    name: str
    """EMBEDDINGS, as the user gave it."""
    output_dir: Path | None = None
    """OUT of the run."""
    layer: str | None = None
    """The layer, as in ``--layers``: ``7`` or ``mean4-7``; None: the last one, or not known."""
    model: str | None = None
    """Name of the model, as the user gave it."""
    model_sha256: str | None = None
    """SHA-256 of the model's weights, in hexadecimal."""
    engine: str | None = None
    precision: str | None = None
    window: float | None = None
    """Longest window of the encoder, in seconds."""
    products: str | None = None
    """Libraries that multiplied the encoder's matrices, separated by commas: machines of a run may differ."""
    granularity: str | None = None
    dtype: str | None = None
    """Precision of the stored embeddings: fp32 or fp16."""

    def describe(self) -> list[str]:
        """Describe unusual options of the embeddings, or that their model is not known."""
        if self.model_sha256 is None:
            return [f"{self.name}: which model computed them is not known: there is no run beside them"]
        unusual = self.unusual_options()
        if self.dtype not in (None, "fp32"):
            unusual.append(f"--embedding-dtype {self.dtype}")
        if not unusual:
            return []
        return [f"{self.name}: computed with {', '.join(unusual)}: a probe fits only embeddings that are computed so"]

    def unusual_options(self) -> list[str]:
        """Return the options of the encoder that are not the defaults: audio has to be predicted with them, too."""
        options = []
        if self.precision not in (None, ComputeOptions.precision):
            options.append(f"--precision {self.precision}")
        if self.window not in (None, ComputeOptions.window):
            options.append(f"--window {self.window:g}")
        return options


class Embeddings:
    """Embeddings on disk; in memory are a few numbers of each."""

    def __init__(self, origin: EmbeddingOrigin, lines: LineList) -> None:
        """Keep the list of the ids and the places of embeddings: ``file.ark:offset``, or a ``.npy``."""
        self.origin = origin
        self.name = lines.name
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def ids(self) -> Iterator[KeyedLines]:
        """Read all ids, some thousand at a time."""
        first = 1
        for keys in self._lines.ids():
            yield KeyedLines(range(first, first + len(keys)), keys, ())
            first += len(keys)

    def read(self, row: int) -> NDArray[np.float32]:
        """Read an embedding: (dim,) or (frames, dim).

        Raises:
            CorpusError: it can't be read.
        """
        return self._load(*self._lines.read(row))

    def read_means(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], bool]:
        """Read embeddings in the order of their list, which is mostly that of the archive.

        Args:
            rows: (utterances,) in the list, in any order.

        Returns:
            (utterances, dim) means over frames, or the vectors as they are; and whether there are frames.

        Raises:
            CorpusError: one can't be read, has another size than the others, or numbers that are not finite.
        """
        index_of = np.full(len(self), -1, dtype=np.int64)
        index_of[rows] = np.arange(len(rows))
        means = np.empty((0, 0), dtype=np.float32)
        first, broken = ("", ""), list[bytes]()
        for index, (key, place) in zip(index_of.tolist(), self._lines.entries(), strict=True):
            if index < 0:
                continue
            embedding = self._load(key, place)
            size = "frames × " * (embedding.ndim - 1) + str(embedding.shape[-1])
            if not means.size:  # all are read into this one array
                means, first = np.empty((len(rows), embedding.shape[-1]), dtype=np.float32), (key.decode(), size)
            if size != first[1]:
                raise CorpusError(
                    f"{self.name}: embeddings of different sizes: that of {first[0]} has {first[1]}, that of "
                    f"{key.decode()} has {size} numbers; are they of one model?"
                )
            means[index] = embedding if embedding.ndim == 1 else embedding.mean(axis=0, dtype=np.float64)
            if not np.isfinite(means[index]).all():
                broken.append(key)
        if broken:
            raise CorpusError(
                f"{self.name}: NaN or infinite numbers in the embedding{'s' if len(broken) > 1 else ''} of "
                f"{_name_some(broken)}; compute them again, or leave them out"
            )
        return means, first[1].startswith("frames")

    def _load(self, key: bytes, place: bytes) -> NDArray[np.float32]:
        path = os.fsdecode(place.strip(BLANKS))
        try:
            read = read_npy if path.endswith(".npy") else read_ark
            embedding = np.asarray(read(Path(path)), dtype=np.float32)
            if embedding.ndim not in (1, 2) or not embedding.size:
                raise ValueError(f"{embedding.shape} numbers, neither a vector nor a matrix of frames")
        except Exception as error:  # kaldiio raises anything
            problem = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
            raise CorpusError(
                f"{self.name}: the embedding of {key.decode()} can't be read from {path}: {problem}; compute it again"
            ) from None
        return embedding


def _name_some(keys: list[bytes]) -> str:
    others = f" and {len(keys) - NAMED} others" if len(keys) > NAMED else ""
    return ", ".join(key.decode() for key in keys[:NAMED]) + others


def open_embeddings(source: str) -> Embeddings:
    """Find embeddings and their origin.

    Raises:
        CorpusError: the embeddings can't be read; or their run has none, is not complete, or has several layers.
        OutputError: the journals of their run can't be read.
    """
    path = Path(source)
    if is_directory(path) and holds_run(path):
        return _open_run(source, path)
    origin = EmbeddingOrigin(source)
    if is_directory(path.parent) and holds_run(path.parent):
        folder = open_run_folder(path.parent)
        folder.refresh()
        origin = _trace_run(source, folder, folder.find_run().header)
    origin = _of_layer(origin, path)
    return Embeddings(origin, _list_arrays(path) if is_directory(path) else _index_places(path))


def _open_run(source: str, path: Path) -> Embeddings:
    folder = open_run_folder(path)
    folder.refresh()
    header = folder.find_run().header
    form = EMBEDDING_FORMATS.get(str(header.fingerprint["embeddings"]))
    if form is None:
        raise CorpusError(f"{source}: a run without embeddings; predict again with --embeddings ark into another OUT")
    if not folder.is_published(header.input_sha256):
        raise CorpusError(f"{source} is not complete: see e2v status {source}, and run the same command again")
    first, *others = (path / with_stem(form.index, stem) for stem in embedding_stems(layers_of(header.fingerprint)))
    if others:
        raise CorpusError(f"{source}: embeddings of several layers; name one: {', '.join(map(str, [first, *others]))}")
    return Embeddings(_of_layer(_trace_run(source, folder, header), first), _index_places(first))


def _of_layer(origin: EmbeddingOrigin, path: Path) -> EmbeddingOrigin:
    """Note the layer that the name of a list or a folder has."""
    layer = _LAYER_INDEX.fullmatch(path.name)
    return replace(origin, layer=layer and layer[1])


def _trace_run(source: str, folder: RunFolder, header: Header) -> EmbeddingOrigin:
    found = header.fingerprint
    products = {attempt.machine.products for attempt in folder.headers.values()}
    return EmbeddingOrigin(
        name=source,
        output_dir=folder.path,
        model=header.model,
        model_sha256=str(found["model"]),
        engine=str(found["engine"]),
        precision=str(found["precision"]),
        window=float(found["window"]),
        products=", ".join(sorted(products)),
        granularity=str(found["granularity"]),
        dtype=str(found["embedding-dtype"]),
    )


def _index_places(path: Path) -> LineList:
    """Index a list of ids and places.

    Raises:
        CorpusError: it can't be read, or a line has another form.
    """
    with open_list(path) as file:
        return index_lines(file, str(path), _LINE, _refuse_line)


def _refuse_line(line: bytes, origin: str) -> bytes:
    key, *rest = line.split(None, 1)
    check_id(key, origin)
    if rest and _LINE.match(line):
        return key
    raise CorpusError(f"{origin}: a line is: utt-id file.ark:offset, or utt-id file.npy; {FORMS}")


def _list_arrays(folder: Path) -> LineList:
    """List the ``.npy`` of a folder, whose names are ids, percent-encoded where e2v wrote them.

    Raises:
        CorpusError: the folder has no ``.npy``, or a name is no id.
    """
    writer = ListWriter()
    for name in sorted(entry for entry in os.listdir(os.fsencode(folder)) if entry.endswith(b".npy")):
        key = unquote_to_bytes(name.removesuffix(b".npy"))
        writer.add(check_id(key, f"{folder}/{os.fsdecode(name)}"), os.path.join(os.fsencode(folder), name))
    if not len(writer):
        raise CorpusError(f"{folder}: neither a run nor any .npy in it; {FORMS}")
    return writer.finish(str(folder))
