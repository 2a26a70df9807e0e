"""Utterances of a recording → Waveforms or Failures: decode once, choose a channel, bring to 16 kHz.

Half an utterance is worse than none, so audio that ends before its header says so is a failure. A recording is read in
blocks, and each block is passed to the utterances that it belongs to, so that memory follows them, not the recording.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from e2v_cli.audio.errors import AudioError, blame
from e2v_cli.audio.formats import find_format
from e2v_cli.audio.integrity import ExpectedLength
from e2v_cli.audio.resample import Resampler, predict_length
from e2v_cli.audio.sources import FetchLimits, open_source
from e2v_cli.options import Channel, ComputeOptions, InputOptions, OneChannel
from e2v_cli.records import SAMPLE_RATE, Failure, Utterance, Waveform
from e2v_cli.system.spool import DiskWaveform
from e2v_cli.system.text import redact

BLOCK_SAMPLES = 1 << 20
"""Few enough that memory follows the audio that is there, not what a header claims (4 MB)."""

SAMPLE_RATES = range(1_000, 1_000_001)
"""A rate outside comes from a broken header, and resampling from it could take any amount of memory."""

MAX_OVERSHOOT = 0.5
"""Seconds: a segment that ends less than this behind its recording ends with it, as in Kaldi's ``extract-segments``."""

SEEKABLE_SUBTYPES = frozenset(("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"))
"""Encodings in which libsndfile seeks to the exact sample, in a format that is seekable."""

UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile returns as the length of a FLAC file whose header has none (written to a pipe)."""

_NOT_SPLIT = "unreadable when channels were counted, now it has {} channels; run the same command again"


@dataclass(frozen=True)
class AudioOptions:
    """How audio is read, the same for all utterances."""

    input: InputOptions
    """Its channel is read where the list names none; with ``split``, the list names each."""
    compute: ComputeOptions
    """Utterances longer than the window are kept on disk."""
    min_samples: int
    """Samples at 16 kHz that the model needs for a frame."""
    block_samples: int = BLOCK_SAMPLES
    """Samples read at a time, over all channels."""
    fetches: int = 1
    """Commands and URLs that may be fetched at once, by all workers."""

    @property
    def limits(self) -> FetchLimits:
        """The limits of each of them."""
        return FetchLimits(self.input.pipe_seconds, self.input.max_source_bytes, self.fetches)


@dataclass(frozen=True, slots=True)
class HeaderInfo:
    """An utterance by the header of its recording."""

    utterance: Utterance
    duration: float
    """Seconds."""
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
        AudioError: they are not finite, or too few.
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
            _open_audio(path) as file,
        ):
            expected = _check_audio_header(file, path, at_a_glance=True)
            num_samples, rate, num_channels = file.frames, file.samplerate, file.channels
    except AudioError as error:
        yield from (_audio_failure(utterance, error) for utterance in waiting)
        return
    for utterance in waiting:
        try:
            channel = _choose_channel(utterance, num_channels, options.input.channel)
            duration = _Collector(utterance, rate, channel, options).predict_duration(num_samples, expected)
            yield HeaderInfo(utterance, duration, rate, num_channels)
        except AudioError as error:
            yield _audio_failure(utterance, error)


def count_channels(utterance: Utterance, stopping: Callable[[], bool], limits: FetchLimits) -> int:
    """Count the channels of an utterance's recording: 0 where it can't be read."""
    try:
        with open_source(utterance.source, utterance.folder, limits, stopping) as path, _open_audio(path) as file:
            channels: int = file.channels
            return channels
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
            AudioError: it is not finite.
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

    def predict_duration(self, total: int, expected: ExpectedLength) -> float:
        """Predict how many seconds the utterance has.

        Args:
            total: samples that the recording has by its header.
            expected: samples that it claims to have.

        Raises:
            AudioError: ``finish`` will raise it.
        """
        if self.end is None or self.end > total:
            expected.check(total)
        self._length = max(0, (total if self.end is None else min(self.end, total)) - self.first)
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
    with _open_audio(path) as file:
        expected = _check_audio_header(file, path)
        collectors = []
        for utterance in utterances:
            try:
                channel = _choose_channel(utterance, file.channels, options.input.channel)
                collectors.append(_Collector(utterance, file.samplerate, channel, options))
            except AudioError as error:
                yield _audio_failure(utterance, error)
        collectors.sort(key=lambda collector: collector.first)
        if not collectors:
            return
        position = _seek_sample(file, collectors[0].first)
        ends = [expected.most if collector.end is None else collector.end for collector in collectors]
        for block in _read_blocks(file, position, min(expected.most, max(ends)), options.block_samples):
            mono: dict[OneChannel, NDArray[np.float32]] = {}
            end = position + len(block)
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
        expected.check(position)
        for collector in collectors:
            try:
                yield collector.finish(position)
            except AudioError as error:
                yield _audio_failure(collector.utterance, error)


def _read_blocks(
    file: soundfile.SoundFile, position: int, end: int, block_samples: int
) -> Iterator[NDArray[np.float32]]:
    """Read from where the file stands: (samples, channels) at a time.

    Blocks end at the same samples wherever reading begins, so that segments are whole in the same order.
    """
    size = max(1, block_samples // file.channels)
    while position < end:
        try:
            block = file.read(min(size - position % size, end - position), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            # libsndfile's message is of no use: for a FLAC file cut short it is "error in flush"
            raise AudioError("truncated", f"the audio is damaged, or ends before sample {file.frames}") from None
        except OSError as error:
            raise blame(error) from None
        except MemoryError:
            raise AudioError("unreadable", "too many channels for the memory of this machine") from None
        if not len(block):
            return
        yield block
        position += len(block)


def _seek_sample(file: soundfile.SoundFile, first: int) -> int:
    """Seek a sample, where the format allows it; return the one that is read next."""
    audio_format = find_format(file.format)
    seekable = audio_format is not None and audio_format.seekable and file.subtype in SEEKABLE_SUBTYPES
    if seekable and 0 < first < file.frames:
        return int(file.seek(first))
    return 0


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
        plural = "" if num_channels == 1 else "s"
        raise AudioError("no such channel", f"channel {channel + 1} of a file with {num_channels} channel{plural}")
    return channel


def _open_audio(path: str) -> soundfile.SoundFile:
    """Open an audio file.

    Raises:
        AudioError: it is missing, empty, or not audio.
    """
    _check_audio_file(path)
    try:
        return soundfile.SoundFile(b"./-" if path == "-" else os.fsencode(path))  # "-" is standard input to libsndfile
    except TypeError:  # soundfile raises it for a file called .raw
        raise AudioError("not audio", "no header: sample rate and format are unknown") from None
    except soundfile.LibsndfileError as error:
        raise AudioError("not audio", error.error_string) from None
    except OSError as error:  # the file changed since it was checked, or its disk failed
        raise blame(error) from None


def _check_audio_header(file: soundfile.SoundFile, path: str, at_a_glance: bool = False) -> ExpectedLength:
    """Check the header of a file; at a glance, without reading all of a file to know its length."""
    audio_format = find_format(file.format)
    if audio_format is None:
        raise AudioError(
            "unreadable", f"a {file.format} file can't be checked for completeness: convert it to WAV or FLAC"
        )
    if file.samplerate not in SAMPLE_RATES:
        raise AudioError("not audio", f"a sample rate of {file.samplerate} Hz")
    if file.frames == UNKNOWN_FRAMES:  # libsndfile then loses the end of the file
        raise AudioError("unreadable", "the header declares no length: decode it and encode it again")
    if at_a_glance and audio_format.check_reads_file and file.frames:
        return ExpectedLength(file.frames, file.frames)
    try:
        return audio_format.read_expected_length(file, path)
    except OSError as error:
        raise blame(error) from None


def _check_audio_file(path: str) -> None:
    """Check that a path is a file, and not empty.

    Raises:
        AudioError: it is not.
    """
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb"):
                pass
    except FileNotFoundError:
        raise AudioError("missing", "no such file") from None
    except OSError as error:
        raise blame(error) from None
    except ValueError:
        raise AudioError("unreadable", "a NUL character in the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise AudioError("unreadable", "not a regular file")
    if status.st_size == 0:
        raise AudioError("empty", "0 bytes")


def _list_failure(utterance: Utterance) -> Failure:
    return Failure(utterance, "corpus", "bad segment" if utterance.source else "no recording", utterance.fault)


def _audio_failure(utterance: Utterance, error: AudioError) -> Failure:
    return Failure(utterance, "audio", error.reason, f"{redact(utterance.source)}: {redact(str(error))}")
