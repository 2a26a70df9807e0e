"""The formats of embeddings and timelines: a new one is an entry here, and a file with the code that writes it.

``e2v --help`` reads these tables, so nothing here imports NumPy; a writer is imported when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2v_cli.inference.kept import KEPT_FILES
from e2v_cli.network.layers import LAST_LAYER, LayerChoice, parse_layers
from e2v_cli.results.timeline_formats import format_audacity, format_rttm, format_text_grid
from e2v_cli.system.text import number_word

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from e2v_cli.options import Fingerprint, ResultOptions, Shard
    from e2v_cli.results.embeddings import EmbeddingWriter
    from e2v_cli.results.spans import Track

TIMELINE_TABLE = "timeline.tsv"
"""The file of a timeline that every run with one has."""

NO_EMBEDDINGS = "none"
"""The value of ``--embeddings`` for no embeddings."""


STEM = "embeddings"
"""Prefix of the names of all files of embeddings."""

_STEMS_OF_LAYERS = (f"{STEM}.layer[0-9]*", f"{STEM}.mean[0-9]*-[0-9]*")
"""Patterns of this prefix where layers are chosen."""


@dataclass(frozen=True)
class EmbeddingFormat:
    """A value of ``--embeddings``: a format of embeddings in OUT."""

    name: str
    open: Callable[[Path, ResultOptions, Shard, str], EmbeddingWriter]
    """Open a worker's writer in OUT; the last argument is the prefix of its file names, instead of STEM."""
    index: str
    """The file of OUT that lists utterances and the places of their embeddings."""
    separator: str
    """The separator of an id and a place in that file."""
    files: str
    """The files that hold embeddings: a pattern relative to OUT; in a folder, there is one for each utterance."""
    num_bytes: Callable[[int, int | None, int, ResultOptions], int]
    """Bytes of an utterance on disk, from the bytes of its key, rows (None: a vector), columns, and the options."""
    exact_size: bool = True
    """Whether ``num_bytes`` is exact; otherwise it is an upper bound."""
    read: Callable[[Path], NDArray[np.float32]] | None = None
    """Read an embedding back unchanged; the path is OUT / the text of its place. None: the format can't be read."""

    @property
    def file_per_utterance(self) -> bool:
        """Whether each utterance has a file of its own."""
        return "/" in self.files


@dataclass(frozen=True)
class TimelineFormat:
    """A word of ``--timeline-format``: a format of timelines for other tools."""

    name: str
    path: str
    """The file relative to OUT, ``timeline.rttm``; or one for each recording: ``audacity/*.txt``, * for its id."""
    format: Callable[[str, Sequence[Track]], str]
    """Format a recording: its id, and its utterances, at least one. In one file, each utterance comes alone."""


def _open_npy(output_dir: Path, results: ResultOptions, shard: Shard, stem: str) -> EmbeddingWriter:
    from e2v_cli.results.embeddings import NpyWriter

    return NpyWriter(output_dir, results, shard, stem)


def _open_ark(output_dir: Path, results: ResultOptions, shard: Shard, stem: str) -> EmbeddingWriter:
    from e2v_cli.results.embeddings import ArkWriter

    return ArkWriter(output_dir, results, shard, stem)


def _open_ark_text(output_dir: Path, results: ResultOptions, shard: Shard, stem: str) -> EmbeddingWriter:
    from e2v_cli.results.embeddings import ArkWriter

    return ArkWriter(output_dir, results, shard, stem, text=True)


def _read_npy(place: Path) -> NDArray[np.float32]:
    from e2v_cli.results.embeddings import read_npy

    return read_npy(place)


def _read_ark(place: Path) -> NDArray[np.float32]:
    from e2v_cli.results.embeddings import read_ark

    return read_ark(place)


def _npy_bytes(_key_bytes: int, rows: int | None, columns: int, results: ResultOptions) -> int:
    """Return the bytes of a file: a header of 128 bytes, and the numbers."""
    return 128 + (1 if rows is None else rows) * columns * (2 if results.dtype == "fp16" else 4)


def _ark_bytes(key_bytes: int, rows: int | None, columns: int, results: ResultOptions) -> int:
    """Return the bytes of a record: key and blank; a mark of five bytes; one or two sizes of five bytes; 32-bit floats.

    A compressed matrix has a head of 21 or 22 bytes; 8 bytes a column and 1 a value, or 2 a value of up to 8 rows.
    """
    if results.compress and rows is not None:
        return key_bytes + 1 + (22 + 2 * rows * columns if rows <= 8 else 21 + (8 + rows) * columns)
    head = key_bytes + 1 + (10 if rows is None else 15)
    return head + (1 if rows is None else rows) * columns * 4


def _ark_text_bytes(key_bytes: int, rows: int | None, columns: int, _results: ResultOptions) -> int:
    """Return the most bytes of a record: key and blank; brackets and line breaks; 16 for each number with its blank."""
    head = key_bytes + 1 + (5 if rows is None else 4 + 3 * rows)
    return head + (1 if rows is None else rows) * columns * 16


EMBEDDING_FORMATS: dict[str, EmbeddingFormat] = {
    form.name: form
    for form in (
        EmbeddingFormat(
            name="npy",
            open=_open_npy,
            index="embeddings.tsv",
            separator="\t",
            files="embeddings/*.npy",
            num_bytes=_npy_bytes,
            read=_read_npy,
        ),
        EmbeddingFormat(
            name="ark",
            open=_open_ark,
            index="embeddings.scp",
            separator=" ",
            files="embeddings.*-of-*.*.ark",
            num_bytes=_ark_bytes,
            read=_read_ark,
        ),
        EmbeddingFormat(
            name="ark,t",
            open=_open_ark_text,
            index="embeddings.scp",
            separator=" ",
            files="embeddings.*-of-*.*.ark",
            num_bytes=_ark_text_bytes,
            exact_size=False,
            read=_read_ark,
        ),
    )
}

TIMELINE_FORMATS: dict[str, TimelineFormat] = {
    form.name: form
    for form in (
        TimelineFormat("rttm", "timeline.rttm", format_rttm),
        TimelineFormat("audacity", "audacity/*.txt", format_audacity),
        TimelineFormat("textgrid", "textgrid/*.TextGrid", format_text_grid),
    )
}


def result_names() -> tuple[str, ...]:
    """Return the names of all final files that a run may have, except those that ``data_patterns`` has."""
    return (
        *("predictions.tsv", "failures.tsv", "run.json", "utt2dur", "utt2num_frames", "frame_shift"),
        *dict.fromkeys(form.index for form in EMBEDDING_FORMATS.values()),
        *("utt2emo", TIMELINE_TABLE),
        *(form.path for form in TIMELINE_FORMATS.values() if "/" not in form.path),
    )


def data_patterns() -> tuple[str, ...]:
    """Return patterns, relative to OUT, of workers' files besides journals, and of other final files."""
    paths = [form.path for form in TIMELINE_FORMATS.values()]
    embeddings = dict.fromkeys(path for form in EMBEDDING_FORMATS.values() for path in (form.files, form.index))
    return (
        *dict.fromkeys(form.files for form in EMBEDDING_FORMATS.values()),
        *(with_stem(path, stem) for path in embeddings for stem in _STEMS_OF_LAYERS),
        "timeline.*-of-*.*",
        KEPT_FILES,
        *(path for path in paths if "/" in path),
        *(with_suffix(path, "-[0-9]*") for path in (TIMELINE_TABLE, *paths)),
    )


def embedding_stems(layers: Sequence[LayerChoice]) -> tuple[str, ...]:
    """Return the prefix of the file names of each embedding: STEM, or ``embeddings.layer6`` for a choice."""
    return tuple(f"{STEM}.{choice.name}" for choice in layers) or (STEM,)


def with_stem(path: str, stem: str) -> str:
    """Return the path of a file of embeddings that begins with another stem."""
    return f"{stem}{path.removeprefix(STEM)}"


def layers_of(fingerprint: Fingerprint) -> tuple[LayerChoice, ...]:
    """Return the layers that a run embeds; none: the last."""
    return parse_layers(str(fingerprint.get("layers", LAST_LAYER)))


def timeline_suffixes(timelines: Sequence[float]) -> tuple[str, ...]:
    """Return the suffix of each timeline's file names: empty for a single timeline, else like ``-60``."""
    return ("",) if len(timelines) == 1 else tuple(f"-{number_word(seconds)}" for seconds in timelines)


def with_suffix(path: str, suffix: str) -> str:
    """Add a suffix to the path of a file, ``timeline-60.tsv``, or of the files of a folder, ``audacity-60/*.txt``."""
    folder, slash, name = path.rpartition("/")
    if slash:
        return f"{folder}{suffix}/{name}"
    stem, dot, extension = name.rpartition(".")
    return f"{stem}{suffix}{dot}{extension}"


def timeline_paths(timelines: Sequence[float], formats: Sequence[str]) -> set[str]:
    """Return the files of timelines in known formats, relative to OUT; patterns for those of single recordings."""
    paths = [TIMELINE_TABLE, *(form.path for name, form in TIMELINE_FORMATS.items() if name in formats)]
    return {with_suffix(path, suffix) for suffix in timeline_suffixes(timelines) for path in paths}


def keeps_frames(fingerprint: Fingerprint) -> bool:
    """Whether a run has the frames of all utterances in the last layer on disk, as they were computed."""
    form = EMBEDDING_FORMATS.get(str(fingerprint.get("embeddings")))
    exact = {"granularity": "frame", "embedding-dtype": "fp32", "compress": "no"}
    has_last = form is not None and form.read is not None and not layers_of(fingerprint)
    return has_last and exact.items() <= fingerprint.items()


def draft_name(shard: Shard) -> str:
    """Return the base name of a shard's drafts of files of single utterances."""
    return f"npy.{shard.name}"
