"""``--channel split``: a corpus → a corpus with an utterance for each channel of recordings that have several."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.listed import Listed, list_utterance
from e2v_cli.corpus.lists import mix_checksums
from e2v_cli.records import Tier, Utterance


class _SplitChannels:
    """The utterances of a corpus, those of recordings with several channels once for each: ``utt1-1``, ``utt1-2``."""

    name = ""
    root = None

    def __init__(self, corpus: Corpus, originals: array[int], channels: array[int], hashes: array[int]) -> None:
        """Split utterances.

        Args:
            corpus: the utterances that are split.
            originals: (utterances,) index in the corpus of each one's original.
            channels: (utterances,) channel of each, counted from 0; -1 if it is not split.
            hashes: (utterances,) hashes of the ids.
        """
        self.hashes = hashes
        self._corpus = corpus
        self._originals = originals
        self._channels = channels

    def ids(self) -> Iterator[list[bytes]]:
        """Read all ids, some thousand at a time."""
        first, begin = 0, 0
        for keys in self._corpus.ids():
            split = []
            while first < len(self._originals) and self._originals[first] < begin + len(keys):
                split.append(_split_id(keys[self._originals[first] - begin], self._channels[first]))
                first += 1
            begin += len(keys)
            yield split

    def utterance(self, position: int, index: int) -> Utterance:
        """Read the utterance at a position of this list, which is the ``index``-th of the corpus."""
        whole, channel = self._corpus[self._originals[position]], self._channels[position]
        utt_id = _split_id(whole.utt_id.encode(), channel).decode()
        return replace(whole, index=index, utt_id=utt_id, channel=whole.channel if channel < 0 else channel)

    def listed(self, positions: NDArray[np.int64]) -> list[Listed]:
        """Read the utterances at some positions, as lines of a Kaldi data directory."""
        return [list_utterance(self.utterance(position, 0)) for position in positions.tolist()]

    @cached_property
    def checksums(self) -> NDArray[np.uint32]:
        """(utterances,): checksums of the originals' sources and of the channels."""
        return mix_checksums(self._corpus.checksums[np.asarray(self._originals)], np.asarray(self._channels))

    def origin(self, position: int) -> str:
        """Return where an utterance is written, as in ``wav.scp:17``, or its file."""
        return self._corpus.origin(self._originals[position])

    def recording_groups(self) -> NDArray[np.int64]:
        """Number the recording groups, (utterances,): those of the originals, with all their channels."""
        together = self._corpus.recording_groups
        return np.asarray(self._originals) if together is None else together[np.asarray(self._originals)]

    def durations(self) -> NDArray[np.float64]:
        """Return the duration of each utterance, that of all channels together: (utterances,) seconds."""
        durations: NDArray[np.float64] = self._corpus.durations[np.asarray(self._originals)]
        return durations

    def tiers(self) -> Iterator[Tier | None]:
        """Read the tiers of the originals, which channels have for themselves."""
        tiers, read = self._corpus.tiers(), -1
        for original, channel in zip(self._originals, self._channels, strict=True):
            while read < original:
                tier, read = next(tiers), read + 1
            yield tier if tier is None or channel < 0 else replace(tier, channel=channel)


def _split_id(key: bytes, channel: int) -> bytes:
    return key if channel < 0 else b"%b-%d" % (key, channel + 1)


def split_channels(
    corpus: Corpus, count_channels: Callable[[Utterance, Callable[[], bool]], int], num_threads: int
) -> Corpus:
    """Make an utterance of each channel of recordings that have several, unless the list names the channel.

    Args:
        corpus: the utterances.
        count_channels: counts the channels of an utterance's recording, unless told to stop; 0 where it can't be read.
        num_threads: recordings that are read at once.

    Raises:
        CorpusError: an id with its channel's number is in the corpus already.
    """
    originals, channels, hashes = array("q"), array("h"), array("q")
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
                        originals.append(utterance.index)
                        channels.append(channel)
                        hashes.append(hash(_split_id(utterance.utt_id.encode(), channel)))
        finally:
            stop.set()
    return Corpus([_SplitChannels(corpus, originals, channels, hashes)], corpus.waits)
