"""``e2v plan``: what a run would meet, write and take, from lists and headers alone.

No model is loaded, no audio decoded, no command run and no server asked. So what is wrong further on in a file, or with
what a command or a server gives, is not seen; and an MP3 file that does not say how long it is has the length that
libsndfile guesses.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from e2v_cli.audio.decode import AudioOptions, HeaderInfo, count_channels, inspect_headers
from e2v_cli.audio.sources import is_pipe, is_url
from e2v_cli.corpus.blocks import group_recordings
from e2v_cli.corpus.channels import split_channels
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.inputs import read_corpus
from e2v_cli.corpus.lists import BYTE_ORDER_MARK
from e2v_cli.errors import CorpusError
from e2v_cli.models.catalog import SAMPLE, find_published
from e2v_cli.models.config import parse_feature_encoder_spec
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.network.config import NetworkConfig
from e2v_cli.options import DEFAULT_WINDOW, Channel, EmbeddingDtype, EmbeddingFormat, Granularity, ModelRequest
from e2v_cli.records import SAMPLE_RATE, Failure, Utterance
from e2v_cli.results.tables import kaldi_key
from e2v_cli.system.text import clock, columns, tsv_row
from e2v_cli.workers.devices import count_cores

HEADERS_AT_ONCE = 8
"""Threads that read headers: most of them wait for a disk or a server of files."""

SHOWN_FAILURES = 10

BASE_SPEED = 8.4
"""Seconds of audio that a core encodes in a second, at base shape; README.md says how it was measured."""

BASE = NetworkConfig(
    conv_layers=parse_feature_encoder_spec("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"),
    conv_norm="layer",
    embed_dim=768,
    num_heads=12,
    prenet_depth=4,
    depth=8,
    mlp_dim=3072,
    norm_eps=1e-5,
    norm_affine=True,
    layer_norm_first=False,
    normalize=True,
    num_extra_tokens=10,
    conv_pos_depth=5,
    conv_pos_kernel=19,
    conv_pos_groups=16,
    conv_pos_pre_ln=False,
    num_alibi_heads=12,
    alibi_scales=(1, 12),
)

LARGE = replace(
    BASE, embed_dim=1024, num_heads=16, prenet_depth=8, depth=16, mlp_dim=4096, num_alibi_heads=16, alibi_scales=(1, 16)
)
"""The shapes in which models of the family are published."""

_CHUNK = 1024
"""Utterances that are in memory at once."""


@dataclass(frozen=True)
class PlanOptions:
    """The options of ``e2v plan``: those of ``e2v predict`` that change what it says."""

    inputs: tuple[str, ...]
    model: str
    granularity: Granularity
    embeddings: EmbeddingFormat
    embedding_dtype: EmbeddingDtype
    jobs: int | None
    """None: all cores."""
    channel: Channel
    allow_pipes: bool


@dataclass(frozen=True)
class Forecast:
    """What is to be expected of a run."""

    text: str
    num_failures: int


@dataclass
class _Tally:
    """What is kept of all utterances: no more for ten million than for ten."""

    options: PlanOptions
    config: NetworkConfig
    recordings: int = 0
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    """Recordings of each sample rate, and of each number of channels."""
    commands: int = 0
    urls: int = 0
    unknown: int = 0
    """Of the commands and URLs, those whose durations nothing tells."""
    stored: int = 0
    """Utterances that there will be embeddings of."""
    seconds: float = 0.0
    num_bytes: int = 0
    """Of embeddings."""
    reasons: Counter[str] = field(default_factory=Counter)
    first_failures: list[Failure] = field(default_factory=list)
    _met: object = None
    """The recording that was counted last."""
    _outlined: object = None

    def meet(self, utterance: Utterance) -> None:
        """Count its recording, unless the utterance before was of the same."""
        if utterance.source and utterance.recording != self._met:
            self.recordings += 1
            self._met = utterance.recording

    def fail(self, failure: Failure) -> None:
        """Count an utterance that would fail."""
        self.reasons[failure.reason] += 1
        self.first_failures.append(failure)
        self.first_failures.sort(key=lambda failure: failure.utterance.index)
        del self.first_failures[SHOWN_FAILURES:]

    def outline(self, outline: HeaderInfo) -> None:
        """Count an utterance whose header was read."""
        if outline.utterance.recording != self._outlined:
            self.rates[outline.rate] += 1
            self.channels[outline.num_channels] += 1
            self._outlined = outline.utterance.recording
        self._store(outline.utterance, outline.duration)

    def pass_over(self, utterance: Utterance, duration: float) -> None:
        """Count an utterance that is behind a command or a URL; of unknown duration (NaN), perhaps."""
        self.commands += is_pipe(utterance.source)
        self.urls += not is_pipe(utterance.source)
        self.unknown += math.isnan(duration)
        self._store(utterance, 0.0 if math.isnan(duration) else duration)

    def _store(self, utterance: Utterance, duration: float) -> None:
        self.stored += 1
        self.seconds += duration
        num_values = self.config.embed_dim
        if self.options.granularity == "frame":
            num_values *= self.config.num_frames(int(duration * SAMPLE_RATE + 0.5))
        match self.options.embeddings:
            case "npy":
                self.num_bytes += 128 + num_values * (2 if self.options.embedding_dtype == "fp16" else 4)
            case "ark":  # the key and a blank; a mark of five bytes; a size of five, or two of them; floats
                head = 1 + (15 if self.options.granularity == "frame" else 10)
                self.num_bytes += len(kaldi_key(utterance.utt_id).encode()) + head + num_values * 4


def forecast(options: PlanOptions) -> Forecast:
    """Say what is to be expected of a run.

    Raises:
        CorpusError: the input can't be read.
        ModelError: there is no such model, or its folder is not one.
        OSError: the machine is to blame, not a recording.
    """
    corpus = read_corpus(options.inputs, options.allow_pipes)
    config = _find_shape(options.model)
    speakers = _count_speakers(options.inputs, corpus)
    tally = _Tally(options, config)
    if options.channel == "split":
        corpus = split_channels(corpus, _count_channels, HEADERS_AT_ONCE)
    _survey(
        corpus,
        tally,
        AudioOptions(config.receptive_field, window=DEFAULT_WINDOW, channel=options.channel, pipe_seconds=None),
    )
    return Forecast(_describe(options, len(corpus), speakers, tally), tally.reasons.total())


def _survey(corpus: Corpus, tally: _Tally, options: AudioOptions) -> None:
    """Read the headers of all recordings."""
    # the segments of a recording one behind the other
    order = (
        range(len(corpus)) if corpus.recording_groups is None else np.argsort(corpus.recording_groups, kind="stable")
    )
    outline = partial(_outline, options=options)
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        for first in range(0, len(corpus), _CHUNK):
            to_read = []
            for index in order[first : first + _CHUNK]:
                utterance = corpus[int(index)]
                tally.meet(utterance)
                if utterance.fault or not _is_far(utterance):
                    to_read.append(utterance)
                    continue
                tally.pass_over(utterance, float(corpus.durations[utterance.index]))
            for item in chain.from_iterable(pool.map(outline, group_recordings(to_read))):
                if isinstance(item, Failure):
                    tally.fail(item)
                else:
                    tally.outline(item)


def _outline(utterances: Sequence[Utterance], options: AudioOptions) -> list[HeaderInfo | Failure]:
    return list(inspect_headers(utterances, options))


def _is_far(utterance: Utterance) -> bool:
    """Say whether a command or a server would have to be asked."""
    return is_pipe(utterance.source) or is_url(utterance.source)


def _count_channels(utterance: Utterance, stopping: Callable[[], bool]) -> int:
    return 0 if _is_far(utterance) else count_channels(utterance, stopping, pipe_seconds=None)


def _count_speakers(inputs: Sequence[str], corpus: Corpus) -> tuple[int, int] | None:
    """Count speakers, and utterances that have none; None where no data directory tells."""
    folders = [Path(item) for item in inputs if Path(item, "wav.scp").exists()]
    paths = [folder / "utt2spk" for folder in folders if (folder / "utt2spk").exists()]
    if not paths:
        return None
    lines = np.fromiter(chain.from_iterable(map(_hash_speakers, paths)), dtype=np.int64).reshape(-1, 2)
    places = corpus.index.find(lines[:, 0])
    return len(np.unique(lines[places >= 0, 1])), len(corpus) - len(np.unique(places[places >= 0]))


def _hash_speakers(path: Path) -> Iterator[int]:
    """Hash each utt-id and its speaker, in turn."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                cells = line.removeprefix(BYTE_ORDER_MARK).split()
                if len(cells) not in (0, 2):
                    raise CorpusError(f"{path}:{number}: a line is: utt-id speaker")
                yield from map(hash, cells)
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from None


def _find_shape(name: str) -> NetworkConfig:
    """Find the shape of a model: as its folder says, else as it was published."""
    published = None if Path(name).is_dir() else find_published(name)
    if published is None:
        return read_model(name, find_model(ModelRequest(name, offline=True))).config
    return LARGE if "large" in published.name else BASE


def _count_operations(config: NetworkConfig) -> float:
    """Count the multiply-adds for a second of audio, without those of attention that grow with the utterance."""
    rate, channels, operations = float(SAMPLE_RATE), 1, 0.0
    for layer in config.conv_layers:
        rate /= layer.stride
        operations += rate * layer.kernel * channels * layer.channels
        channels = layer.channels
    dim = config.embed_dim
    positional = config.conv_pos_depth * config.conv_pos_kernel * dim * dim / config.conv_pos_groups
    blocks = (config.prenet_depth + config.depth) * (4 * dim * dim + 2 * dim * config.mlp_dim)
    return operations + rate * (channels * dim + positional + blocks)


def _describe(options: PlanOptions, size: int, speakers: tuple[int, int] | None, tally: _Tally) -> str:
    """Lay out all that was found, and the command that fits."""
    least = "at least " if tally.unknown else ""
    found = [
        ("utterances", str(size)),
        ("recordings", str(tally.recordings)),
        ("speakers", _describe_speakers(*speakers) if speakers else ""),
        ("audio", f"{least}{tally.seconds / 3600:.2f} hours ({clock(tally.seconds)})"),
        ("sample rates", _list_counts({f"{rate} Hz": count for rate, count in sorted(tally.rates.items())})),
        ("channels", _list_counts({str(channels): count for channels, count in sorted(tally.channels.items())})),
        ("not looked at", _describe_far(tally)),
        ("would fail", str(tally.reasons.total())),
        *(
            (f"  {reason}", str(count))
            for reason, count in sorted(tally.reasons.items(), key=lambda item: (-item[1], item))
        ),
    ]
    needed = [
        ("model", f"{options.model}: {tally.config.embed_dim} dimensions"),
        ("embeddings", _describe_embeddings(options, least, tally)),
        ("time", _describe_time(options, least, tally)),
    ]
    width = max(len(name) for name, value in [*found, *needed] if value) + 2
    facts = ["".join(f"{name:{width}}{value}\n" for name, value in part if value) for part in (found, needed)]
    return "\n".join([*facts, *_list_failures(tally), f"{_suggest(options)}\n"])


def _describe_speakers(count: int, without: int) -> str:
    return f"{count}; utterances without one: {without}" if without else str(count)


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _describe_far(tally: _Tally) -> str:
    kinds = _list_counts({name: count for name, count in (("commands", tally.commands), ("URLs", tally.urls)) if count})
    return f"{kinds}; of unknown duration: {tally.unknown}" if kinds else ""


def _describe_embeddings(options: PlanOptions, least: str, tally: _Tally) -> str:
    if options.embeddings == "none":
        return "none"
    size, unit = float(tally.num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    amount = f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
    place = "archives"
    if options.embeddings == "npy":
        place = "1 file" if tally.stored == 1 else f"{tally.stored} files"
    if options.granularity == "frame":
        return f"{least}{amount}, as matrices in {place}"
    return f"{amount}, as vectors in {place}"


def _describe_time(options: PlanOptions, least: str, tally: _Tally) -> str:
    if options.model == SAMPLE:
        return "not estimated: a toy"
    jobs = options.jobs or count_cores()
    speed = BASE_SPEED * jobs * _count_operations(BASE) / _count_operations(tally.config)
    cores = "1 CPU core" if jobs == 1 else f"{jobs} CPU cores"
    return f"{least}{clock(tally.seconds / speed)} on {cores}, at {speed:.1f} × real time: a rough guess"


def _list_failures(tally: _Tally) -> Iterator[str]:
    """Make a table of the first failures."""
    rows = [("utt_id", "reason", "detail")]
    for failure in tally.first_failures:
        rows.append((tsv_row([failure.utterance.utt_id]), failure.reason, tsv_row([failure.detail])))
    if len(rows) > 1:
        yield columns(rows)


def _suggest(options: PlanOptions) -> str:
    """Write the command of the run."""
    words = ["e2v", "predict", *options.inputs, "-m", options.model, "-o", "OUT"]
    channel = options.channel if isinstance(options.channel, str) else str(options.channel + 1)
    for name, value, default in (
        ("--granularity", options.granularity, "utterance"),
        ("--embeddings", options.embeddings, "none"),
        ("--embedding-dtype", options.embedding_dtype, "fp32"),
        ("--jobs", options.jobs, None),
        ("--channel", channel, "mix"),
    ):
        if value != default:
            words += [name, str(value)]
    return shlex.join([*words, "--allow-pipes"] if options.allow_pipes else words)
