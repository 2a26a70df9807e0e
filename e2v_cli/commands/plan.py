"""``e2v plan``: an estimate of a run from lists, headers and journals alone: audio, failures, disk, time.

No model is loaded, no audio decoded, no command run and no server asked. So damage further on in a file, or in the
output of a command or a server, is not seen; and the length of an MP3 file that does not say how long it is is
estimated from its first frames.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.decode import AudioOptions, HeaderInfo, inspect_headers
from e2v_cli.audio.sources import is_pipe, is_url
from e2v_cli.commands.offline import (
    HEADERS_AT_ONCE,
    check_layers,
    is_remote,
    read_earlier_results,
    read_local_corpus,
)
from e2v_cli.corpus.blocks import estimate_costs, group_recordings
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.data_dir import read_speaker_lines
from e2v_cli.corpus.lists import has_list
from e2v_cli.errors import UsageError
from e2v_cli.inference.windows import cut_windows, window_frames
from e2v_cli.journal.folder import plan_blocks
from e2v_cli.journal.ids import read_costs
from e2v_cli.journal.journal import DONE, LEFT
from e2v_cli.models.catalog import find_published
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.network.config import NetworkConfig
from e2v_cli.options import ComputeOptions, ModelRequest, PredictOptions
from e2v_cli.records import SAMPLE_RATE, Failure, Utterance
from e2v_cli.results.formats import EMBEDDING_FORMATS, NO_EMBEDDINGS
from e2v_cli.results.newest_run import MeasuredSpeed, find_newest_speed, read_speed
from e2v_cli.system.files import is_directory
from e2v_cli.system.text import clock, columns, tsv_row

SHOWN_FAILURES = 10

SHARDS = (4, 16, 64)
"""Numbers of shards whose time is shown for another machine."""

SPAN_BYTES = 120
"""Bytes of a row of a timeline without its id, about: a label, three times, and probabilities of nine classes."""

SHORT_RUN = 60.0
"""Seconds of encoding below which a measured speed is a rough one."""

_CHUNK = 1024
"""Utterances that are in memory at once."""


@dataclass(frozen=True)
class PlanReport:
    """The estimate of a run."""

    text: str
    is_allowed: bool
    """Whether no more utterances would fail than ``--max-failures`` allows."""


@dataclass(frozen=True)
class _Work:
    """The utterances that the run would compute, and numbers of those that it would not."""

    indices: NDArray[np.int64]
    """(utterances,): indices in the list of the utterances that are left."""
    num_done: int
    num_failed: int
    """Number of utterances that failed in an earlier run, and are not tried again."""
    num_retimed: int
    """Number of utterances that are done with other timelines: new ones are made of frames on disk."""

    @property
    def size(self) -> int:
        """Number of utterances of the list, or of its shard."""
        return len(self.indices) + self.num_done + self.num_failed + self.num_retimed


@dataclass
class _PlanCounts:
    """Sums over all utterances: ten million of them need no more memory than ten."""

    config: NetworkConfig
    options: PredictOptions
    recordings: int = 0
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    """Recordings of each sample rate, and of each number of channels."""
    commands: int = 0
    urls: int = 0
    unknown: int = 0
    """Utterances from commands and URLs whose duration is not known."""
    embedded: int = 0
    """Utterances that are expected to have an embedding."""
    seconds: float = 0.0
    num_bytes: int = 0
    """Bytes of embeddings on disk."""
    long: int = 0
    windows: int = 0
    """Utterances that are longer than a window, and their windows."""
    spans: int = 0
    span_bytes: int = 0
    """Spans, and bytes of their rows, of all timelines, before neighbours are joined."""
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
        self._count_results(info.utterance, info.duration)

    def count_remote(self, utterance: Utterance, duration: float) -> None:
        """Count an utterance from a command or a URL; its duration may be unknown (NaN)."""
        self.commands += is_pipe(utterance.source)
        self.urls += not is_pipe(utterance.source)
        self.unknown += math.isnan(duration)
        self._count_results(utterance, 0.0 if math.isnan(duration) else duration)

    def _count_results(self, utterance: Utterance, duration: float) -> None:
        self.embedded += 1
        self.seconds += duration
        num_frames = self.config.num_frames(int(duration * SAMPLE_RATE + 0.5))
        key_bytes = len(utterance.utt_id.encode())
        if num_frames:
            self._count_windows(num_frames)
            self._count_spans(num_frames, key_bytes)
        results = self.options.results
        if results.embeddings != NO_EMBEDDINGS:
            rows = num_frames if results.granularity == "frame" else None
            embedding_format = EMBEDDING_FORMATS[results.embeddings]
            num_bytes = embedding_format.num_bytes(key_bytes, rows, self.config.embed_dim, results)
            self.num_bytes += num_bytes * (len(results.layers) or 1)

    def _count_windows(self, num_frames: int) -> None:
        window, context = window_frames(self.config, self.options.compute.window)
        if num_frames > window:
            self.long += 1
            self.windows += sum(1 for _ in cut_windows(num_frames, window, context))

    def _count_spans(self, num_frames: int, key_bytes: int) -> None:
        for seconds in self.options.results.timelines:
            spans = (num_frames - 1) * self.config.hop // round(seconds * SAMPLE_RATE) + 1
            self.spans += spans
            self.span_bytes += spans * (key_bytes + SPAN_BYTES)


def make_plan(options: PredictOptions, like: Path | None = None) -> PlanReport:
    """Estimate a run; ``like``: the ``run.json`` of a run whose speed this one would have, or its OUT.

    Raises:
        CorpusError: the input can't be read.
        ModelError: there is no such model, or its folder is not one.
        UsageError: the run of ``like`` has no speed, or had other options that change it; or the model lacks a layer.
        OutputConflictError: OUT holds a different run, or one in progress.
        OSError: the machine is to blame, not a recording.
    """
    speed = _choose_speed(options, like)
    corpus = read_local_corpus(options.input)
    config = _find_shape(options.model)
    check_layers(options, config)
    work = _find_work_left(options, corpus)
    is_diarised = options.input.segments_rttm is not None
    speakers = _count_diarised(corpus, work.indices) if is_diarised else _count_speakers(options, corpus, work.indices)
    counts = _PlanCounts(config, options)
    no_commands = replace(options.input, pipe_seconds=None)
    _inspect_corpus(corpus, work.indices, counts, AudioOptions(no_commands, ComputeOptions(), config.receptive_field))
    num_failures, allowed = counts.reasons.total() + work.num_failed, options.run.max_failures
    is_allowed = allowed.allows(num_failures, work.size)
    too_many = "" if is_allowed else f"failures: {num_failures}; --max-failures {allowed} allows fewer"
    facts = [
        [*_describe_work(options, len(corpus), work), *_describe_audio(counts, speakers), ("too many", too_many)],
        [*_describe_results(counts), *_describe_time(counts, speed, has_table=like is not None)],
    ]
    return PlanReport(_format_plan(facts, counts), is_allowed)


def _find_work_left(options: PredictOptions, corpus: Corpus) -> _Work:
    """Find the utterances that the run, or its shard, would compute."""
    history, shard = read_earlier_results(options, corpus), options.run.shard
    output_dir, costs = options.results.output_dir, None
    if shard.count > 1:
        costs = None if output_dir is None else read_costs(output_dir, corpus)
        costs = estimate_costs(corpus.durations) if costs is None else costs
    indices = plan_blocks(history, corpus, costs).deal_indices(shard)
    status, outdated = history.status, history.outdated
    tried = status == LEFT if not options.run.retry_failed else status != DONE
    is_left = (tried & ~outdated)[indices]
    if shard.count > 1:  # it has no part in what was done with another list
        status, outdated, tried = status[indices], outdated[indices], tried[indices]
    num_failed = int(((status != DONE) & ~tried).sum())
    return _Work(indices[is_left], int((status == DONE).sum()), num_failed, int(outdated.sum()))


def _inspect_corpus(corpus: Corpus, indices: NDArray[np.int64], counts: _PlanCounts, options: AudioOptions) -> None:
    """Read the headers of recordings; ``indices`` has the segments of a recording together."""
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        for first in range(0, len(indices), _CHUNK):
            to_read = []
            for index in indices[first : first + _CHUNK].tolist():
                utterance = corpus[index]
                counts.count_recording(utterance)
                if utterance.fault or not is_remote(utterance):
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


def _count_diarised(corpus: Corpus, indices: NDArray[np.int64]) -> tuple[int, int]:
    """Count the speakers of utterances of a diarisation, and the utterances without a speaker: 0."""
    hashes = np.fromiter((hash(tier and tier.speaker) for tier in corpus.tiers()), dtype=np.int64)
    return len(np.unique(hashes[indices])), 0


def _count_speakers(options: PredictOptions, corpus: Corpus, indices: NDArray[np.int64]) -> tuple[int, int] | None:
    """Count the speakers of utterances, and those without one; None without a data directory that has ``utt2spk``."""
    folders = [Path(item) for item in options.input.inputs if not is_url(item) and has_list(Path(item, "wav.scp"))]
    paths = [folder / "utt2spk" for folder in folders if has_list(folder / "utt2spk")]
    if not paths:
        return None
    lines = np.fromiter(chain.from_iterable(map(_hash_speakers, paths)), dtype=np.int64).reshape(-1, 2)
    found = corpus.index.find(lines[:, 0])
    is_counted = np.zeros(len(corpus) + 1, dtype=np.bool_)  # the last is that of index -1: not found
    is_counted[indices] = True
    counted = is_counted[found]
    return len(np.unique(lines[counted, 1])), len(indices) - len(np.unique(found[counted]))


def _hash_speakers(path: Path) -> Iterator[int]:
    """Hash each utt-id and its speaker, in turn."""
    for _, key, speaker in read_speaker_lines(path):
        yield hash(key)
        yield hash(speaker)


def _find_shape(model: ModelRequest) -> NetworkConfig:
    """Find the shape of a model: that of its folder, else as it was published."""
    published = None if is_directory(Path(model.name)) else find_published(model.name)
    if published is None:
        return read_model(model.name, find_model(replace(model, offline=True))).config
    return published.shape


def _choose_speed(options: PredictOptions, like: Path | None) -> MeasuredSpeed | None:
    """Choose the speed of the run that ``like`` names, else that of the newest run, if that was alike.

    Raises:
        UsageError: the named run has no speed, or had other options that change it.
    """
    if like is None:
        return find_newest_speed(options.model.name, options.compute)
    path = like / "run.json" if is_directory(like) else like
    speed = read_speed(path)
    if speed is None:
        raise UsageError(f"--like {path}: no speed can be read from it; choose the run.json of a complete run")
    if different := speed.describe_difference(options.model.name, options.compute):
        raise UsageError(f"--like {path}: {different}; choose a run with the same options")
    return speed


Fact = tuple[str, str]
"""A name and its value; without a value, it is not shown."""


def _describe_work(options: PredictOptions, size: int, work: _Work) -> Iterator[Fact]:
    shard = options.run.shard
    yield "utterances", str(size)
    yield f"shard {shard}", str(work.size) if shard.count > 1 else ""
    yield "done before", str(work.num_done or "")
    yield "failed before", str(work.num_failed or "")
    yield "new timelines", f"{work.num_retimed}, of frames on disk" if work.num_retimed else ""
    yield "left", str(len(work.indices)) if len(work.indices) < work.size else ""


def _describe_audio(counts: _PlanCounts, speakers: tuple[int, int] | None) -> Iterator[Fact]:
    hours = f"{_at_least(counts)}{counts.seconds / 3600:.2f} hours ({clock(counts.seconds)})"
    yield "recordings", str(counts.recordings)
    yield "speakers", _format_speakers(*speakers) if speakers else ""
    yield "audio", hours
    yield "sample rates", _join_counts({f"{rate} Hz": count for rate, count in sorted(counts.rates.items())})
    yield "channels", _join_counts({str(channels): count for channels, count in sorted(counts.channels.items())})
    yield "not looked at", _format_remote(counts)
    yield "would fail", str(counts.reasons.total())
    for reason, count in sorted(counts.reasons.items(), key=lambda item: (-item[1], item)):
        yield f"  {reason}", str(count)


def _describe_results(counts: _PlanCounts) -> Iterator[Fact]:
    options, least = counts.options, _at_least(counts)
    windows = f"{least}{counts.windows}; utterances longer than {options.compute.window:g} s: {counts.long}"
    spans = f"{least}{counts.spans} spans, about {_format_bytes(counts.span_bytes)}"
    if options.results.join:
        spans += ", before neighbours are joined"
    yield "model", f"{options.model.name}: {counts.config.embed_dim} dimensions"
    yield "windows", windows if counts.long else ""
    yield "embeddings", _format_disk(counts)
    yield "timeline", spans if options.results.timelines else ""


def _describe_time(counts: _PlanCounts, speed: MeasuredSpeed | None, has_table: bool) -> Iterator[Fact]:
    """Describe the time at a measured speed; ``has_table``: also that of several shards, each at this speed."""
    if speed is None:
        yield "time", "unknown: the newest run was not like this one; compute a part of it, then use --like OUT"
        return
    seconds, least = counts.seconds / speed.of_shard, _at_least(counts)
    rough = "" if speed.encode_seconds >= SHORT_RUN else f", measured in {speed.encode_seconds:.1f} s only"
    yield (
        "time",
        f"{least}{clock(seconds)} at {speed.of_shard:.1f} × real time on {speed.machines}, as in {speed.path}{rough}",
    )
    if has_table and counts.options.run.shard.count == 1:
        for num_shards in SHARDS:
            if num_shards <= counts.embedded:
                yield f"  {num_shards} shards", f"{least}{clock(seconds / num_shards)}, each at that speed"


def _at_least(counts: _PlanCounts) -> str:
    return "at least " if counts.unknown else ""


def _format_plan(facts: Sequence[Sequence[Fact]], counts: _PlanCounts) -> str:
    """Format the estimate: groups of facts, and a table of the first failures."""
    width = max(len(name) for group in facts for name, value in group if value) + 2
    parts = ["".join(f"{name:{width}}{value}\n" for name, value in group if value) for group in facts]
    return "\n".join([*parts, *_tabulate_failures(counts)])


def _format_speakers(count: int, without: int) -> str:
    return f"{count}; utterances without one: {without}" if without else str(count)


def _join_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _format_remote(counts: _PlanCounts) -> str:
    kinds = {name: count for name, count in (("commands", counts.commands), ("URLs", counts.urls)) if count}
    return f"{_join_counts(kinds)}; of unknown duration: {counts.unknown}" if kinds else ""


def _format_disk(counts: _PlanCounts) -> str:
    results = counts.options.results
    if results.embeddings == NO_EMBEDDINGS:
        return "none"
    embedding_format, files, amount = EMBEDDING_FORMATS[results.embeddings], "archives", _format_bytes(counts.num_bytes)
    if not embedding_format.exact_size:
        amount = f"at most {amount}"
    if embedding_format.file_per_utterance:
        num_files = counts.embedded * (len(results.layers) or 1)
        files = "1 file" if num_files == 1 else f"{num_files} files"
    if results.granularity == "frame":
        return f"{_at_least(counts)}{amount}, as matrices in {files}"
    return f"{amount}, as vectors in {files}"


def _format_bytes(count: int) -> str:
    """Format a number of bytes in decimal units: ``4.2 kB``."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def _tabulate_failures(counts: _PlanCounts) -> Iterator[str]:
    """Make a table of the first failures, if there are any."""
    rows = [("utt_id", "reason", "detail")]
    for failure in counts.first_failures:
        rows.append((tsv_row([failure.utterance.utt_id]), failure.reason, tsv_row([failure.detail])))
    if len(rows) > 1:
        yield columns(rows)
