"""Damaged files of all containers are read whole, or fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.audio_files import RATE, encode, encode_mp3, noisy_tone
from support.ffmpeg import decode_by_ffmpeg, encode_by_ffmpeg
from support.fuzzing import mutate, read_all

from e2v_cli.audio.formats import AUDIO_FORMATS

TONE = noisy_tone(RATE // 2)
WAV = encode(TONE)

FILES = {
    "wav": WAV,
    "float.wav": encode(TONE, "WAVEX", "FLOAT"),
    "adpcm.wav": encode(TONE, "WAV", "IMA_ADPCM"),
    "rf64": encode(TONE, "RF64"),
    "w64": encode(TONE, "W64"),
    "aiff": encode(TONE, "AIFF", "PCM_24"),
    "au": encode(TONE, "AU", "ULAW"),
    "sph": encode(TONE, "NIST"),
    "flac": encode(TONE, "FLAC"),
    "vorbis.ogg": encode(TONE, "OGG", "VORBIS"),
    "opus": encode(TONE, "OGG", "OPUS"),
    "mp3": encode_mp3(TONE, "CONSTANT"),
    "variable.mp3": encode_mp3(TONE, "VARIABLE"),
    "m4a": encode_by_ffmpeg(WAV, ".m4a"),
    "fragmented.mp4": encode_by_ffmpeg(WAV, ".mp4", "-movflags", "frag_keyframe+empty_moov"),
    "alac.mov": encode_by_ffmpeg(WAV, ".mov", "-c:a", "alac"),
    "mka": encode_by_ffmpeg(WAV, ".mka", "-c:a", "flac"),
    "webm": encode_by_ffmpeg(WAV, ".webm", "-c:a", "libopus"),
    "wma": encode_by_ffmpeg(WAV, ".wma"),
    "wv": encode_by_ffmpeg(WAV, ".wv"),
    "ac3": encode_by_ffmpeg(WAV, ".ac3"),
    "aac": encode_by_ffmpeg(WAV, ".aac"),
    "caf": encode_by_ffmpeg(WAV, ".caf"),
    "alac.caf": encode_by_ffmpeg(WAV, ".caf", "-c:a", "alac"),
    "avi": encode_by_ffmpeg(WAV, ".avi"),
    "eac3": encode_by_ffmpeg(WAV, ".eac3"),
    "amr": encode_by_ffmpeg(WAV, ".amr", "-ar", "8000"),
}

NUM_MUTATIONS = 2000


def test_damaged_files_are_whole_or_fail(tmp_path: Path) -> None:
    """Without a crash, in little time and memory; and never of another length, unless FFmpeg finds that one, too."""
    rng = random.Random(0)
    intact = []
    for name, content in FILES.items():
        intact.append(tmp_path / f"0.{name}")
        intact[-1].write_bytes(content)
    lengths = {path.name[2:]: outcome for path, outcome, _, _ in read_all(intact)}
    assert all(isinstance(length, int) for length in lengths.values()), lengths
    paths = []
    for number in range(1, NUM_MUTATIONS + 1):
        name = list(FILES)[number % len(FILES)]
        paths.append(tmp_path / f"{number}.{name}")
        paths[-1].write_bytes(mutate(FILES[name], rng))

    wrong = []
    num_whole = 0
    for path, outcome, seconds, peak in read_all(paths):
        assert seconds < 60, path
        assert peak < 300, path
        if isinstance(outcome, int):
            num_whole += 1
            if outcome != lengths[path.name.split(".", 1)[1]] and outcome != len(decode_by_ffmpeg(path)):
                wrong.append((path.name, outcome, len(decode_by_ffmpeg(path))))
    assert wrong == []
    assert NUM_MUTATIONS / 20 < num_whole < NUM_MUTATIONS


@pytest.mark.parametrize("name", sorted(set(AUDIO_FORMATS) - {"ape"}))  # which FFmpeg does not encode
def test_every_container_is_among_the_damaged_files(name: str) -> None:
    assert any(AUDIO_FORMATS[name].matches(content) for content in FILES.values())
