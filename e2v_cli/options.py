"""What a run was asked to do, frozen, and the fingerprint that a resume must match."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from e2v_cli.errors import UsageError

EngineName = Literal["e2v", "funasr"]


HubName = Literal["ms", "hf"]
"""ModelScope, Hugging Face."""


LabelLanguage = Literal["en", "zh", "both"]
"""Which side of the ``/`` in a model's ``tokens.txt`` its labels are, or all of it."""


Precision = Literal["fp32", "tf32", "bf16", "fp16"]


Granularity = Literal["utterance", "frame"]


EmbeddingFormat = Literal["none", "npy", "ark", "ark,t"]


EmbeddingDtype = Literal["fp32", "fp16"]


ProgressStyle = Literal["bar", "lines", "none"]


TimelineFormat = Literal["rttm", "ctm", "audacity", "textgrid"]


OneChannel = int | Literal["mix"]
"""A channel of a file with several, counted from 0, or the mean of all."""


Channel = OneChannel | Literal["split"]
"""The same, or each of them as an utterance of its own."""


NUMERICS = 3
"""Raised whenever a change of the code changes a number: results of different numerics are never mixed in one OUT."""


DEFAULT_WINDOW = 60.0
"""Seconds: longer utterances are encoded in windows, unless an option says otherwise."""


MIN_WINDOW = 1.0
"""Seconds: in shorter windows there is little to be heard."""


MIN_SPAN = 0.02
"""Seconds of a frame, and so the shortest span of a timeline."""


MAX_SPAN = 86_400.0
"""Seconds of a day."""


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
class ModelRequest:
    """Which model is wanted, and where it may come from."""

    name: str
    """Of the family, an id on a hub, or a local folder."""
    hub: HubName = "ms"
    revision: str | None = None
    """A branch, a tag or a commit; None: the newest there is on this machine, else on the hub."""
    offline: bool = False
    """Whether the network must not be used."""


@dataclass(frozen=True)
class EngineOptions:
    """What is computed of every utterance, and how."""

    granularity: Granularity
    window: float
    """Seconds: a longer utterance is encoded in windows of at most so many."""
    span_samples: int | None
    """Samples at 16 kHz of a span of the timeline; None: no timeline."""
    precision: Precision = "fp32"


@dataclass(frozen=True)
class EmbeddingOptions:
    """How embeddings are written."""

    format: EmbeddingFormat
    dtype: EmbeddingDtype
    compress: bool


@dataclass(frozen=True)
class Settings:
    """The options of ``e2v predict``, checked against each other.

    Raises:
        UsageError: they contradict each other.
    """

    inputs: tuple[str, ...]
    output_dir: Path | None
    model: ModelRequest
    labels: LabelLanguage
    engine: EngineName
    device: str
    jobs: int | None
    """None: all cores, or all GPUs."""
    precision: Precision
    granularity: Granularity
    embeddings: EmbeddingFormat
    embedding_dtype: EmbeddingDtype
    compress: bool
    """Write matrices in Kaldi's compressed form."""
    batch_seconds: float | None
    """None: chosen for the device."""
    window: float
    """Seconds: longer utterances are encoded in windows of at most so many."""
    timeline: float | None
    """Seconds of a span; None: no timeline."""
    timeline_formats: tuple[TimelineFormat, ...]
    """In which the timeline is written besides its table."""
    join: bool
    """Join neighbouring spans with the same label."""
    channel: Channel
    pipe_seconds: float | None
    """The time limit of commands in lists; None: they are not run."""
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
        if not MIN_WINDOW <= self.window < math.inf:
            raise UsageError(f"--window {self.window:g}: must be at least {MIN_WINDOW:g} s")
        if self.compress and (self.embeddings != "ark" or self.granularity != "frame"):
            raise UsageError("--compress is for matrices in archives: add --granularity frame --embeddings ark")
        if self.engine == "funasr" and self.precision != "fp32":
            raise UsageError(f"--precision {self.precision} is not upstream's: leave out --engine funasr")
        if self.pipe_seconds is not None and not 0 < self.pipe_seconds < math.inf:
            raise UsageError(f"--pipe-timeout {self.pipe_seconds}: must be a positive number")
        self._check_timeline()

    def _check_timeline(self) -> None:
        if self.timeline is None:
            if self.timeline_formats or self.join:
                raise UsageError("--timeline-format and --join need a timeline: add --timeline 1")
            return
        if not MIN_SPAN <= self.timeline <= MAX_SPAN:
            raise UsageError(f"--timeline {self.timeline:g}: must be from {MIN_SPAN:g} s, one frame, to {MAX_SPAN:g} s")
        if self.output_dir is None:
            raise UsageError("--timeline needs a place for it: add -o OUT")
        if self.engine == "funasr":
            raise UsageError("--timeline is not upstream's: leave out --engine funasr")


def make_fingerprint(settings: Settings, weights_sha256: str, labels: tuple[str, ...]) -> Fingerprint:
    """Collect everything that changes a result, by the names that users know."""
    return {
        "model": weights_sha256,
        "labels": " ".join(labels),
        "engine": settings.engine,
        "granularity": settings.granularity,
        "embeddings": settings.embeddings,
        "embedding-dtype": settings.embedding_dtype,
        "precision": settings.precision,
        "compress": "yes" if settings.compress else "no",
        "batch-seconds": settings.batch_seconds or "auto",
        "window": settings.window,
        "timeline": settings.timeline or "off",
        "channel": settings.channel if isinstance(settings.channel, str) else settings.channel + 1,
        "results-version": NUMERICS,
    }
