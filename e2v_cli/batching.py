"""Utterances → blocks → batches, by rules that see nothing but the list and the audio.

What is in a batch decides the last bits of its results. So that results don't depend on who computed what, or when,
the input is cut into blocks from the list alone, and a block into batches from its audio alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from e2v_cli.records import SAMPLE_RATE, Batch, Utterance, Waveform

BLOCK_UTTERANCES = 64
"""Neighbours in the input of which batches are made."""

PORTION_SECONDS = 1200.0
"""Audio of a block that is held in memory and sorted by length (77 MB); only a single longer utterance exceeds it."""


def cut_blocks(utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, ...]]:
    """Cut the whole input into blocks of neighbours."""
    for first in range(0, len(utterances), BLOCK_UTTERANCES):
        yield tuple(utterances[first : first + BLOCK_UTTERANCES])


def block_number(utterance: Utterance) -> int:
    """Say in which block an utterance is."""
    return utterance.index // BLOCK_UTTERANCES


def make_batches(block: Iterable[Waveform], batch_seconds: float) -> Iterator[Batch]:
    """Pack a block's waveforms into batches of at most so many seconds; a longer one goes alone.

    The block is read in portions. Within a portion the shortest come first, so that utterances of the same length,
    which attention takes together, are in one batch.
    """
    for portion in _cut(block, PORTION_SECONDS):
        by_length = sorted(portion, key=lambda waveform: (len(waveform.samples), waveform.utterance.index))
        for batch in _cut(by_length, batch_seconds):
            yield Batch(tuple(batch))


def _cut(waveforms: Iterable[Waveform], seconds: float) -> Iterator[list[Waveform]]:
    """Cut neighbours into runs of at most so many seconds, and at least one waveform."""
    run: list[Waveform] = []
    num_samples = 0
    for waveform in waveforms:
        if run and num_samples + len(waveform.samples) > seconds * SAMPLE_RATE:
            yield run
            run, num_samples = [], 0
        run.append(waveform)
        num_samples += len(waveform.samples)
    if run:
        yield run
