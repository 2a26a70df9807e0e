"""What a run was asked to do, frozen, and the fingerprint that a resume must match."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from e2v_cli.errors import UsageError

EngineName = Literal["e2v", "funasr"]
Granularity = Literal["utterance", "frame"]
EmbeddingFormat = Literal["none", "npy", "ark"]
EmbeddingDtype = Literal["fp32", "fp16"]
ProgressStyle = Literal["bar", "lines", "none"]

NUMERICS = 1
"""Raised whenever a change of the code changes a number: results of different numerics are never mixed in one OUT."""

Fingerprint = Mapping[str, str | float]


@dataclass(frozen=True)
class MaxFailures:
    """How many failures still count as success: a number, or a percentage of the input."""

    limit: float
    percent: bool

    def __str__(self) -> str:
        return f"{self.limit:g}{'%' if self.percent else ''}"

    def allows(self, failed: int, of: int) -> bool:
        """Say whether so many failures of so many utterances are few enough."""
        return failed <= (of * self.limit / 100 if self.percent else self.limit)


@dataclass(frozen=True, order=True)
class Shard:
    """One of the parts of a run that are computed apart, perhaps on many machines at once."""

    count: int
    index: int
    """Counted from 1."""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """How files are named after it: ``2-of-3``."""
        return f"{self.index}-of-{self.count}"


@dataclass(frozen=True)
class Settings:
    """The options of ``e2v predict``, checked against each other.

    Raises:
        UsageError: they contradict each other.
    """

    inputs: tuple[str, ...]
    output_dir: Path | None
    model: str
    engine: EngineName
    device: str
    jobs: int | None
    """None: all cores, or all GPUs."""
    granularity: Granularity
    embeddings: EmbeddingFormat
    embedding_dtype: EmbeddingDtype
    batch_seconds: float | None
    """None: chosen for the device."""
    shard: Shard
    overwrite: bool
    retry_failed: bool
    max_failures: MaxFailures
    progress: ProgressStyle
    log_level: int
    """The least important of ``logging``'s levels that is said on standard error."""

    def __post_init__(self) -> None:
        if self.output_dir is None and (self.embeddings != "none" or self.overwrite or self.retry_failed):
            raise UsageError("--embeddings, --overwrite and --retry-failed need a place for results: add -o OUT")
        if self.overwrite and self.shard.count > 1:
            raise UsageError("--overwrite with --shard would throw away what other shards do: remove OUT first instead")
        if self.batch_seconds is not None and not 0 < self.batch_seconds < math.inf:
            raise UsageError(f"--batch-seconds {self.batch_seconds}: must be a positive number")


def make_fingerprint(settings: Settings, weights_sha256: str, labels: tuple[str, ...]) -> Fingerprint:
    """Collect everything that changes a result, by the names that users know."""
    return {
        "model": weights_sha256,
        "labels": " ".join(labels),
        "engine": settings.engine,
        "granularity": settings.granularity,
        "embeddings": settings.embeddings,
        "embedding-dtype": settings.embedding_dtype,
        "precision": "fp32",
        "batch-seconds": settings.batch_seconds or "auto",
        "results-version": NUMERICS,
    }
