"""Waveforms → batches, by a rule that sees nothing but the lengths of a block's audio."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from e2v_cli.records import SAMPLE_RATE, Batch, Waveform
from e2v_cli.system.spool import DiskWaveform

PORTION_SECONDS = 1200.0
"""Audio of a block that is held in memory and sorted by length (77 MB)."""


def make_batches(
    block: Iterable[Waveform], batch_seconds: float, portion_seconds: float = PORTION_SECONDS
) -> Iterator[Batch]:
    """Pack a block's waveforms into batches of at most this length; one that is longer, or on disk, goes alone.

    The block is read in portions. Within a portion the shortest come first, so that utterances of the same length,
    which attention takes together, are in one batch.
    """
    for portion in _cut_runs(block, portion_seconds):
        by_length = sorted(portion, key=lambda waveform: (len(waveform.samples), waveform.utterance.index))
        for batch in _cut_runs(by_length, batch_seconds):
            yield Batch(tuple(batch))


def _cut_runs(waveforms: Iterable[Waveform], seconds: float) -> Iterator[list[Waveform]]:
    """Cut neighbours into runs of at most this length, and of at least one waveform."""
    run: list[Waveform] = []
    num_samples = 0.0
    for waveform in waveforms:
        length = math.inf if isinstance(waveform.samples, DiskWaveform) else len(waveform.samples)
        if run and num_samples + length > seconds * SAMPLE_RATE:
            yield run
            run, num_samples = [], 0.0
        run.append(waveform)
        num_samples += length
    if run:
        yield run
