"""``e2v plan``: an estimate of a run from lists and headers alone: audio, failures, disk, time.

No model is loaded, no audio decoded, no command run and no server asked. So damage further on in a file, or in the
output of a command or a server, is not seen; and an MP3 file that does not say how long it is has the length that
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
from e2v_cli.audio.sources import FetchLimits, is_pipe, is_url
from e2v_cli.corpus.blocks import group_recordings
from e2v_cli.corpus.channels import split_channels
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.inputs import read_corpus
from e2v_cli.corpus.lists import has_list, read_table
from e2v_cli.errors import CorpusError
from e2v_cli.models.catalog import find_published
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.network.config import NetworkConfig
from e2v_cli.options import ComputeOptions, InputOptions, ModelRequest, ResultOptions
from e2v_cli.records import SAMPLE_RATE, Failure, Utterance
from e2v_cli.results.formats import EMBEDDING_FORMATS, NO_EMBEDDINGS
from e2v_cli.results.newest_run import find_newest_run, read_speed
from e2v_cli.system.files import is_directory
from e2v_cli.system.text import clock, columns, tsv_row

HEADERS_AT_ONCE = 8
"""Threads that read headers: most of them wait for a disk or a file server."""

SHOWN_FAILURES = 10

_CHUNK = 1024
"""Utterances that are in memory at once."""


@dataclass(frozen=True)
class PlanOptions:
    """The options of ``e2v plan``: those of ``e2v predict`` that change the estimate."""

    input: InputOptions
    model: ModelRequest
    results: ResultOptions
    jobs: int | None
    """Part of the command that is suggested, alone; None: left out."""


@dataclass(frozen=True)
class PlanReport:
    """The estimate of a run."""

    text: str
    num_failures: int


@dataclass
class _PlanCounts:
    """Sums over all utterances: ten million of them need no more memory than ten."""

    config: NetworkConfig
    results: ResultOptions
    recordings: int = 0
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    """Recordings of each sample rate, and of each number of channels."""
    commands: int = 0
    urls: int = 0
    unknown: int = 0
    """Commands and URLs of unknown duration."""
    embedded: int = 0
    """Utterances that are expected to have an embedding."""
    seconds: float = 0.0
    num_bytes: int = 0
    """Of embeddings."""
    reasons: Counter[str] = field(default_factory=Counter)
    first_failures: list[Failure] = field(default_factory=list)
    _counted_recording: object = None
    """The recording that was counted last."""
    _inspected_recording: object = None
    """The recording whose header was counted last."""

    def count_recording(self, utterance: Utterance) -> None:
        """Count an utterance's recording, unless the utterance before was of the same."""
        if utterance.source and utterance.recording != self._counted_recording:
            self.recordings += 1
            self._counted_recording = utterance.recording

    def count_failure(self, failure: Failure) -> None:
        """Count an utterance that would fail."""
        self.reasons[failure.reason] += 1
        self.first_failures.append(failure)
        self.first_failures.sort(key=lambda failure: failure.utterance.index)
        del self.first_failures[SHOWN_FAILURES:]

    def count_inspected(self, info: HeaderInfo) -> None:
        """Count an utterance whose header was read."""
        if info.utterance.recording != self._inspected_recording:
            self.rates[info.rate] += 1
            self.channels[info.num_channels] += 1
            self._inspected_recording = info.utterance.recording
        self._count_embedding(info.utterance, info.duration)

    def count_remote(self, utterance: Utterance, duration: float) -> None:
        """Count an utterance behind a command or a URL; its duration may be unknown (NaN)."""
        self.commands += is_pipe(utterance.source)
        self.urls += not is_pipe(utterance.source)
        self.unknown += math.isnan(duration)
        self._count_embedding(utterance, 0.0 if math.isnan(duration) else duration)

    def _count_embedding(self, utterance: Utterance, duration: float) -> None:
        self.embedded += 1
        self.seconds += duration
        if self.results.embeddings == NO_EMBEDDINGS:
            return
        rows = None
        if self.results.granularity == "frame":
            rows = self.config.num_frames(int(duration * SAMPLE_RATE + 0.5))
        key_bytes = len(utterance.utt_id.encode())
        embedding_format = EMBEDDING_FORMATS[self.results.embeddings]
        self.num_bytes += embedding_format.num_bytes(key_bytes, rows, self.config.embed_dim, self.results.dtype)


def make_plan(options: PlanOptions) -> PlanReport:
    """Estimate a run.

    Raises:
        CorpusError: the input can't be read.
        ModelError: there is no such model, or its folder is not one.
        OSError: the machine is to blame, not a recording.
    """
    corpus = read_corpus(options.input.inputs, options.input.allow_pipes, options.input.hidden, options.input.id_form)
    config = _find_shape(options.model)
    speakers = _count_speakers(options.input.inputs, corpus)
    if options.input.channel == "split":
        corpus = split_channels(corpus, _count_local_channels, HEADERS_AT_ONCE)
    counts = _PlanCounts(config, options.results)
    no_commands = replace(options.input, pipe_seconds=None)
    _inspect_corpus(corpus, counts, AudioOptions(no_commands, ComputeOptions(), config.receptive_field))
    return PlanReport(_format_plan(options, len(corpus), speakers, counts), counts.reasons.total())


def _inspect_corpus(corpus: Corpus, counts: _PlanCounts, options: AudioOptions) -> None:
    """Read the headers of all recordings, the segments of a recording together."""
    groups = corpus.recording_groups
    order = range(len(corpus)) if groups is None else np.argsort(groups, kind="stable")
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        for first in range(0, len(corpus), _CHUNK):
            to_read = []
            for index in order[first : first + _CHUNK]:
                utterance = corpus[int(index)]
                counts.count_recording(utterance)
                if utterance.fault or not _is_remote(utterance):
                    to_read.append(utterance)
                else:
                    counts.count_remote(utterance, float(corpus.durations[utterance.index]))
            inspected = pool.map(partial(_inspect_recording, options=options), group_recordings(to_read))
            for item in chain.from_iterable(inspected):
                if isinstance(item, Failure):
                    counts.count_failure(item)
                else:
                    counts.count_inspected(item)


def _inspect_recording(utterances: Sequence[Utterance], options: AudioOptions) -> list[HeaderInfo | Failure]:
    return list(inspect_headers(utterances, options))


def _is_remote(utterance: Utterance) -> bool:
    """Whether its audio comes from a command or a server, which must not be asked."""
    return is_pipe(utterance.source) or is_url(utterance.source)


def _count_local_channels(utterance: Utterance, stopping: Callable[[], bool]) -> int:
    return 0 if _is_remote(utterance) else count_channels(utterance, stopping, FetchLimits(pipe_seconds=None))


def _count_speakers(inputs: Sequence[str], corpus: Corpus) -> tuple[int, int] | None:
    """Count speakers, and utterances without one; None without a data directory that has ``utt2spk``."""
    folders = [Path(item) for item in inputs if not is_url(item) and has_list(Path(item, "wav.scp"))]
    paths = [folder / "utt2spk" for folder in folders if has_list(folder / "utt2spk")]
    if not paths:
        return None
    lines = np.fromiter(chain.from_iterable(map(_hash_speakers, paths)), dtype=np.int64).reshape(-1, 2)
    indexes = corpus.index.find(lines[:, 0])
    return len(np.unique(lines[indexes >= 0, 1])), len(corpus) - len(np.unique(indexes[indexes >= 0]))


def _hash_speakers(path: Path) -> Iterator[int]:
    """Hash each utt-id and its speaker, in turn."""
    for origin, cells in read_table(path):
        if len(cells) != 2:
            raise CorpusError(f"{origin}: a line is: utt-id speaker")
        yield from map(hash, cells)


def _find_shape(model: ModelRequest) -> NetworkConfig:
    """Find the shape of a model: that of its folder, else as it was published."""
    published = None if is_directory(Path(model.name)) else find_published(model.name)
    if published is None:
        return read_model(model.name, find_model(replace(model, offline=True))).config
    return published.shape


def _format_plan(options: PlanOptions, size: int, speakers: tuple[int, int] | None, counts: _PlanCounts) -> str:
    """Format the estimate, and the command that fits."""
    least = "at least " if counts.unknown else ""
    found = [
        ("utterances", str(size)),
        ("recordings", str(counts.recordings)),
        ("speakers", _format_speakers(*speakers) if speakers else ""),
        ("audio", f"{least}{counts.seconds / 3600:.2f} hours ({clock(counts.seconds)})"),
        ("sample rates", _join_counts({f"{rate} Hz": count for rate, count in sorted(counts.rates.items())})),
        ("channels", _join_counts({str(channels): count for channels, count in sorted(counts.channels.items())})),
        ("not looked at", _format_remote(counts)),
        ("would fail", str(counts.reasons.total())),
        *(
            (f"  {reason}", str(count))
            for reason, count in sorted(counts.reasons.items(), key=lambda item: (-item[1], item))
        ),
    ]
    needed = [
        ("model", f"{options.model.name}: {counts.config.embed_dim} dimensions"),
        ("embeddings", _format_disk(options.results, least, counts)),
        ("time", _format_time(options.model.name, least, counts)),
    ]
    width = max(len(name) for name, value in [*found, *needed] if value) + 2
    facts = ["".join(f"{name:{width}}{value}\n" for name, value in part if value) for part in (found, needed)]
    return "\n".join([*facts, *_tabulate_failures(counts), f"{_format_command(options)}\n"])


def _format_speakers(count: int, without: int) -> str:
    return f"{count}; utterances without one: {without}" if without else str(count)


def _join_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _format_remote(counts: _PlanCounts) -> str:
    kinds = {name: count for name, count in (("commands", counts.commands), ("URLs", counts.urls)) if count}
    return f"{_join_counts(kinds)}; of unknown duration: {counts.unknown}" if kinds else ""


def _format_disk(results: ResultOptions, least: str, counts: _PlanCounts) -> str:
    if results.embeddings == NO_EMBEDDINGS:
        return "none"
    size, unit = float(counts.num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    amount = f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
    embedding_format, files = EMBEDDING_FORMATS[results.embeddings], "archives"
    if not embedding_format.exact_size:
        amount = f"at most {amount}"
    if embedding_format.file_per_utterance:
        files = "1 file" if counts.embedded == 1 else f"{counts.embedded} files"
    if results.granularity == "frame":
        return f"{least}{amount}, as matrices in {files}"
    return f"{amount}, as vectors in {files}"


def _format_time(model: str, least: str, counts: _PlanCounts) -> str:
    """Format the time at the measured speed of the newest run; empty if that was of another model, or is gone."""
    path = find_newest_run()
    speed = None if path is None else read_speed(path, model)
    if speed is None:
        return ""
    return f"{least}{clock(counts.seconds / speed)} at {speed:.1f} × real time, as in {path}"


def _tabulate_failures(counts: _PlanCounts) -> Iterator[str]:
    """Make a table of the first failures, if there are any."""
    rows = [("utt_id", "reason", "detail")]
    for failure in counts.first_failures:
        rows.append((tsv_row([failure.utterance.utt_id]), failure.reason, tsv_row([failure.detail])))
    if len(rows) > 1:
        yield columns(rows)


def _format_command(options: PlanOptions) -> str:
    """Format the command of the run."""
    results, channel = options.results, options.input.channel
    words = ["e2v", "predict", *options.input.inputs, "-m", options.model.name, "-o", "OUT"]
    for name, value, default in (
        ("--granularity", results.granularity, "utterance"),
        ("--embeddings", results.embeddings, NO_EMBEDDINGS),
        ("--embedding-dtype", results.dtype, "fp32"),
        ("--jobs", options.jobs, None),
        ("--id", options.input.id_form, None),
        ("--channel", channel if isinstance(channel, str) else channel + 1, "mix"),
        ("--resampler", options.input.resampler, "soxr"),
    ):
        if value != default:
            words += [name, str(value)]
    for name, given in (("--hidden", options.input.hidden), ("--allow-pipes", options.input.allow_pipes)):
        words += [name] if given else []
    return shlex.join(words)
