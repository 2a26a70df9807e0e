"""Parts of utterances → MP3 that a page carries, of the samples that the model heard."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from e2v_cli.audio.decode import AudioOptions, load_waveforms
from e2v_cli.records import SAMPLE_RATE, Failure, Segment, Utterance
from e2v_cli.report.examples import Example, Part

PEAKS = 150
"""Columns of the picture of a waveform."""

PEAK_HEIGHT = 100
"""The highest value of a column."""

READERS = 4
"""Recordings that are read at once: commands and URLs are waited for."""


@dataclass(frozen=True)
class Clip:
    """A part of an utterance that can be played."""

    part: Part
    mp3: str
    """MP3 in base64."""
    peaks: tuple[int, ...]
    """(columns,): the largest sample of each, from 0 to PEAK_HEIGHT, which is that of the loudest column."""


def make_clips(wanted: Sequence[tuple[Example, Part, Utterance | str]], options: AudioOptions) -> list[Clip | str]:
    """Make the clip of each example; a text tells why an example has no clip.

    Args:
        wanted: examples, their parts that are played, and their utterances, or why one is not found.
        options: how audio is read.
    """

    def make(item: tuple[Example, Part, Utterance | str]) -> Clip | str:
        example, part, utterance = item
        return utterance if isinstance(utterance, str) else _make_clip(example, part, utterance, options)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(make, wanted))


def _make_clip(example: Example, part: Part, utterance: Utterance, options: AudioOptions) -> Clip | str:
    if part != example.whole:
        begin = utterance.segment.start if utterance.segment else 0.0
        utterance = replace(utterance, segment=Segment(begin + part.start, begin + part.end))
    try:
        (item,) = load_waveforms([utterance], options, lambda: False)
    except OSError as error:
        return f"unreadable: {error.strerror or error}"
    if isinstance(item, Failure):
        return f"{item.reason}: {item.detail}"
    return Clip(part, base64.b64encode(encode_mp3(item.whole)).decode(), find_peaks(item.whole))


def encode_mp3(samples: NDArray[np.float32]) -> bytes:
    """Encode (samples,) at 16 kHz in 48 kbit/s, always to the same bytes: 8 kB a second in base64."""
    file = BytesIO()
    soundfile.write(
        file,
        np.clip(samples, -1.0, 1.0),
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=0.75,
    )
    return file.getvalue()


def find_peaks(samples: NDArray[np.float32]) -> tuple[int, ...]:
    """Find the largest of (samples,) in each column of a picture, as a share of the largest of all."""
    columns = min(PEAKS, len(samples))
    starts = np.arange(columns) * len(samples) // columns
    peaks = np.maximum.reduceat(np.abs(samples), starts)
    return tuple(np.rint(PEAK_HEIGHT * peaks / max(float(peaks.max()), 1e-9)).astype(int).tolist())
