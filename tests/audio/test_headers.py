"""NIST SPHERE files, whose header is text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.audio_files import RATE, encode, noisy_tone

from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.formats import open_audio

SPHERE = encode(noisy_tone(RATE, num_channels=2), "NIST")


def replaced(old: bytes, new: bytes) -> bytes:
    """Replace a text in the header, whose length stays the same."""
    assert SPHERE.count(old) == 1
    content = SPHERE.replace(old, new)
    header, _, rest = content.partition(b"end_head\n")
    padding = rest[: len(rest) - (len(SPHERE) - 1024)]
    return header + b"end_head\n" + bytes(1024 - len(header) - 9) + rest[len(padding) :]


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24", "PCM_32", "ULAW", "ALAW"])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_samples_are_those_of_libsndfile(subtype: str, endian: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    soundfile.write(path, noisy_tone(5000, num_channels=2), RATE, subtype, endian, "NIST")

    with open_audio(str(path)) as decoder:
        assert decoder.num_samples == 5000
        np.testing.assert_array_equal(decoder.read(9999), soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (
            replaced(b"sample_coding -s3 pcm", b"sample_coding -s26 pcm,embedded-shorten-v2.00"),
            "unreadable",
            "SPHERE with samples in pcm,embedded-shorten-v2.00: convert it, sph2pipe -f wav IN.sph OUT.wav",
        ),
        (
            replaced(b"sample_coding -s3 pcm", b"sample_coding -s19 ulaw,shorten-v1.09x"),
            "unreadable",
            "SPHERE with samples in ulaw,shorten-v1.09x: convert it, sph2pipe -f wav IN.sph OUT.wav",
        ),
        (
            replaced(b"sample_count", b"sample_coant"),
            "unreadable",
            "its header has no sample_count: copy the file again",
        ),
        (replaced(b"sample_rate -i 16000", b"sample_rate -i 0"), "not audio", "a sample rate of 0 Hz"),
        (replaced(b"channel_count -i 2", b"channel_count -i 0"), "not audio", "0 channels"),
        (
            replaced(b"sample_n_bytes -i 2", b"sample_n_bytes -i 9"),
            "unreadable",
            "SPHERE with 9-byte samples in pcm is not read: convert it",
        ),
        (
            replaced(b"sample_count -i 16000", b"sample_count -i 1600"),
            "unreadable",
            "the header declares 6400 bytes of audio, the file has 64000: "
            "if all is audio, mend the header: sox --ignore-length IN OUT",
        ),
        (
            SPHERE[:-2000],
            "truncated",
            "the header declares 64000 bytes of audio, the file has 62000: copy it again",
        ),
    ],
)
def test_unusable_sphere_file_fails_with_reason(content: bytes, reason: str, detail: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    path.write_bytes(content)

    with pytest.raises(AudioError) as error:
        open_audio(str(path))

    assert (error.value.reason, str(error.value)) == (reason, detail)
