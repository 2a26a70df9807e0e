"""Utterance → Waveform: decode, mix to one channel, resample to 16 kHz; or say what is wrong with the file.

Half an utterance is worse than none, so audio that ends before its header says so is a failure.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from e2v_cli.containers import FORMATS, AudioError, count_claimed
from e2v_cli.records import SAMPLE_RATE, Failure, Utterance, Waveform

AHEAD_SAMPLES = 600 * SAMPLE_RATE
"""Audio that is decoded and not yet asked for: beyond ten minutes, no more is begun."""

BLOCK_SAMPLES = 1 << 20
"""Samples read at a time, over all channels: memory follows the audio that is there, not what a header claims."""

SAMPLE_RATES = range(1_000, 1_000_001)
"""A rate outside comes from a broken header, and resampling from it could take any amount of memory."""

MAX_SECONDS = 1800.0
"""The longest utterance: it is encoded whole, in a time that grows with the square of its length."""

MACHINE_ERRORS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN)
)
"""What no file is to blame for: too many of them are open, or the file system is gone."""

UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile says of a FLAC file whose header gives no length (written to a pipe)."""


def decode_ahead(
    utterances: Iterable[Utterance], min_samples: int, num_threads: int
) -> Generator[Waveform | Failure, None, None]:
    """Read the audio of utterances in threads, a few ahead of who asks for it, and give it in their order.

    libsndfile and soxr release the GIL, so they work while the engine does.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Waveform | Failure]] = deque()
        try:
            for utterance in utterances:
                ahead.append(pool.submit(load_waveform, utterance, min_samples))
                while ahead and (len(ahead) > 2 * num_threads or _count_ready(ahead) > AHEAD_SAMPLES):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _count_ready(futures: Iterable[Future[Waveform | Failure]]) -> int:
    """Count the samples of waveforms that are decoded and wait."""
    ready = (future.result() for future in futures if future.done())
    return sum(len(item.samples) for item in ready if isinstance(item, Waveform))


def load_waveform(utterance: Utterance, min_samples: int) -> Waveform | Failure:
    """Read the audio of an utterance, which needs ``min_samples`` at 16 kHz to give a frame."""
    try:
        samples, rate = read_audio(utterance.path)
        resampled = resample(samples, rate)
        if len(resampled) < min_samples:
            needs = f"the model needs {min_samples} ({min_samples / SAMPLE_RATE * 1000:g} ms)"
            raise AudioError("too short", f"{len(resampled)} samples at 16 kHz; {needs}")
    except AudioError as error:
        return Failure(utterance, "audio", error.reason, f"{utterance.path}: {error}")
    return Waveform(utterance, resampled, len(samples) / rate)


def read_audio(path: str) -> tuple[NDArray[np.float32], int]:
    """Read a file whole: ((samples,) float32, the mean of its channels, and its sample rate).

    Raises:
        AudioError: it is missing, empty, not audio, damaged, or not finite.
    """
    _check_file(path)
    try:
        with _open(path) as file:
            if file.format not in FORMATS:
                raise AudioError("unreadable", f"whether a {file.format} file is whole can't be told; convert it")
            if file.samplerate not in SAMPLE_RATES:
                raise AudioError("not audio", f"a sample rate of {file.samplerate} Hz")
            samples = _read_blocks(file)
            samples = samples[: count_claimed(file, len(samples), path)]
            rate: int = file.samplerate
    except soundfile.LibsndfileError as error:
        raise AudioError("not audio", error.error_string) from None
    except OSError as error:  # the file changed since it was checked, or its disk failed
        raise _blame(error) from None
    except MemoryError:
        raise AudioError("unreadable", "too long for the memory of this machine") from None
    if not len(samples):
        raise AudioError("zero length", "holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError("not finite", "NaN or infinite samples")
    return samples, rate


def resample(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Resample (samples,) from ``rate`` to 16 kHz, in the "HQ" quality of the SoX resampler."""
    if rate == SAMPLE_RATE:
        return samples
    resampled: NDArray[np.float32] = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return resampled


def _open(path: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(b"./-" if path == "-" else os.fsencode(path))  # "-" is standard input to libsndfile
    except TypeError:  # what soundfile raises for a file called .raw
        raise AudioError("not audio", "no header: sample rate and format are unknown") from None


def _check_file(path: str) -> None:
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb"):
                pass
    except FileNotFoundError:
        raise AudioError("missing", "no such file") from None
    except OSError as error:
        raise _blame(error) from None
    except ValueError as error:  # a NUL in the path
        raise AudioError("unreadable", str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise AudioError("unreadable", "not a regular file")
    if status.st_size == 0:
        raise AudioError("empty", "0 bytes")


def _blame(error: OSError) -> AudioError:
    """Blame the file for an error, unless it is the machine's: then it is raised again, and the run stops."""
    if error.errno in MACHINE_ERRORS:
        raise error
    return AudioError("unreadable", error.strerror or str(error))


def _read_blocks(file: soundfile.SoundFile) -> NDArray[np.float32]:
    """Read to the end, channels mixed: (samples,)."""
    if file.frames == UNKNOWN_FRAMES:  # libsndfile then loses the end of the file
        raise AudioError("unreadable", "its header does not say how long it is; decode it and encode it again")
    size = max(1, BLOCK_SAMPLES // file.channels)
    blocks = []
    num_samples = 0
    try:
        while True:
            block = file.read(size, dtype="float32", always_2d=True)
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found later
                blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float32))
            num_samples += len(block)
            if num_samples > MAX_SECONDS * file.samplerate:
                raise AudioError("too long", f"more than {MAX_SECONDS / 60:g} minutes; cut it into shorter files")
            if len(block) < size:
                return np.concatenate(blocks)
    except soundfile.LibsndfileError:
        # libsndfile says nothing of use here: what it meets at the end of a FLAC file cut short is "error in flush".
        raise AudioError("truncated", f"the audio is damaged, or ends before sample {file.frames}") from None
