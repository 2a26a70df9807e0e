"""The records of the pipeline: one frozen dataclass per step, and nothing else.

    INPUT → Utterance → Block → Waveform → Batch → Prediction → DoneRecord in the journal → predictions.tsv

An utterance that fails at any step becomes a Failure.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from e2v_cli.system.spool import DiskArray, DiskWaveform, whole

SAMPLE_RATE = 16_000
"""Samples per second of every waveform that a model sees."""

Stage = Literal["corpus", "audio", "model"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording, in seconds."""

    start: float
    end: float | None
    """End in seconds; None: the end of the recording."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a recording that an utterance is."""

    recording: str
    """The id of the recording."""
    start: float = 0.0
    """Seconds from the beginning of the recording."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A row of segments in the timeline of a recording: those of the same channel and speaker."""

    channel: int | None = None
    """Channel of the recording, counted from 0; None: the channel of ``--channel``."""
    speaker: str = ""
    """Name of the speaker; empty: unknown."""

    @property
    def name(self) -> str:
        """Name of the tier in files: ``anna``, ``channel 2``, ``anna channel 2``; ``emotion`` if neither is known."""
        channel = "" if self.channel is None else f"channel {self.channel + 1}"
        return " ".join(filter(None, (self.speaker, channel))) or "emotion"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance to be recognised, as the input names it."""

    index: int
    """Index in the input, counted from 0."""
    utt_id: str
    source: str
    """Name of the audio, as in ``wav.scp``: a path, ``file.ark:offset``, a URL, or ``command |``."""
    folder: str = ""
    """The folder of the list, where a relative path is looked for if the current folder doesn't have it."""
    segment: Segment | None = None
    """Part of the recording; None: all of it."""
    channel: int | None = None
    """Channel, counted from 0; None: ``recording_channel``."""
    recording_channel: int | None = None
    """Channel of the recording by ``reco2file_and_channel``, counted from 0; None: the channel of ``--channel``."""
    fault: str = ""
    """Problem with the utterance's line in the list; empty: no problem."""
    recording_id: str = ""
    """Id of the recording that the segment is part of; empty: the utterance is a recording itself."""
    source_checksum: int = field(default=0, compare=False)
    """CRC-32 of the source: see ``corpus.lists``."""

    @property
    def recording(self) -> Hashable:
        """The key that neighbours share if they are decoded together: segments and channels of a recording."""
        whole = self.segment is None and self.channel is None
        return self.index if whole else (self.source, self.folder)

    @property
    def cut(self) -> Cut:
        """The part of a recording that the utterance is."""
        if not self.recording_id or self.segment is None:
            return Cut(self.utt_id)
        return Cut(self.recording_id, self.segment.start)


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbours in the input that one worker decodes and batches together."""

    number: int
    utterances: tuple[Utterance, ...]
    finished: frozenset[int]
    """Indexes of utterances that have results; they only keep the batches the same."""
    probe: bool = False
    """Whether it is computed only to see if the worker survives; its results are discarded."""


@dataclass(frozen=True, slots=True)
class Waveform:
    """An utterance's audio in the form that the model takes."""

    utterance: Utterance
    samples: NDArray[np.float32] | DiskWaveform
    """(samples,), mono, at 16 kHz; spooled where it is longer than a window."""
    duration: float
    """Seconds of the audio that was read, before resampling."""

    @property
    def whole(self) -> NDArray[np.float32]:
        """All samples, in memory: (samples,)."""
        return whole(self.samples)


@dataclass(frozen=True, slots=True)
class Batch:
    """Waveforms that go through the network together."""

    waveforms: tuple[Waveform, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The results of a model for one utterance."""

    utterance: Utterance
    duration: float
    """Seconds of the utterance's audio."""
    num_frames: int
    """Frames of 20 ms from the encoder."""
    windows: int
    """Number of windows in which the utterance was encoded; 1: all at once."""
    posteriors: NDArray[np.float32] | None
    """(labels,): probabilities that sum to 1; None where the model has no head."""
    embedding: NDArray[np.float32] | DiskArray
    """(dim,), the mean over frames; or (frames, dim) where frames are asked for, spooled where they are many."""
    timelines: tuple[NDArray[np.float32], ...] = ()
    """For each length of spans, (spans, labels): the posteriors of all spans of the utterance."""
    layers: tuple[NDArray[np.float32] | DiskArray, ...] = ()
    """Embeddings of the layers that were chosen, instead of ``embedding``, which then is always the mean."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An utterance without a prediction, and the reason."""

    utterance: Utterance
    stage: Stage
    reason: str
    """A few words, the same for every utterance that fails so: ``missing``, ``too short``."""
    detail: str


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a result in the run folder: ``embeddings/utt1.npy``, ``embeddings.1-of-1.1.ark:17``, ``…:0:512``."""

    file: str
    """Path of the file, relative to OUT."""
    offset: int | None = None
    """Offset of the result in the file, in bytes; None: the result is the whole file."""
    size: int | None = None
    """Bytes of the result; None: its own header gives its length."""

    def __str__(self) -> str:
        numbers = [str(number) for number in (self.offset, self.size) if number is not None]
        return ":".join([self.file, *numbers])

    @classmethod
    def parse(cls, text: str) -> Place:
        """Parse the text that ``str`` returns; names of files in OUT have no colon.

        Raises:
            ValueError: the text is no place.
        """
        file, *numbers = text.split(":")
        if not file or len(numbers) > 2:
            raise ValueError(f"{text!r} is not a place in a run folder")
        return cls(file, *map(int, numbers))


@dataclass(frozen=True, slots=True)
class DoneRecord:
    """A finished utterance, whose embedding and timeline are on disk, as the journal keeps it."""

    index: int
    """Index in the input, counted from 0."""
    utt_id: str
    duration: float
    """Seconds of the utterance's audio."""
    num_frames: int
    windows: int
    label: str
    """The most probable class; empty where the model has no head."""
    posteriors: tuple[float, ...]
    """(labels,): probabilities in the model's order; empty where the model has no head."""
    embedding: Place | None
    """Place of the embedding; None: no embedding, or ``layers`` instead."""
    timelines: tuple[Place, ...] = ()
    """Places of the rows of each timeline."""
    source_checksum: int = 0
    """CRC-32 of the utterance's source."""
    rows: str = ""
    """Rows of the timeline, where they go to standard output; else empty."""
    layers: tuple[Place, ...] = ()
    """Places of the embeddings of each layer that was chosen; empty without a choice."""


@dataclass(frozen=True, slots=True)
class FailureReason:
    """A reason for which utterances failed."""

    reason: str
    """Reason, as in ``Failure``."""
    count: int
    example: int
    """Index of the first utterance that failed for this reason."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and times of a run that has ended."""

    input: int
    done: int
    failed: int
    audio_seconds: float
    """Seconds of audio that were done, by this run and by those it resumed."""
    wall_seconds: float
    """Wall-clock seconds of this run and of those it resumed; of concurrent shards, the slowest counts."""
    encode_seconds: float
    """Seconds from the loaded model to the last result, counted like ``wall_seconds``."""

    reasons: tuple[FailureReason, ...] = ()
    """Reasons of the failures, the most frequent first; empty if not known."""
    cause: str = ""
    """Likely cause and next move, if most utterances failed for one reason; else empty."""
    stopped: bool = False
    """Whether a signal stopped the run before its end."""

    @property
    def left(self) -> int:
        """Utterances that are neither done nor failed."""
        return self.input - self.done - self.failed

    @property
    def speed(self) -> float:
        """Seconds of audio encoded per second: × real time."""
        return self.audio_seconds / self.encode_seconds if self.encode_seconds else 0.0
