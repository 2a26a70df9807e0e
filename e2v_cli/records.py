"""What travels through the pipeline: one frozen dataclass per step, and nothing else.

    INPUT → Utterance → Block → Waveform → Batch → Prediction → Entry in the journal → predictions.tsv

An utterance that can't go on becomes a Failure, wherever it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples per second of every waveform that a model sees."""

Stage = Literal["corpus", "audio", "model"]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance to be recognised, as the input names it."""

    index: int
    """Its place in the input, counted from 0."""
    utt_id: str
    path: str


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbours in the input that one worker decodes and batches together."""

    number: int
    utterances: tuple[Utterance, ...]
    finished: frozenset[int]
    """Indexes of utterances that only stand here to make the batches what they were: their results are safe."""
    trial: bool = False
    """Computed to see whether the worker survives it; the results are thrown away."""


@dataclass(frozen=True, slots=True)
class Waveform:
    """An utterance's audio as the model wants it."""

    utterance: Utterance
    samples: NDArray[np.float32]
    """(samples,), mono, at 16 kHz."""
    duration: float
    """Seconds of the audio that was read, before resampling."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Waveforms that go through the network together."""

    waveforms: tuple[Waveform, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one utterance."""

    utterance: Utterance
    duration: float
    """Seconds."""
    num_frames: int
    """Frames of 20 ms that the encoder gave."""
    windows: int
    """Pieces in which the utterance was encoded: 1 is all at once."""
    posteriors: NDArray[np.float32] | None
    """(labels,): probabilities that sum to 1; None where the model has no head."""
    embedding: NDArray[np.float32]
    """(dim,), the mean over frames; or (frames, dim) where frames are asked for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an utterance has no prediction."""

    utterance: Utterance
    stage: Stage
    reason: str
    """A few words, the same for every utterance that fails so: ``missing``, ``too short``."""
    detail: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished utterance as the journal keeps it."""

    index: int
    """Its place in the input."""
    duration: float
    """Seconds."""
    num_frames: int
    embedding: str
    """Where its embedding is, relative to OUT: ``embeddings.1-of-1.1.ark:17`` or ``embeddings/utt1.npy``; or empty."""
    row: str
    """Its row of ``predictions.tsv``."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended."""

    input: int
    done: int
    failed: int
    audio_seconds: float
    """Seconds of audio that were done, by this run and by those it resumed."""
    wall_seconds: float
    """The whole of the run and of those it resumed."""
    encode_seconds: float
    """From the model loaded to the last result, likewise."""

    stopped: bool = False
    """A signal stopped the run before its end."""

    @property
    def left(self) -> int:
        """Utterances that are neither done nor failed."""
        return self.input - self.done - self.failed

    @property
    def speed(self) -> float:
        """Seconds of audio encoded per second: × real time."""
        return self.audio_seconds / self.encode_seconds if self.encode_seconds else 0.0
