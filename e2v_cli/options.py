"""The user's options, in frozen groups that the stages take whole, and the fingerprint that a resume must match.

The defaults stand here alone: the command line shows them from here.
"""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from e2v_cli.errors import UsageError
from e2v_cli.network.layers import LayerChoice, format_layers
from e2v_cli.network.products import ProductsName
from e2v_cli.system.text import number_word

EngineName = Literal["e2v", "funasr"]
HubName = Literal["ms", "hf"]
"""The hub of a model: ModelScope, or Hugging Face."""
LabelLanguage = Literal["en", "zh", "both"]
"""The part of a token like ``生气/angry`` that is the label: English, Chinese, or the whole token."""
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Granularity = Literal["utterance", "frame"]
EmbeddingDtype = Literal["fp32", "fp16"]
OneChannel = int | Literal["mix"]
"""A channel of a file with several, counted from 0, or the mean of all."""
Channel = OneChannel | Literal["split"]
"""A channel, the mean of all, or each channel as an utterance of its own."""
IdForm = Literal["path", "stem", "name"]
"""Form of an id that is made of a path: the path without suffix, the file name without suffix, or the file name."""
ResamplerName = Literal["soxr", "torchaudio"]
"""SoX's resampler in its quality HQ, or the default of torchaudio's: FunASR uses the second where it is installed."""

RowFormat = Literal["table", "tsv", "csv", "jsonl"]
"""A format of rows on standard output; ``jsonl`` is JSON Lines: an object per line."""

MapKind = Literal["pca", "none"]
"""Projection of a report's embeddings to a plane: their principal components, or no map."""

ScoreFormat = Literal["text", "json", "tsv", "markdown", "latex"]
"""A format of a score on standard output."""
Missing = Literal["error", "wrong", "skip"]
"""Rule for utterances of a reference that have no prediction."""

MISSING_IN_REPORTS: Missing = "skip"
"""The rule of a report, which is also made of runs at work."""

METRIC_NAMES = ("WA", "UA", "WF1", "MF1", "kappa", "MCC")
"""The metrics of a score."""

NUMERICS = 7
"""Version of the numerics, incremented when code changes results; one OUT never mixes results of two versions."""

PIPE_SECONDS = 600.0
"""Time limit of a command in a list, in seconds, unless an option sets it."""

MAX_SOURCE_BYTES = 10**18
"""The highest limit of what a command or a URL delivers: the kernel's own is not much higher."""

MIN_WINDOW = 1.0
"""Shortest window, in seconds: a shorter one has too little context."""

MIN_SPAN = 0.02
"""Shortest span of a timeline, in seconds: a frame."""

MAX_SPAN = 86_400.0
"""Longest span of a timeline, in seconds: a day."""

BATCH_SECONDS = {"cpu": 10.0, "cuda": 300.0}
"""Audio in one forward pass, by kind of device: as much as stays in a CPU's cache, or fills a GPU."""

Fingerprint = Mapping[str, str | float]

DEVICE_KEYS = frozenset(("device", "batch-seconds"))
"""Keys in which the fingerprints of a run that mixes devices may differ."""

ChangedSources = Literal["refuse", "keep", "recompute"]
"""Rule of a resume for results of utterances whose line in the list names another source now."""


@dataclass(frozen=True)
class MaxFailures:
    """The number of failures that still counts as success, or their percentage of the input."""

    limit: float
    percent: bool

    def __str__(self) -> str:
        return f"{self.limit:g}%" if self.percent else f"{self.limit:.0f}"

    @property
    def word(self) -> str:
        """The limit with all its digits, as the command line reads it; messages leave some out."""
        return f"{str(self.limit).removesuffix('.0')}{'%' if self.percent else ''}"

    def allows(self, failed: int, of: int) -> bool:
        """Return True if ``failed`` failures of ``of`` utterances are few enough."""
        return failed <= (of * self.limit / 100 if self.percent else self.limit)


@dataclass(frozen=True, order=True)
class Shard:
    """One of the parts of a run that are computed apart, perhaps on many machines at once."""

    count: int
    index: int
    """Number of the shard, counted from 1."""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """The shard in file names: ``2-of-3``."""
        return f"{self.index}-of-{self.count}"


@dataclass(frozen=True)
class InputOptions:
    """Options of the input."""

    inputs: tuple[str, ...]
    channel: Channel = "mix"
    pipe_seconds: float | None = None
    """Time limit of the commands in lists; None: commands are refused."""
    resampler: ResamplerName = "soxr"
    """Resampler for audio that is not at 16 kHz."""
    max_source_bytes: int | None = None
    """The most bytes that a command or a URL may deliver; None: by the free space of TMPDIR."""
    hidden: bool = False
    """Whether hidden folders and files are searched, too."""
    id_form: IdForm | None = None
    """Form of the ids made for audio without ids; None: ``path`` in folders, else ``stem``."""
    segments_rttm: Path | None = None
    """Diarisation by which recordings are cut into utterances; None: they are not cut."""

    def __post_init__(self) -> None:
        if self.pipe_seconds is not None and not 0 < self.pipe_seconds < math.inf:
            raise UsageError(f"--pipe-timeout {self.pipe_seconds}: must be a positive number")
        if self.max_source_bytes is not None and not 0 < self.max_source_bytes <= MAX_SOURCE_BYTES:
            raise UsageError(f"--max-source-bytes {self.max_source_bytes}: must be from 1 to {MAX_SOURCE_BYTES} bytes")

    @property
    def allow_pipes(self) -> bool:
        """Whether the commands in lists are run."""
        return self.pipe_seconds is not None


@dataclass(frozen=True)
class ModelRequest:
    """The model that is wanted, its sources, and its labels: their language, and those that count."""

    name: str = "emotion2vec_plus_base"
    """Name in the family, id on a hub, or local folder."""
    hub: HubName = "ms"
    revision: str | None = None
    """A branch, a tag or a commit; None: the newest one on this machine, else on the hub."""
    offline: bool = False
    """Whether the network must not be used."""
    labels: LabelLanguage = "en"
    classes: tuple[str, ...] = ()
    """Words for the labels of a closed set, sorted: the softmax is over these alone; none: over all."""
    merges: tuple[tuple[str, str], ...] = ()
    """Labels, and what each becomes a part of, sorted: their probabilities are summed."""


@dataclass(frozen=True)
class ComputeOptions:
    """Options of computing the network."""

    engine: EngineName = "e2v"
    device: str = "auto"
    jobs: int | None = None
    """Worker processes; None: all cores, or all GPUs."""
    precision: Precision = "fp32"
    batch_seconds: float | None = None
    """Seconds of audio in one forward pass; None: chosen for the device."""
    window: float = 60.0
    """Longest window, in seconds: longer utterances are encoded in several."""
    products: ProductsName | None = None
    """The library that multiplies on a CPU, in fp32; None: the fastest of this CPU."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+(,[0-9]+)*)?", self.device):
            raise UsageError(f"--device {self.device}: unknown; choose auto, cpu, cuda or cuda:0,2")
        if self.batch_seconds is not None and not 0 < self.batch_seconds < math.inf:
            raise UsageError(f"--batch-seconds {self.batch_seconds}: must be a positive number")
        if not MIN_WINDOW <= self.window < math.inf:
            raise UsageError(f"--window {self.window:g}: must be at least {MIN_WINDOW:g} s")
        if self.engine == "funasr" and self.precision != "fp32":
            raise UsageError(f"upstream's engine has no --precision {self.precision}: leave out --engine funasr")

    def batch_seconds_on(self, device: str) -> float:
        """Return the audio in one forward pass on a kind of device, cpu or cuda: seconds."""
        return self.batch_seconds or BATCH_SECONDS[device]


@dataclass(frozen=True)
class ResultOptions:
    """The results to write, and their folder."""

    output_dir: Path | None = None
    """OUT; None: rows go to standard output."""
    granularity: Granularity = "utterance"
    embeddings: str = "none"
    """``none``, or a name of ``results.formats.EMBEDDING_FORMATS``."""
    dtype: EmbeddingDtype = "fp32"
    """Precision of embeddings."""
    layers: tuple[LayerChoice, ...] = ()
    """Layers that are embedded, sorted, each with files of its own; none: the last, in the files of no choice."""
    compress: bool = False
    """Whether matrices in archives have Kaldi's compressed form."""
    timelines: tuple[float, ...] = ()
    """Seconds of a span in each timeline, ascending."""
    timeline_formats: tuple[str, ...] = ()
    """Names of ``results.formats.TIMELINE_FORMATS``, sorted: timelines are written in these, too."""
    join: bool = False
    """Whether neighbouring spans with the same label are joined."""

    def __post_init__(self) -> None:
        if self.output_dir is None and self.embeddings != "none":
            raise UsageError(f"--embeddings {self.embeddings}: needs an output folder; add -o OUT")
        if self.compress and (self.embeddings != "ark" or self.granularity != "frame"):
            raise UsageError("--compress is for matrices in archives: add --granularity frame --embeddings ark")
        if not self.timelines and (self.timeline_formats or self.join):
            raise UsageError("--timeline-format and --join need a timeline: add --timeline 1")
        for seconds in self.timelines:
            if not MIN_SPAN <= seconds <= MAX_SPAN:
                raise UsageError(f"--timeline {seconds:g}: must be from {MIN_SPAN:g} s, one frame, to {MAX_SPAN:g} s")
        if self.output_dir is None and (self.timeline_formats or len(self.timelines) > 1):
            raise UsageError("--timeline-format and more than one --timeline need an output folder: add -o OUT")


@dataclass(frozen=True)
class RowOptions:
    """Options of rows on standard output."""

    format: RowFormat | None = None
    """Format of the rows; None: a table on a terminal, else TSV."""
    columns: tuple[str, ...] = ()
    """Names of columns, in the order in which they are printed; empty: the format's own choice."""
    header: bool = True

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the command line that give these options; none where all are defaults."""
        return (
            *(("--format", self.format) if self.format else ()),
            *(("--columns", ",".join(self.columns)) if self.columns else ()),
            *(() if self.header else ("--no-header",)),
        )


@dataclass(frozen=True)
class RunOptions:
    """Options of the run: its shard, and the treatment of earlier results and of failures."""

    shard: Shard = Shard(1, 1)
    overwrite: bool = False
    retry_failed: bool = False
    changed: ChangedSources = "refuse"
    mix_devices: bool = False
    """Whether CPUs and GPUs may compute parts of the same run."""
    max_failures: MaxFailures = MaxFailures(0, percent=False)
    progress: bool | None = None
    """Whether to show a bar; None: on a terminal, and elsewhere a line now and then."""
    log_level: int = logging.WARNING
    """The lowest of ``logging``'s levels that is shown on standard error."""

    @property
    def quiet(self) -> bool:
        """Whether only errors are shown on standard error."""
        return self.log_level >= logging.ERROR

    def __post_init__(self) -> None:
        if self.overwrite and self.shard.count > 1:
            raise UsageError(
                "--overwrite with --shard would delete the results of other shards: remove OUT first instead"
            )


@dataclass(frozen=True)
class Invocation:
    """Record of how a process was started, with its audio as in ``InputOptions``; without the secrets in URLs."""

    command: tuple[str, ...] = ()
    """The program and its arguments."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of the environment that set options."""
    folder: str = ""
    """The folder that paths of the audio are relative to: the current one, or that of the run of embeddings."""
    inputs: tuple[str, ...] = ()
    hidden: bool = False
    segments_rttm: str | None = None


@dataclass(frozen=True)
class PredictOptions:
    """All options of ``e2v predict``, checked against each other.

    Raises:
        UsageError: they contradict each other.
    """

    input: InputOptions
    model: ModelRequest = ModelRequest()
    compute: ComputeOptions = ComputeOptions()
    results: ResultOptions = ResultOptions()
    run: RunOptions = RunOptions()
    rows: RowOptions = RowOptions()
    invocation: Invocation = field(default=Invocation(), compare=False)

    def __post_init__(self) -> None:
        results = self.results
        if results.output_dir is None and (self.run.overwrite or self.run.retry_failed):
            option = "--overwrite" if self.run.overwrite else "--retry-failed"
            raise UsageError(f"{option}: needs an output folder; add -o OUT")
        is_frame, is_fp16 = results.granularity == "frame", results.dtype == "fp16"
        if results.embeddings == "none" and (is_frame or is_fp16 or results.layers):
            option = "--granularity frame" if is_frame else "--embedding-dtype fp16" if is_fp16 else "--layers"
            raise UsageError(f"{option}: is of embeddings, and none are written; add -o OUT --embeddings npy, or ark")
        if self.results.output_dir is None and (self.run.changed != "refuse" or self.run.mix_devices):
            option = "--mix-devices" if self.run.changed == "refuse" else f"--{self.run.changed}-changed"
            raise UsageError(f"{option} needs an output folder: add -o OUT")
        if self.results.output_dir is not None and self.rows.words:
            raise UsageError(
                f"{self.rows.words[0]} is for rows on standard output: leave it out, "
                f"and then run e2v rows {shlex.join([str(self.results.output_dir), *self.rows.words])}"
            )
        for option, is_given in (("--timeline", results.timelines), ("--layers", results.layers)):
            if is_given and self.compute.engine == "funasr":
                raise UsageError(f"upstream's engine has no {option}: leave out --engine funasr")


@dataclass(frozen=True)
class ReportOptions:
    """Options of the page of a run."""

    path: Path | None = None
    """File of the page; None: ``report.html`` in OUT."""
    clips: int = 60
    """The most utterances that can be played."""
    clip_seconds: float = 15.0
    """The most seconds of an utterance that are played."""
    projection: MapKind = "pca"
    """Projection of the embeddings to the map."""
    title: str | None = None
    """Title of the page; None: the name of OUT."""
    overwrite: bool = False
    allow_pipes: bool = False
    """Whether the commands in the run's lists are run."""

    def __post_init__(self) -> None:
        if self.clips < 0:
            raise UsageError(f"--clips {self.clips}: must be 0 or more")
        if not 0.1 <= self.clip_seconds <= 600:
            raise UsageError(f"--clip-seconds {self.clip_seconds:g}: must be from 0.1 to 600 s")


@dataclass(frozen=True)
class ScoreOptions:
    """Options of comparing predictions with a reference, by the names of the command's options.

    Raises:
        UsageError: a value is out of its range.
    """

    map: Path | None = None
    """A file of words and their classes."""
    merge: tuple[tuple[str, str], ...] = ()
    """Classes, and what each becomes a part of."""
    classes: tuple[str, ...] = ()
    """Words for the classes that count; none: those of the reference."""
    closed: bool = False
    """Whether the headline is of answers among these classes alone."""
    by: tuple[str, ...] = ()
    """Groupings: ``spk``, ``gender``, ``lang``, or files."""
    folds: str | None = None
    """A file of folds, or ``none``; None: the reference's own, if it has any."""
    ci: str | None = None
    """Resampled units: ``speaker``, ``utterance``, a file of groups, or ``none``; None: speakers, if known."""
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0
    missing: Missing = "error"
    id_column: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise UsageError(f"--confidence {self.confidence:g}: must be between 0 and 1, as in 0.95")
        if self.resamples < 1:
            raise UsageError(f"--resamples {self.resamples}: must be at least 1; --ci none computes no interval")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must be at least 0")


@dataclass(frozen=True)
class JobOptions:
    """Options of the jobs of an array."""

    num_shards: int
    array_limit: int | None = None
    """Elements of the array that may run at once; None: no limit."""
    dry_run: bool = False
    """Whether scripts are only written, not submitted."""


def make_fingerprint(options: PredictOptions, weights_sha256: str, labels: tuple[str, ...], device: str) -> Fingerprint:
    """Collect everything that changes a result, by the names that users know; ``device``: the kind, cpu or cuda."""
    compute, results, channel = options.compute, options.results, options.input.channel
    return {
        "model": weights_sha256,
        "labels": " ".join(labels),
        "classes": ",".join(options.model.classes) or "all",
        "merge": ",".join(map("=".join, options.model.merges)) or "none",
        "engine": compute.engine,
        "granularity": results.granularity,
        "layers": format_layers(results.layers),
        "embeddings": results.embeddings,
        "embedding-dtype": results.dtype,
        "device": device,
        "precision": compute.precision,
        "compress": "yes" if results.compress else "no",
        "batch-seconds": compute.batch_seconds_on(device),
        "window": compute.window,
        "timeline": describe_timelines(results.timelines),
        "channel": channel if isinstance(channel, str) else channel + 1,
        "resampler": options.input.resampler,
        "id": options.input.id_form or "default",
        "segments-rttm": "no" if options.input.segments_rttm is None else "yes",
        "results-version": NUMERICS,
    }


def describe_timelines(timelines: tuple[float, ...]) -> str | float:
    """Return the value of ``timeline`` in a fingerprint: ``off``, the seconds of a span, or several like ``1 60``."""
    if len(timelines) == 1:
        return timelines[0]
    return " ".join(map(number_word, timelines)) or "off"


def parse_timelines(value: str | float) -> tuple[float, ...]:
    """Parse a value that ``describe_timelines`` returned."""
    return () if value == "off" else tuple(map(float, str(value).split()))
