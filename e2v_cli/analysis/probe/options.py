"""The options of the commands of ``e2v probe``, as they are given; nothing here needs NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LabelOptions:
    """How the labels of a reference are read, as ``e2v score`` reads them."""

    map: Path | None = None
    """A file of words and their classes."""
    merge: tuple[tuple[str, str], ...] = ()
    """Classes, and what each becomes a part of."""
    classes: tuple[str, ...] = ()
    """Words for the classes that count; none: those of the reference."""
    id_column: str | None = None
    label_column: str | None = None
