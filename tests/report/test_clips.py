"""Clips: samples that the model heard, as MP3."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from e2v_cli.audio.decode import AudioOptions
from e2v_cli.options import ComputeOptions, InputOptions
from e2v_cli.records import SAMPLE_RATE, Segment, Utterance
from e2v_cli.report.clips import Clip, encode_mp3, find_peaks, make_clips
from e2v_cli.report.examples import Example, Part

OPTIONS = AudioOptions(InputOptions(()), ComputeOptions(), min_samples=1)


def tone(hertz: float, seconds: float, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def pitch(mp3: str) -> tuple[float, float]:
    """Return the seconds of a clip, and its strongest frequency."""
    samples, rate = soundfile.read(BytesIO(base64.b64decode(mp3)))
    assert rate == SAMPLE_RATE
    spectrum = np.abs(np.fft.rfft(samples))
    return len(samples) / rate, float(spectrum.argmax()) * rate / len(samples)


def clip_of(utterance: Utterance | str, part: Part, duration: float) -> Clip | str:
    (made,) = make_clips([(Example(0, "a", 0, (), duration, "", ()), part, utterance)], OPTIONS)
    return made


def test_clip_has_the_samples_at_16_khz(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(440, 2.0, 44_100)] * 2, axis=1), 44_100)
    clip = clip_of(Utterance(0, "a", str(path)), Part(0.0, 2.0), 2.0)
    assert isinstance(clip, Clip)
    assert pitch(clip.mp3) == pytest.approx((2.0, 440.0), abs=0.6)
    assert max(clip.peaks) == 100
    assert len(clip.peaks) == 150


@pytest.mark.parametrize("segment", [None, Segment(2.0, None), Segment(2.0, 8.0)])
def test_part_is_cut_from_the_utterance(tmp_path: Path, segment: Segment | None) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([tone(300 + 100 * number, 1.0) for number in range(8)]), SAMPLE_RATE)
    begin = segment.start if segment else 0.0
    clip = clip_of(Utterance(0, "a", str(path), segment=segment), Part(3.0, 4.0), 8.0 - begin)
    assert isinstance(clip, Clip)
    assert pitch(clip.mp3) == pytest.approx((1.0, 300 + 100 * (begin + 3)), abs=1.5)
    assert clip.part == Part(3.0, 4.0)


def test_missing_audio_has_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "gone.wav"
    assert clip_of(Utterance(0, "a", str(path)), Part(0.0, 1.0), 1.0) == f"missing: {path}: no such file"
    assert clip_of("the list is gone", Part(0.0, 1.0), 1.0) == "the list is gone"


def test_recording_that_became_shorter_has_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(440, 1.0), SAMPLE_RATE)
    clip = clip_of(Utterance(0, "a", str(path)), Part(30.0, 40.0), 60.0)
    assert clip == f"beyond the end: {path}: it begins at 30 s, the recording ends at 1 s"


def test_same_samples_are_the_same_bytes_of_48_kbit_per_second() -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, 15 * SAMPLE_RATE).astype(np.float32)
    first = encode_mp3(noise)
    assert encode_mp3(noise.copy()) == first
    assert len(first) / 15 == pytest.approx(6000, rel=0.01)


def test_peaks_follow_the_loudness() -> None:
    samples = np.concatenate([np.zeros(75, np.float32), np.full(74, -0.25, np.float32), np.full(1, 0.5, np.float32)])
    assert find_peaks(samples) == (0,) * 75 + (50,) * 74 + (100,)
    assert find_peaks(np.zeros(3, np.float32)) == (0, 0, 0)
