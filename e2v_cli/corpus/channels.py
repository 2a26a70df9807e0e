"""TODO."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.corpus import Corpus
from e2v_cli.records import Utterance


class _Channels:
    """The utterances of a corpus, those of recordings with several channels once for each: ``utt1-1``, ``utt1-2``."""

    name = ""

    def __init__(self, corpus: Corpus, places: array[int], channels: array[int], hashes: array[int]) -> None:
        self.hashes = hashes
        self._corpus = corpus
        self._places = places
        self._channels = channels

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, some thousand at a time."""
        first, place = 0, 0
        for keys in self._corpus.ids():
            split = []
            while first < len(self._places) and self._places[first] < place + len(keys):
                split.append(_split_id(keys[self._places[first] - place], self._channels[first]))
                first += 1
            place += len(keys)
            yield split

    def utterance(self, place: int, index: int) -> Utterance:
        """Read the utterance at a place."""
        whole, channel = self._corpus[self._places[place]], self._channels[place]
        utt_id = _split_id(whole.utt_id.encode(), channel).decode()
        return replace(whole, index=index, utt_id=utt_id, channel=whole.channel if channel < 0 else channel)

    def origin(self, place: int) -> str:
        """Say where it is written, or which file it is."""
        return self._corpus.origin(self._places[place])

    def recording_groups(self) -> NDArray[np.int64]:
        """Number what is decoded together: all channels of what was together without them."""
        together = self._corpus.recording_groups
        return np.asarray(self._places) if together is None else together[np.asarray(self._places)]

    def durations(self) -> NDArray[np.float64]:
        """Say how long each utterance is: as long as all channels together; (utterances,) seconds."""
        durations: NDArray[np.float64] = self._corpus.durations[np.asarray(self._places)]
        return durations


def _split_id(key: bytes, channel: int) -> bytes:
    return key if channel < 0 else b"%b-%d" % (key, channel + 1)


def split_channels(
    corpus: Corpus, count_channels: Callable[[Utterance, Callable[[], bool]], int], num_threads: int
) -> Corpus:
    """Make one utterance of each channel of recordings that have several, unless the list says which it is.

    Args:
        corpus: the utterances.
        count_channels: reads how many channels the recording of one has, unless told to stop; 0 where it can't be read.
        num_threads: so many are read at once.

    Raises:
        CorpusError: an id with its channel's number stands there already.
    """
    places, channels, hashes = array("q"), array("h"), array("q")
    known: dict[tuple[str, str], int] = {}
    stop = threading.Event()

    def count(utterance: Utterance) -> int:
        if utterance.fault or utterance.channel is not None or utterance.recording_channel is not None:
            return 1
        if utterance.segment is None:
            return count_channels(utterance, stop.is_set)
        recording = (utterance.source, utterance.folder)
        if recording not in known:
            known[recording] = count_channels(utterance, stop.is_set)
        return known[recording]

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for first in range(0, len(corpus), 1024):
                utterances = [corpus[index] for index in range(first, min(first + 1024, len(corpus)))]
                for utterance, number in zip(utterances, pool.map(count, utterances), strict=True):
                    for channel in range(number) if number > 1 else (-1,):
                        places.append(utterance.index)
                        channels.append(channel)
                        hashes.append(hash(_split_id(utterance.utt_id.encode(), channel)))
        finally:
            stop.set()
    return Corpus([_Channels(corpus, places, channels, hashes)], corpus.waits)
