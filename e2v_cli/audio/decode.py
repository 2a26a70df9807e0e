"""Utterances of a recording → Waveforms or Failures: decode once, choose a channel, bring to 16 kHz.

Half an utterance is worse than none, so audio that ends before its header says so is a failure. A recording is read in
blocks, and each block is passed to the utterances that it belongs to, so that memory follows them, not the recording.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError, blame
from e2v_cli.audio.formats import open_audio
from e2v_cli.audio.resample import Resampler, predict_length
from e2v_cli.audio.sources import FetchLimits, open_source
from e2v_cli.options import Channel, ComputeOptions, InputOptions, OneChannel
from e2v_cli.records import SAMPLE_RATE, Failure, Utterance, Waveform
from e2v_cli.system.spool import DiskWaveform
from e2v_cli.system.text import counted, redact

BLOCK_SAMPLES = 1 << 20
"""Samples of a block (4 MB), over all channels: memory follows the audio that exists, not the header."""

MAX_OVERSHOOT = 0.5
"""Seconds: a segment that ends less than this after its recording ends with it, as in Kaldi's ``extract-segments``."""

_NOT_SPLIT = "unreadable when channels were counted, now it has {} channels; run the same command again"


@dataclass(frozen=True)
class AudioOptions:
    """Options for reading audio, the same for all utterances."""

    input: InputOptions
    """Options of the input. Their channel is read where the list names none; with ``split``, the list names each."""
    compute: ComputeOptions
    """Options of the computation. Waveforms longer than their window are kept on disk."""
    min_samples: int
    """Samples at 16 kHz that the model needs for a frame."""
    block_samples: int = BLOCK_SAMPLES
    """Samples read at a time, over all channels."""
    fetches: int = 1
    """Commands and URLs that may be fetched at once, by all workers."""

    @property
    def limits(self) -> FetchLimits:
        """The limits of each command or URL."""
        return FetchLimits(self.input.pipe_seconds, self.input.max_source_bytes, self.fetches)


@dataclass(frozen=True, slots=True)
class HeaderInfo:
    """An utterance by the header of its recording."""

    utterance: Utterance
    duration: float
    """Seconds of the utterance."""
    rate: int
    """Samples per second of the recording."""
    num_channels: int
    """Channels of the recording."""


def load_waveforms(
    utterances: Sequence[Utterance], options: AudioOptions, stopping: Callable[[], bool]
) -> Iterator[Waveform | Failure]:
    """Read the audio of utterances of the same recording: one result for each, as soon as it is whole.

    Raises:
        OSError: the machine is to blame, not the recording.
    """
    waiting = {utterance.index: utterance for utterance in utterances}

    def finished(item: Waveform | Failure) -> Waveform | Failure:
        del waiting[item.utterance.index]
        return item

    for utterance in utterances:
        if utterance.fault:
            yield finished(_list_failure(utterance))
    if not waiting:
        return
    first = next(iter(waiting.values()))
    try:
        with open_source(first.source, first.folder, options.limits, stopping) as path:
            for item in _read_recording(path, list(waiting.values()), options):
                yield finished(item)
    except AudioError as error:
        for utterance in list(waiting.values()):
            yield finished(_audio_failure(utterance, error))


def make_waveform(utterance: Utterance, samples: NDArray[np.float32], rate: int, options: AudioOptions) -> Waveform:
    """Make a waveform of (samples,) in memory: the same as load_waveforms makes of a file of them.

    Raises:
        AudioError: the samples are not finite, or too few.
    """
    collector = _Collector(utterance, rate, "mix", options)
    collector.add(samples, first=0)
    return collector.finish()


def inspect_headers(utterances: Sequence[Utterance], options: AudioOptions) -> Iterator[HeaderInfo | Failure]:
    """Predict from the header what load_waveforms makes of utterances of the same recording.

    Raises:
        OSError: the machine is to blame, not the recording.
    """
    waiting = []
    for utterance in utterances:
        if utterance.fault:
            yield _list_failure(utterance)
        else:
            waiting.append(utterance)
    if not waiting:
        return
    first = waiting[0]
    try:
        with (
            open_source(first.source, first.folder, options.limits, lambda: False) as path,
            open_audio(path, at_a_glance=True) as decoder,
        ):
            num_samples, rate, num_channels = decoder.num_samples, decoder.rate, decoder.num_channels
    except AudioError as error:
        yield from (_audio_failure(utterance, error) for utterance in waiting)
        return
    for utterance in waiting:
        try:
            channel = _choose_channel(utterance, num_channels, options.input.channel)
            duration = _Collector(utterance, rate, channel, options).predict_duration(num_samples)
            yield HeaderInfo(utterance, duration, rate, num_channels)
        except AudioError as error:
            yield _audio_failure(utterance, error)


def count_channels(utterance: Utterance, stopping: Callable[[], bool], limits: FetchLimits) -> int:
    """Count the channels of an utterance's recording: 0 where it can't be read."""
    try:
        with (
            open_source(utterance.source, utterance.folder, limits, stopping) as path,
            open_audio(path, at_a_glance=True) as decoder,
        ):
            return decoder.num_channels
    except AudioError:
        return 0


class _Collector:
    """The samples of one utterance, collected while its recording is read."""

    def __init__(self, utterance: Utterance, rate: int, channel: OneChannel, options: AudioOptions) -> None:
        segment = utterance.segment
        self.utterance = utterance
        self.channel = channel
        # truncated, not rounded: the samples are those of Kaldi's extract-segments
        self.first = int(segment.start * rate) if segment else 0
        self.end = int(segment.end * rate) if segment and segment.end is not None else None
        self._rate = rate
        self._options = options
        self._length = 0
        self._blocks: list[NDArray[np.float32]] = []
        self._on_disk: DiskWaveform | None = None
        self._resampler: Resampler | None = None

    def add(self, samples: NDArray[np.float32], first: int) -> None:
        """Add the utterance's part of a block of (samples,), which begins at sample ``first`` of the recording.

        Raises:
            AudioError: a sample is not finite.
        """
        part = samples[max(0, self.first - first) : None if self.end is None else max(0, self.end - first)]
        if not len(part):
            return
        if not np.isfinite(part).all():
            raise AudioError("not finite", "NaN or infinite samples")
        self._length += len(part)
        if self._resampler is None:
            self._resampler = Resampler(self._options.input.resampler, self._rate)
        self._append(self._resampler.resample_chunk(part))
        if self._on_disk is None and self._length > self._options.compute.window * self._rate:
            self._on_disk = DiskWaveform()
            for block in self._blocks:
                self._on_disk.append(block)
            self._blocks = []

    def finish(self, total: int | None = None) -> Waveform:
        """Make a waveform of all that was added.

        Args:
            total: the recording's samples, where it has ended.

        Raises:
            AudioError: the recording ended too early, or there is too little audio.
        """
        self._check_end(total)
        if self._resampler is not None:
            self._append(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
        samples = np.concatenate(self._blocks) if self._on_disk is None else self._on_disk
        self._check_length(len(samples))
        return Waveform(self.utterance, samples, self._length / self._rate)

    def predict_duration(self, total: int | None) -> float:
        """Predict how many seconds the utterance has.

        Args:
            total: samples that the recording has by its header; None where it has none.

        Raises:
            AudioError: ``finish`` will raise it, or the length is unknown.
        """
        end = total if self.end is None else self.end if total is None else min(self.end, total)
        if end is None:
            raise AudioError("unknown length", "the header declares none; it will be read to its end")
        self._length = max(0, end - self.first)
        self._check_end(total)
        self._check_length(predict_length(self._options.input.resampler, self._rate, self._length))
        return self._length / self._rate

    def _check_end(self, total: int | None) -> None:
        segment = self.utterance.segment
        if total is not None and segment is not None:
            seconds = f"the recording ends at {total / self._rate:g} s"
            if self.first >= total:
                raise AudioError("beyond the end", f"it begins at {segment.start:g} s, {seconds}")
            if self.end is not None and self.end >= total + int(MAX_OVERSHOOT * self._rate):
                raise AudioError("beyond the end", f"it ends at {segment.end:g} s, {seconds}")
        if not self._length:
            raise AudioError("zero length", "holds no samples")

    def _check_length(self, num_samples: int) -> None:
        if num_samples < self._options.min_samples:
            milliseconds = self._options.min_samples / SAMPLE_RATE * 1000
            needs = f"the model needs {self._options.min_samples} ({milliseconds:g} ms)"
            raise AudioError("too short", f"{num_samples} samples at 16 kHz; {needs}")

    def _append(self, resampled: NDArray[np.float32]) -> None:
        if self._on_disk is None:
            self._blocks.append(resampled)
        else:
            self._on_disk.append(resampled)


def _read_recording(path: str, utterances: Sequence[Utterance], options: AudioOptions) -> Iterator[Waveform | Failure]:
    """Read a file once for all its utterances, in the order in which they end."""
    with open_audio(path) as decoder:
        collectors = []
        for utterance in utterances:
            try:
                channel = _choose_channel(utterance, decoder.num_channels, options.input.channel)
                collectors.append(_Collector(utterance, decoder.rate, channel, options))
            except AudioError as error:
                yield _audio_failure(utterance, error)
        collectors.sort(key=lambda collector: collector.first)
        position = 0
        while collectors:
            position = _skip(decoder, position, collectors[0].first)
            block = _read_block(decoder, position, collectors, options.block_samples)
            if not len(block):
                break
            end = position + len(block)
            mono: dict[OneChannel, NDArray[np.float32]] = {}
            under_way = []
            for number, collector in enumerate(collectors):
                if collector.first >= end:
                    under_way += collectors[number:]
                    break
                try:
                    if collector.channel not in mono:
                        mono[collector.channel] = _select_channel(block, collector.channel)
                    collector.add(mono[collector.channel], position)
                    if collector.end is not None and collector.end <= end:
                        yield collector.finish()
                    else:
                        under_way.append(collector)
                except AudioError as error:
                    yield _audio_failure(collector.utterance, error)
            position, collectors = end, under_way
        if not collectors:
            return
        decoder.check_end(position)
        for collector in collectors:
            try:
                yield collector.finish(position)
            except AudioError as error:
                yield _audio_failure(collector.utterance, error)


def _skip(decoder: Decoder, position: int, first: int) -> int:
    """Seek the first sample that is needed, where the format allows it; return the one that is read next."""
    if first <= position or not decoder.can_seek or decoder.num_samples is None:
        return position
    first = min(first, decoder.num_samples)
    decoder.seek(first)
    return first


def _read_block(
    decoder: Decoder, position: int, collectors: Sequence[_Collector], block_samples: int
) -> NDArray[np.float32]:
    """Read from a position on, at most to the last sample that is needed: (samples, channels), none at the end.

    Blocks end at the same samples wherever reading begins, so that segments are whole in the same order.
    """
    size = max(1, block_samples // decoder.num_channels)
    end = position + size - position % size
    total = math.inf if decoder.num_samples is None else decoder.num_samples
    needed = max((total if each.end is None else each.end for each in collectors if each.first < end), default=end)
    try:
        return decoder.read(int(min(end, total, max(needed, position + 1))) - position)
    except OSError as error:
        raise blame(error) from None
    except MemoryError:
        raise AudioError("unreadable", "too many channels for the memory of this machine") from None


def _select_channel(block: NDArray[np.float32], channel: OneChannel) -> NDArray[np.float32]:
    """Select a channel of (samples, channels), or the mean of all: (samples,)."""
    if block.shape[1] == 1:
        return block[:, 0]
    if channel != "mix":
        return np.ascontiguousarray(block[:, channel])
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite samples are found later
        mean: NDArray[np.float32] = block.mean(axis=1, dtype=np.float32)
        return mean


def _choose_channel(utterance: Utterance, num_channels: int, option: Channel) -> OneChannel:
    """Choose the channel that the list names, else that of the option.

    Raises:
        AudioError: there is no such channel.
    """
    # a file of one channel is the recording's already
    of_recording = utterance.recording_channel if num_channels > 1 else None
    named = of_recording if utterance.channel is None else utterance.channel
    channel = option if named is None else named
    if channel == "split":
        if num_channels > 1:
            raise AudioError("unreadable", _NOT_SPLIT.format(num_channels))
        return "mix"
    if channel != "mix" and channel >= num_channels:
        is_cut = utterance.channel is not None and utterance.segment is not None
        hint = "; files of segments count channels from 0, RTTM from 1" if is_cut else ""
        channels = counted(num_channels, "channel")
        raise AudioError("no such channel", f"channel {channel + 1} of a file with {channels}{hint}")
    return channel


def _list_failure(utterance: Utterance) -> Failure:
    return Failure(utterance, "corpus", "bad segment" if utterance.source else "no recording", utterance.fault)


def _audio_failure(utterance: Utterance, error: AudioError) -> Failure:
    return Failure(utterance, "audio", error.reason, f"{redact(utterance.source)}: {redact(str(error))}")
