"""The options of the commands of ``e2v probe``, as they are given; nothing here needs NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from e2v_cli.errors import UsageError

Prior = Literal["data", "uniform"]
"""The distribution of classes that the probabilities of a head presume: that of its examples, or the same for all."""
Protocol = Literal["linear", "emotion2vec", "emobox", "superb"]
"""The head that is trained on the embeddings: logistic regression, or the head of a paper by its recipe."""


@dataclass(frozen=True)
class LabelOptions:
    """Options of reading the labels of a reference, as of ``e2v score``."""

    map: Path | None = None
    """A file of words and their classes."""
    merge: tuple[tuple[str, str], ...] = ()
    """Classes, and what each becomes a part of."""
    classes: tuple[str, ...] = ()
    """Words for the classes that count; none: those of the reference."""
    id_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class FitOptions:
    """Options of fitting a head.

    Raises:
        UsageError: a value is out of its range.
    """

    c: float | None = None
    """The inverse of the strength of L2 regularisation; None: chosen by cross-validation."""
    balanced: bool = False
    """Whether all classes weigh the same, whatever their number of examples."""
    prior: Prior = "data"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.c is not None and not 0 < self.c < math.inf:
            raise UsageError(f"--c {self.c:g}: must be a positive number, or auto")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: must be from 0 to {2**32 - 1}")


@dataclass(frozen=True)
class EvalOptions:
    """Options of evaluating probes."""

    folds: str | None = None
    """``speakers``, a number of groups of them, or a file; None: the reference's own, else ``speakers``."""
    protocol: Protocol = "linear"
    allow_shared_speakers: bool = False
    overwrite: bool = False
    """Whether the run that OUT holds is deleted."""
