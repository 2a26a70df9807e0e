"""References and predictions of made-up corpora: Kaldi's maps, and tables of posteriors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

CLASSES = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")

REFERENCE = "angry " * 4 + "happy " * 3 + "neutral " * 6 + "sad " * 2
PREDICTED = "angry angry other happy happy unknown happy neutral neutral neutral sad neutral angry sad neutral"
SPEAKERS = "s1 s1 s2 s2 s1 s2 s2 s1 s1 s1 s2 s2 s2 s1 s2"
"""Fifteen utterances."""


def make_ids(count: int) -> list[str]:
    return [f"u{index:02d}" for index in range(count)]


def write_map(path: Path, words: str | Iterable[str], ids: Sequence[str] | None = None) -> Path:
    """Write a map of ids to words, in this order."""
    listed = words.split() if isinstance(words, str) else list(words)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} {word}\n" for key, word in zip(ids or make_ids(len(listed)), listed, strict=True)))
    return path


def write_corpus(folder: Path, **maps: str) -> Path:
    """Write a Kaldi directory: ``utt2emo``, and other maps of its utterances."""
    for name, words in maps.items():
        write_map(folder / name, words)
    return folder


def write_predictions(
    path: Path, posteriors: Sequence[Sequence[float]], labels: Sequence[str] = CLASSES, ids: Sequence[str] | None = None
) -> Path:
    """Write a ``predictions.tsv``."""
    lines = ["\t".join(("utt_id", "label", "score", "duration", "windows", *labels))]
    for key, row in zip(ids or make_ids(len(posteriors)), posteriors, strict=True):
        best = max(row)
        cells = [f"{value:.6f}" for value in (best, *row)]
        lines.append("\t".join((key, labels[list(row).index(best)], cells[0], "1.5000", "1", *cells[1:])))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def sure_of(label: str, labels: Sequence[str] = CLASSES, share: float = 0.92) -> list[float]:
    """Return posteriors that are sure of a label."""
    rest = (1 - share) / (len(labels) - 1)
    return [share if name == label else rest for name in labels]


def read_tsv(path: Path) -> list[Mapping[str, str]]:
    """Read a table with a header."""
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]
