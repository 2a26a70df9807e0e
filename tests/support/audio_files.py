"""Audio of known samples, in any format that soundfile writes, valid or broken."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000


def noisy_tone(num_samples: int, num_channels: int = 1, rate: int = RATE) -> NDArray[np.int16]:
    """Make a tone of another pitch in each channel, with some noise: (samples,) or (samples, channels)."""
    pitches = 300 * (1 + np.arange(num_channels))
    tones = 0.3 * np.sin(2 * np.pi * np.outer(np.arange(num_samples), pitches) / rate)
    noise = 0.01 * np.random.default_rng(0).standard_normal(tones.shape)
    samples = np.round((tones + noise) * 2**15).astype(np.int16)
    return samples[:, 0] if num_channels == 1 else samples


def as_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Scale integers to ±1, as decoders do."""
    return (samples / (np.iinfo(samples.dtype).max + 1)).astype(np.float32)


def encode(samples: NDArray[Any], kind: str = "WAV", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    """Make the content of an audio file; ``kind`` and ``subtype`` are soundfile's names."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def encode_mp3(samples: NDArray[Any], mode: str, rate: int = RATE) -> bytes:
    """Make an MP3 file; ``mode`` is CONSTANT, AVERAGE or VARIABLE."""
    file = io.BytesIO()
    num_channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(
        file, "w", rate, num_channels, "MPEG_LAYER_III", format="MP3", compression_level=0.5, bitrate_mode=mode
    ) as encoder:
        encoder.write(samples)
    return file.getvalue()


def without_length(mp3: bytes) -> bytes:
    """Cut off the first frame of an MP3 file, which holds the length of the file and no audio."""
    assert b"Info" in mp3[:200] or b"Xing" in mp3[:200]
    return mp3[mp3.index(mp3[:2], 4) :]


def with_wav_size(wav: bytes, size: int) -> bytes:
    """Make a WAV file claim another number of bytes of audio."""
    assert wav[36:40] == b"data"
    return wav[:40] + struct.pack("<I", size) + wav[44:]


def with_wav_rate(wav: bytes, rate: int) -> bytes:
    """Make a WAV file claim another sample rate."""
    return wav[:24] + struct.pack("<I", rate) + wav[28:]


def with_flac_samples(flac: bytes, num_samples: int) -> bytes:
    """Make a FLAC file claim another number of samples; it has 36 bits for them."""
    assert flac[:4] == b"fLaC"
    field = int.from_bytes(flac[18:26], "big") >> 36 << 36 | num_samples
    return flac[:18] + field.to_bytes(8, "big") + flac[26:]
