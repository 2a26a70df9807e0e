"""Decodes ahead of who asks for it, in threads: recordings → Waveforms, in the order of the list."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Full, Queue

from e2v_cli.audio import AudioOptions, load_waveforms
from e2v_cli.records import SAMPLE_RATE, Failure, Utterance, Waveform

AHEAD_SAMPLES = 600 * SAMPLE_RATE
"""Audio that is decoded and not yet asked for: beyond ten minutes, no other recording is begun."""

AHEAD_WAVEFORMS = 8
"""Waveforms of one recording that wait for being asked for, before it is read on."""


def decode_ahead(
    recordings: Iterable[Sequence[Utterance]], options: AudioOptions, num_threads: int
) -> Generator[Waveform | Failure, None, None]:
    """Read the audio of recordings in threads, a few ahead of who asks for it, and give it in their order.

    libsndfile and soxr release the GIL, so they work while the engine does.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        ahead: deque[_Decoding] = deque()
        try:
            for utterances in recordings:
                ahead.append(_Decoding(utterances, options, stop))
                pool.submit(ahead[-1].run)
                while ahead and (len(ahead) > 2 * num_threads or sum(part.ready for part in ahead) > AHEAD_SAMPLES):
                    yield from ahead.popleft().results()
            while ahead:
                yield from ahead.popleft().results()
        finally:
            stop.set()


class _Decoding:
    """A recording that a thread decodes, and what waits of it for being asked for."""

    def __init__(self, utterances: Sequence[Utterance], options: AudioOptions, stop: threading.Event) -> None:
        self._put_samples = self._taken_samples = 0
        self._utterances = utterances
        self._options = options
        self._stop = stop
        self._queue: Queue[Waveform | Failure | BaseException | None] = Queue(AHEAD_WAVEFORMS)

    @property
    def ready(self) -> int:
        """Samples that wait."""
        return self._put_samples - self._taken_samples

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

    def results(self) -> Iterator[Waveform | Failure]:
        """Wait for the results, one after the other.

        Raises:
            OSError: the machine is to blame, not the recording.
        """
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Waveform):
                self._taken_samples += len(item.samples)
            yield item

    def _put(self, item: Waveform | Failure | BaseException | None) -> None:
        if isinstance(item, Waveform):
            self._put_samples += len(item.samples)
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except Full:
                continue
        return None
