"""Recordings → Waveforms and Failures, decoded in threads, a few ahead of their use, in the order of the list."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Full, Queue

from e2v_cli.audio.decode import AudioOptions, load_waveforms
from e2v_cli.records import SAMPLE_RATE, Failure, Utterance, Waveform

AHEAD_SAMPLES = 600 * SAMPLE_RATE
"""Samples that are decoded ahead: ten minutes of audio (38 MB)."""

AHEAD_WAVEFORMS = 8
"""Waveforms of one recording that are decoded and not yet used, before it is read on."""

_PAUSE = 0.2
"""Seconds between two questions whether to stop, while a queue is waited for."""


def decode_ahead(
    recordings: Iterable[Sequence[Utterance]],
    options: AudioOptions,
    num_threads: int,
    stopping: Callable[[], bool],
    ahead_samples: int = AHEAD_SAMPLES,
) -> Generator[Waveform | Failure, None, None]:
    """Decode recordings in threads, a few ahead of their use, in their order.

    libsndfile and soxr release the GIL, so they run beside the engine.

    Args:
        recordings: the utterances of each recording.
        options: how recordings are read.
        num_threads: recordings that are decoded at once.
        stopping: asked while audio is waited for: whether to end early.
        ahead_samples: samples that may be decoded and not yet used; beyond them, no other recording is begun.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        ahead: deque[_Decoding] = deque()
        try:
            for utterances in recordings:
                ahead.append(_Decoding(utterances, options, stop))
                pool.submit(ahead[-1].run)
                while ahead and (
                    len(ahead) > 2 * num_threads or sum(recording.ready for recording in ahead) > ahead_samples
                ):
                    yield from ahead.popleft().results(stopping)
                if stopping():
                    return
            while ahead:
                yield from ahead.popleft().results(stopping)
        finally:
            stop.set()


class _Decoding:
    """A recording that a thread decodes, and its results that are not yet used."""

    def __init__(self, utterances: Sequence[Utterance], options: AudioOptions, stop: threading.Event) -> None:
        self._num_decoded = self._num_used = 0
        self._utterances = utterances
        self._options = options
        self._stop = stop
        self._queue: Queue[Waveform | Failure | BaseException | None] = Queue(AHEAD_WAVEFORMS)

    @property
    def ready(self) -> int:
        """Samples that are decoded and not yet used."""
        return self._num_decoded - self._num_used

    def run(self) -> None:
        """Decode, in a thread of the pool."""
        try:
            if self._stop.is_set():
                return
            for item in load_waveforms(self._utterances, self._options, self._stop.is_set):
                self._put(item)
                if self._stop.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def results(self, stopping: Callable[[], bool]) -> Iterator[Waveform | Failure]:
        """Wait for each result, unless told to stop.

        Raises:
            OSError: the machine is to blame, not the recording.
        """
        while not stopping():
            try:
                item = self._queue.get(timeout=_PAUSE)
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Waveform):
                self._num_used += len(item.samples)
            yield item

    def _put(self, item: Waveform | Failure | BaseException | None) -> None:
        if isinstance(item, Waveform):
            self._num_decoded += len(item.samples)
        while not self._stop.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=_PAUSE)
                return
