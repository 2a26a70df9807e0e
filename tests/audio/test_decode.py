"""Audio files are read whole and exactly, or fail with the reason."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray
from support.audio_files import (
    RATE,
    as_float,
    encode,
    encode_mp3,
    noisy_tone,
    with_flac_samples,
    with_wav_rate,
    with_wav_size,
    without_length,
)
from support.kaldi_folders import kaldi_bounds

from e2v_cli.audio.decode import AudioOptions, HeaderInfo, count_channels, inspect_headers, load_waveforms
from e2v_cli.audio.sources import FetchLimits
from e2v_cli.options import ComputeOptions, InputOptions, OneChannel, ResamplerName
from e2v_cli.records import Failure, Segment, Utterance, Waveform
from e2v_cli.system.spool import DiskWaveform

OPTIONS = AudioOptions(InputOptions(()), ComputeOptions(), min_samples=400)
WINDOW_OF_A_SECOND = dataclasses.replace(OPTIONS, compute=ComputeOptions(window=1.0))

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
}

TONE = noisy_tone(2 * RATE)
LONG_TONE = noisy_tone(10 * RATE)
WAV = encode(TONE)
FLAC = encode(TONE, "FLAC")


def never() -> bool:
    return False


def load(path: Path | str, options: AudioOptions = OPTIONS) -> Waveform | Failure:
    """Load a file as an utterance."""
    (result,) = load_waveforms([Utterance(0, "utt", str(path))], options, never)
    return result


def in_blocks(samples: int) -> AudioOptions:
    """Return options by which so many samples are read at a time."""
    return dataclasses.replace(OPTIONS, block_samples=samples)


def read(path: Path | str, options: AudioOptions = OPTIONS) -> NDArray[np.float32]:
    """Load a file at 16 kHz of any length."""
    waveform = load(path, dataclasses.replace(options, min_samples=1))
    assert isinstance(waveform, Waveform)
    assert waveform.duration == len(waveform.whole) / RATE
    return waveform.whole


def failure(path: Path | str) -> tuple[str, str, str]:
    """Load an unusable file: (stage, reason, detail)."""
    result = load(path)
    assert isinstance(result, Failure)
    assert result.utterance.utt_id == "utt"
    return result.stage, result.reason, result.detail


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "subtype"),
    [
        ("a.wav", "WAV", "PCM_16"),
        ("no_suffix", "WAV", "PCM_16"),
        ("a.wavex", "WAVEX", "PCM_16"),
        ("a.flac", "FLAC", "PCM_16"),
        ("a.aiff", "AIFF", "PCM_16"),
        ("a.au", "AU", "PCM_16"),
        ("a.w64", "W64", "PCM_16"),
        ("a.rf64", "RF64", "PCM_16"),
        ("a.sph", "NIST", "PCM_16"),
        ("a.raw", "WAV", "PCM_16"),
    ],
)
def test_lossless_formats_keep_all_samples(name: str, kind: str, subtype: str, tmp_path: Path) -> None:
    samples = read(write(tmp_path / name, encode(TONE, kind, subtype)))

    assert samples.dtype.name == "float32"
    np.testing.assert_array_equal(samples, as_float(TONE))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF"])
def test_all_24_bits_are_kept(kind: str, tmp_path: Path) -> None:
    written = np.random.default_rng(0).integers(-(2**23), 2**23, 1000, dtype=np.int32) << 8

    samples = read(write(tmp_path / "a", encode(written, kind, "PCM_24")))

    np.testing.assert_array_equal(samples, as_float(written))


def test_floats_beyond_full_scale_are_kept(tmp_path: Path) -> None:
    written = np.array([0.1, -1.5, 2.0, 1e-30], dtype=np.float32)

    samples = read(write(tmp_path / "a.wav", encode(written, subtype="FLOAT")))

    np.testing.assert_array_equal(samples, written)


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("OGG", "VORBIS", 0.04),
        ("OGG", "OPUS", 0.08),
        ("MP3", "MPEG_LAYER_III", 0.04),
        ("WAV", "ULAW", 0.01),
        ("NIST", "ALAW", 0.01),
    ],
)
def test_lossy_formats_keep_length_and_approximate_values(
    kind: str, subtype: str, tolerance: float, tmp_path: Path
) -> None:
    samples = read(write(tmp_path / "a", encode(TONE, kind, subtype)))

    assert (samples.dtype.name, samples.shape) == ("float32", TONE.shape)
    np.testing.assert_allclose(samples, as_float(TONE), rtol=0, atol=tolerance)


@pytest.mark.parametrize("num_channels", [2, 3, 6])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_channels_are_averaged(num_channels: int, kind: str, tmp_path: Path) -> None:
    channels = noisy_tone(RATE, num_channels)

    samples = read(write(tmp_path / "a", encode(channels, kind)))

    np.testing.assert_allclose(samples, channels.mean(axis=1) / 2**15, rtol=0, atol=1e-7)


@pytest.mark.parametrize("num_samples", [1999, 2000, 2001])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_files_longer_than_a_block_are_read_whole(num_samples: int, num_channels: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", encode(noisy_tone(num_samples, num_channels)))
    at_once = read(path)

    np.testing.assert_array_equal(read(path, in_blocks(500 * num_channels)), at_once)
    assert len(at_once) == num_samples


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_are_resampled_to_16_khz(rate: int, tmp_path: Path) -> None:
    samples = noisy_tone(12_345, rate=rate)

    waveform = load(write(tmp_path / "a.wav", encode(samples, rate=rate)))

    assert isinstance(waveform, Waveform)
    assert waveform.duration == 12_345 / rate
    assert waveform.whole.dtype == np.float32
    assert abs(len(waveform.samples) - 12_345 * RATE / rate) < 1
    np.testing.assert_array_equal(waveform.whole, soxr.resample(as_float(samples), rate, RATE, quality="HQ"))


def test_resampling_keeps_a_tone_and_removes_higher_frequencies(tmp_path: Path) -> None:
    """The output is the tone sampled at 16 kHz, with any resampling library."""
    low, high = (0.5 * np.sin(2 * np.pi * pitch * np.arange(44_100) / 44_100) for pitch in (1_000, 12_000))

    waveform = load(write(tmp_path / "a.wav", encode(low + high, subtype="FLOAT", rate=44_100)))

    assert isinstance(waveform, Waveform)
    expected = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(RATE) / RATE)
    inside = slice(1_000, -1_000)  # at the ends the filter sees the silence around the file
    np.testing.assert_allclose(waveform.whole[inside], expected[inside], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "content", "reason", "detail"),
    [
        ("a.wav", b"", "empty", "0 bytes"),
        (
            "a.wav",
            b"This is a text.\n" * 100,
            "not audio",
            "no known format: it begins with 'This is a text.\\n'",
        ),
        ("a.flac", bytes(5000), "not audio", f"no known format: it begins with {str(bytes(16))[1:]}"),
        ("a.wav", with_wav_rate(WAV, 1), "not audio", "a sample rate of 1 Hz"),
        ("a.wav", with_wav_rate(WAV, 1_000_001), "not audio", "a sample rate of 1000001 Hz"),
        ("a.wav", encode(TONE[:0]), "zero length", "holds no samples"),
        ("a.wav", encode(np.array([0.0] * 500 + [np.nan]), subtype="FLOAT"), "not finite", "NaN or infinite samples"),
        ("a.wav", encode(np.array([np.inf] + [0.0] * 500), subtype="DOUBLE"), "not finite", "NaN or infinite samples"),
        (
            "a.au",
            encode(np.array([0.0] * 500 + [-np.inf]), "AU", "FLOAT"),
            "not finite",
            "NaN or infinite samples",
        ),
        ("a.wav", encode(TONE[:399]), "too short", "399 samples at 16 kHz; the model needs 400 (25 ms)"),
        (
            "a.wav",
            encode(TONE[:797], rate=32_000),
            "too short",
            "399 samples at 16 kHz; the model needs 400 (25 ms)",
        ),
        (
            "a.wav",
            WAV[:-1],
            "truncated",
            "the header declares 64000 bytes of audio, the file has 63999, 1 less: copy it again, "
            "or, if that is all, mend the header: sox --ignore-length IN OUT",
        ),
        (
            "a.wav",
            with_wav_size(WAV, 0x4000_0000),
            "truncated",
            "the header declares 1073741824 bytes of audio, the file has 64000: copy it again",
        ),
        (
            "a.wav",
            with_wav_size(WAV, 0x9000_0000),
            "truncated",
            "the header declares 2415919104 bytes of audio, the file has 64000: copy it again",
        ),
        (
            "a.sph",
            encode(TONE, "NIST")[:-2],
            "truncated",
            "the header declares 64000 bytes of audio, the file has 63998, 2 less: "
            "copy it again, or, if that is all, mend the header: sox --ignore-length IN OUT",
        ),
        (
            "a.flac",
            with_flac_samples(FLAC, 10 * 3600 * RATE),
            "truncated",
            "the frame of sample 32000 is missing: copy the file again",
        ),
    ],
)
def test_bad_audio_fails_with_reason(name: str, content: bytes, reason: str, detail: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)

    assert failure(path) == ("audio", reason, f"{path}: {detail}")


@pytest.mark.parametrize(
    ("make", "reason", "detail"),
    [
        (lambda _path: None, "missing", "no such file"),
        (lambda path: path.symlink_to("nowhere"), "missing", "no such file"),
        (Path.mkdir, "unreadable", "not a regular file"),
        (os.mkfifo, "unreadable", "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "unreadable", "not a regular file"),
        (lambda path: path.symlink_to(path), "unreadable", "Too many levels of symbolic links"),
    ],
    ids=["missing", "dangling link", "folder", "fifo", "device", "circular link"],
)
def test_missing_or_irregular_file_fails_with_reason(
    make: Callable[[Path], Any], reason: str, detail: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    make(path)

    assert failure(path) == ("audio", reason, f"{path}: {detail}")


def test_path_below_a_file_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", WAV) / "b.wav"

    assert failure(path) == ("audio", "unreadable", f"{path}: Not a directory")


def test_a_null_byte_in_a_path_fails() -> None:
    assert failure("a\0b.wav") == ("audio", "unreadable", "a\0b.wav: a NUL character in the path")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", WAV)
    path.chmod(0)

    assert failure(path) == ("audio", "unreadable", f"{path}: Permission denied")


def test_a_frame_of_400_samples_is_enough(tmp_path: Path) -> None:
    waveform = load(write(tmp_path / "a.wav", encode(TONE[:400])))

    assert isinstance(waveform, Waveform)
    assert (len(waveform.samples), waveform.duration) == (400, 0.025)


def test_a_path_of_any_bytes_is_read(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff caf\xe9.wav"
    with open(path, "wb") as file:
        file.write(WAV)

    samples = read(os.fsdecode(path))

    np.testing.assert_array_equal(samples, as_float(TONE))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", ["half", "all but 3 bytes"])
def test_truncated_audio_fails(part: str, name: str, tmp_path: Path) -> None:
    content = encode(LONG_TONE, *FORMATS[name])
    path = write(tmp_path / f"a.{name}", content[: len(content) // 2 if part == "half" else -3])

    stage, reason, detail = failure(path)

    assert (stage, reason) == ("audio", "truncated")
    assert detail.startswith(f"{path}: ")


@pytest.mark.parametrize("name", [*FORMATS, "caf", "voc"])
def test_file_truncated_anywhere_fails(name: str, tmp_path: Path) -> None:
    """Also within the header."""
    kind, subtype = FORMATS.get(name, (name.upper(), "PCM_16"))
    content = encode(TONE[: RATE // 2], kind, subtype)
    path = tmp_path / f"a.{name}"
    sizes = {
        *range(1, 120, 7),
        *np.linspace(120, len(content) - 1, 40, dtype=int),
        *range(len(content) - 8, len(content)),
    }

    results = {size: load(write(path, content[:size])) for size in sorted(sizes)}

    assert [size for size, result in results.items() if isinstance(result, Waveform)] == []
    assert {result.reason for result in results.values() if isinstance(result, Failure)} <= {
        "not audio",
        "truncated",
        "unreadable",
        "zero length",
    }


@pytest.mark.parametrize("name", ["flac", "ogg", "opus"])
def test_a_damaged_byte_in_formats_with_checksums_fails(name: str, tmp_path: Path) -> None:
    content = encode(LONG_TONE, *FORMATS[name])
    path = tmp_path / f"a.{name}"
    for position in np.linspace(len(content) // 2, len(content) - 3, 20, dtype=int):
        write(path, content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])

        assert failure(path)[:2] == ("audio", "truncated")


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000])
def test_wav_file_written_to_a_pipe_is_read_whole(size: int, tmp_path: Path) -> None:
    """Its header has the greatest size, as its writer could not know the true one."""
    samples = read(write(tmp_path / "a.wav", with_wav_size(WAV, size)))

    np.testing.assert_array_equal(samples, as_float(TONE))


def test_au_file_written_to_a_pipe_is_read_whole(tmp_path: Path) -> None:
    content = encode(TONE, "AU")

    samples = read(write(tmp_path / "a.au", content[:8] + b"\xff\xff\xff\xff" + content[12:]))

    np.testing.assert_array_equal(samples, as_float(TONE))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "junk",
    [b"TAG" + bytes(125), b"LIST\x0c\0\0\0INFOsomething", b"\x01\x02\x03\x04" * 250],
    ids=["ID3v1", "LIST", "noise"],
)
def test_trailing_junk_is_ignored(name: str, junk: bytes, tmp_path: Path) -> None:
    content = encode(TONE, *FORMATS[name])
    whole = read(write(tmp_path / "whole", content))

    samples = read(write(tmp_path / "junk", content + junk))

    np.testing.assert_array_equal(samples, whole)


def test_leading_id3_tag_is_ignored(tmp_path: Path) -> None:
    content = encode(TONE, "MP3", "MPEG_LAYER_III")
    whole = read(write(tmp_path / "whole", content))
    tag = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)

    samples = read(write(tmp_path / "tagged", tag + content))

    np.testing.assert_array_equal(samples, whole)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mp3_of_constant_bit_rate_needs_no_length(rate: int, tmp_path: Path) -> None:
    content = without_length(encode_mp3(LONG_TONE, "CONSTANT", rate))
    whole, cut = write(tmp_path / "whole.mp3", content), write(tmp_path / "cut.mp3", content[:-10])

    waveform = load(whole)

    assert isinstance(waveform, Waveform)
    num_samples = round(waveform.duration * rate)
    assert 0 <= num_samples - len(LONG_TONE) < 3 * 1152  # the encoder's delay, and the rest of the last frame
    assert failure(cut)[:2] == ("audio", "truncated")


def test_mp3_of_variable_bit_rate_needs_no_length(tmp_path: Path) -> None:
    """A constant rate would have its end before its middle."""
    speech_and_silence = np.concatenate([TONE, np.zeros(8 * RATE, np.int16), TONE])
    path = write(tmp_path / "a.mp3", without_length(encode_mp3(speech_and_silence, "VARIABLE")))

    assert 0 <= len(read(path)) - len(speech_and_silence) < 3 * 1152


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_chained_ogg_streams_fail(name: str, tmp_path: Path) -> None:
    """Only the first would be read by libsndfile."""
    first, second = (encode(samples, *FORMATS[name]) for samples in (TONE, TONE[::-1].copy()))
    path = write(tmp_path / f"a.{name}", first + second)

    assert failure(path)[:2] == ("audio", "unreadable")


@pytest.mark.parametrize(
    "content",
    [with_wav_size(WAV, 0x7FFF_0000), with_flac_samples(FLAC, 100 * 3600 * RATE), with_wav_size(WAV, 0xFFFF_FFFF)],
    ids=["wav", "flac", "wav from a pipe"],
)
def test_memory_depends_on_audio_not_on_its_header(content: bytes, tmp_path: Path) -> None:
    """Headers claim hours, or gigabytes."""
    path = write(tmp_path / "a", content)
    tracemalloc.start()
    try:
        load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20e6


@pytest.mark.parametrize("resampler", ["soxr", "torchaudio"])
@pytest.mark.parametrize("rate", [8_000, RATE, 44_100])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_waveform_longer_than_a_window_is_kept_on_disk(
    kind: str, rate: int, resampler: ResamplerName, tmp_path: Path
) -> None:
    """The window is a second; the samples are the same, to the bit, and in blocks of any size."""
    subtype = "VORBIS" if kind == "OGG" else "PCM_16"
    given = InputOptions((), resampler=resampler)
    options = dataclasses.replace(WINDOW_OF_A_SECOND, input=given, block_samples=3000)
    fits = load(write(tmp_path / "fits", encode(noisy_tone(rate, rate=rate), kind, subtype, rate)), options)
    path = write(tmp_path / "longer", encode(noisy_tone(rate + 1, rate=rate), kind, subtype, rate))
    longer, whole = load(path, options), load(path, dataclasses.replace(OPTIONS, input=given))

    assert isinstance(fits, Waveform)
    assert isinstance(longer, Waveform)
    assert isinstance(whole, Waveform)
    assert isinstance(fits.samples, np.ndarray)
    assert isinstance(longer.samples, DiskWaveform)
    assert longer.duration == whole.duration == (rate + 1) / rate
    assert len(longer.samples) == len(whole.samples)
    assert longer.whole.tobytes() == whole.whole.tobytes()
    assert longer.samples.mean == pytest.approx(whole.whole.mean(), abs=1e-6)
    assert longer.samples.variance == pytest.approx(whole.whole.var(), abs=1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (WAV[:-3], "truncated"),
        (with_flac_samples(FLAC, 10 * 3600 * RATE), "truncated"),
        (encode(np.array([0.0] * RATE + [np.nan]), subtype="FLOAT"), "not finite"),
    ],
)
def test_audio_on_disk_fails_like_audio_in_memory(content: bytes, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", content)

    result = load(path, WINDOW_OF_A_SECOND)

    assert isinstance(result, Failure)
    assert (result.stage, result.reason, result.detail) == failure(path)
    assert result.reason == reason


def test_a_full_disk_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch")

    monkeypatch.setattr(DiskWaveform, "append", fail)

    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '/scratch'$"):
        load(write(tmp_path / "a.wav", WAV), WINDOW_OF_A_SECOND)


# -- channels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "listed", "of_recording", "expected"),
    [
        (0, None, None, 0),
        (2, None, None, 2),
        ("mix", 1, None, 1),
        (0, 1, None, 1),
        ("mix", None, 2, 2),
        (0, None, 2, 2),
        (0, 1, 2, 1),
    ],
)
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_one_of_several_channels_is_read(
    kind: str, option: OneChannel, listed: int | None, of_recording: int | None, expected: int, tmp_path: Path
) -> None:
    """``segments`` takes precedence over ``reco2file_and_channel``, and both over the option."""
    channels = noisy_tone(RATE, 3)
    path = write(tmp_path / "a", encode(channels, kind))
    utterance = Utterance(0, "utt", str(path), channel=listed, recording_channel=of_recording)

    (result,) = load_waveforms([utterance], dataclasses.replace(OPTIONS, input=InputOptions((), option)), never)

    assert isinstance(result, Waveform)
    np.testing.assert_array_equal(result.whole, as_float(channels[:, expected]))


@pytest.mark.parametrize(
    ("num_channels", "option", "listed", "of_recording", "detail"),
    [
        (1, 1, None, None, "channel 2 of a file with 1 channel"),
        (2, 2, None, None, "channel 3 of a file with 2 channels"),
        (1, "mix", 1, None, "channel 2 of a file with 1 channel"),
        (2, "mix", None, 7, "channel 8 of a file with 2 channels"),
    ],
)
def test_missing_channel_fails(
    num_channels: int, option: OneChannel, listed: int | None, of_recording: int | None, detail: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.wav", encode(noisy_tone(RATE, num_channels)))
    utterance = Utterance(0, "utt", str(path), channel=listed, recording_channel=of_recording)

    (result,) = load_waveforms([utterance], dataclasses.replace(OPTIONS, input=InputOptions((), option)), never)

    assert result == Failure(utterance, "audio", "no such channel", f"{path}: {detail}")


def test_recording_channel_of_a_mono_file_is_its_only_channel(tmp_path: Path) -> None:
    """A call may be split into a file for each channel."""
    utterance = Utterance(0, "utt", str(write(tmp_path / "a.wav", WAV)), recording_channel=1)

    (result,) = load_waveforms([utterance], OPTIONS, never)

    assert isinstance(result, Waveform)
    np.testing.assert_array_equal(result.whole, as_float(TONE))


@pytest.mark.parametrize("num_channels", [1, 2, 6])
def test_channels_are_counted(num_channels: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", encode(noisy_tone(RATE, num_channels)))

    assert count_channels(Utterance(0, "utt", str(path)), lambda: False, FetchLimits(None)) == num_channels


@pytest.mark.parametrize("content", [None, b"", b"no audio"])
def test_unreadable_audio_has_no_channels(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)

    assert count_channels(Utterance(0, "utt", str(path)), lambda: False, FetchLimits(None)) == 0
    assert count_channels(Utterance(0, "utt", "cat a.wav |"), lambda: False, FetchLimits(None)) == 0


# -- segments ----------------------------------------------------------------------------------------------------------


def cut(path: Path, *times: tuple[float, float | None], **changes: Any) -> list[Utterance]:
    """Make utterances of parts of a file."""
    return [
        Utterance(index, f"utt{index}", str(path), segment=Segment(start, end), **changes)
        for index, (start, end) in enumerate(times)
    ]


def load_all(utterances: list[Utterance], options: AudioOptions = OPTIONS) -> dict[str, Waveform | tuple[str, str]]:
    """Load utterances of a recording: the waveform of each, or (reason, detail without the path)."""
    results = list(load_waveforms(utterances, options, never))
    assert len(results) == len(utterances)
    return {
        result.utterance.utt_id: result
        if isinstance(result, Waveform)
        else (result.reason, result.detail.removeprefix(f"{result.utterance.source}: "))
        for result in results
    }


@pytest.mark.parametrize("left_out", [0, 1, 5])
def test_order_of_segments_is_the_same_without_some(left_out: int, tmp_path: Path) -> None:
    """A resumed run leaves out failed ones; the others must be in the same batches again."""
    path = write(tmp_path / "a.wav", encode(noisy_tone(RATE)))
    utterances = cut(
        path, (0.01, 0.06), (0.05, 0.8), *((0.09 + 0.07 * number, 0.15 + 0.07 * number) for number in range(9))
    )

    def order(utterances: list[Utterance]) -> list[int]:
        return [result.utterance.index for result in load_waveforms(utterances, in_blocks(1000), never)]

    others = [utterance for utterance in utterances if utterance.index != left_out]
    assert order(others) == [index for index in order(utterances) if index != left_out]
    assert order(utterances) != sorted(order(utterances))


@pytest.mark.parametrize("block", [100, 5000, 1 << 20])
@pytest.mark.parametrize("name", ["wav", "flac", "sph", "aiff", "au", "w64", "rf64"])
def test_segments_have_the_samples_of_their_times(name: str, block: int, tmp_path: Path) -> None:
    """In any overlap and order; times between two samples are those of the first."""
    path = write(tmp_path / f"a.{name}", encode(LONG_TONE, *FORMATS[name]))
    times = [(3.0, 4.5), (0.0, 10.0), (9.5, None), (0.5, 1.0), (4.2, 4.3), (0.00003, 0.10004), (0.0, None), (3.0, 4.5)]

    results = load_all(cut(path, *times), in_blocks(block))

    bounds = [(48_000, 72_000), (0, None), (152_000, None), (8_000, 16_000), (67_200, 68_800), (0, 1600), (0, None)]
    for number, (first, end) in enumerate([*bounds, bounds[0]]):
        result = results[f"utt{number}"]
        assert isinstance(result, Waveform)
        np.testing.assert_array_equal(result.whole, as_float(LONG_TONE[first:end]))
        assert result.duration == len(result.whole) / RATE


@pytest.mark.parametrize("name", ["mp3", "ogg", "opus"])
def test_segments_of_lossy_formats_are_cut_from_the_whole(name: str, tmp_path: Path) -> None:
    """Exactly: a decoder that begins in the middle gives other samples."""
    path = write(tmp_path / f"a.{name}", encode(LONG_TONE, *FORMATS[name]))
    whole = read(path)

    results = load_all(cut(path, (3.0, 4.5), (9.5, None), (5.0, 5.1)))

    for number, part in enumerate([slice(48_000, 72_000), slice(152_000, None), slice(80_000, 81_600)]):
        result = results[f"utt{number}"]
        assert isinstance(result, Waveform)
        np.testing.assert_array_equal(result.whole, whole[part])


@pytest.mark.parametrize("block", [1000, 1 << 20])
@pytest.mark.parametrize("resampler", ["soxr", "torchaudio"])
def test_segments_are_resampled_separately(resampler: ResamplerName, block: int, tmp_path: Path) -> None:
    """Times refer to the file's own rate; a segment has the bits of a file of its samples."""
    tone = noisy_tone(5 * 44_100, rate=44_100)
    path = write(tmp_path / "a.wav", encode(tone, rate=44_100))
    options = dataclasses.replace(OPTIONS, input=InputOptions((), resampler=resampler), block_samples=block)

    results = load_all(cut(path, (1.0, 2.5), (1.5, 4.0)), options)

    for name, first, end in (("utt0", 44_100, 110_250), ("utt1", 66_150, 176_400)):
        result = results[name]
        alone = load(write(tmp_path / "alone.wav", encode(tone[first:end], rate=44_100)), options)
        assert isinstance(result, Waveform)
        assert isinstance(alone, Waveform)
        assert result.duration == (end - first) / 44_100
        assert result.whole.tobytes() == alone.whole.tobytes()


def test_segments_come_in_order_of_their_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", encode(LONG_TONE))
    utterances = cut(path, (6.0, 7.0), (0.0, None), (1.0, 2.0), (1.0, 9.0), (0.0, 1.5))

    order = [result.utterance.index for result in load_waveforms(utterances, in_blocks(8000), never)]

    assert order == [4, 2, 0, 3, 1]


@pytest.mark.parametrize(
    ("start", "end", "reason", "detail"),
    [
        (2.0, 3.0, "beyond the end", "it begins at 2 s, the recording ends at 2 s"),
        (60.0, None, "beyond the end", "it begins at 60 s, the recording ends at 2 s"),
        (1.0, 2.6, "beyond the end", "it ends at 2.6 s, the recording ends at 2 s"),
        (1.0, 2.5, "beyond the end", "it ends at 2.5 s, the recording ends at 2 s"),
        (1.0, 1.02, "too short", "320 samples at 16 kHz; the model needs 400 (25 ms)"),
        (1.0, 1.00001, "zero length", "holds no samples"),
    ],
)
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_unusable_segment_fails_alone(
    kind: str, start: float, end: float | None, reason: str, detail: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a", encode(TONE, kind, "VORBIS" if kind == "OGG" else "PCM_16"))

    results = load_all(cut(path, (start, end), (0.5, 1.5)))

    assert results["utt0"] == (reason, detail)
    assert isinstance(results["utt1"], Waveform)


@pytest.mark.parametrize("decimals", [2, 3, 4])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_segments_have_the_samples_of_kaldi(rate: int, decimals: int, tmp_path: Path) -> None:
    """A header alone tells the same lengths, and which segments fail."""
    tone = noisy_tone(rate, rate=rate)
    path = write(tmp_path / "a.wav", encode(tone, rate=rate))
    generator = random.Random(rate + decimals)
    edges = [(generator.uniform(0, 0.9), generator.uniform(0.93, 1.6)) for _ in range(50)]
    edges += [(0.5, 1.5), (0.5, 1.5 - 10**-decimals), (0.5, 1.5 - 1 / rate), (0.5, 1.0), (1.0, 1.2)]
    texts = [(f"{start:.{decimals}f}", f"{end:.{decimals}f}") for start, end in edges]
    utterances = cut(path, *((float(start), float(end)) for start, end in texts))

    results = load_all(utterances)
    headers = {info.utterance.index: info for info in inspect_headers(utterances, OPTIONS)}

    refused = 0
    for number, (start, end) in enumerate(texts):
        result, header = results[f"utt{number}"], headers[number]
        bounds = kaldi_bounds(start, end, rate, len(tone))
        if bounds is None:
            refused += 1
            assert isinstance(header, Failure)
            assert result == ("beyond the end", header.detail.removeprefix(f"{path}: "))
        else:
            assert isinstance(result, Waveform)
            assert isinstance(header, HeaderInfo)
            samples = as_float(tone[slice(*bounds)])
            assert result.duration == header.duration == len(samples) / rate
            by_sox = soxr.resample(samples, rate, RATE, quality="HQ")
            np.testing.assert_array_equal(result.whole[: len(by_sox)], by_sox)
    assert 3 <= refused < len(texts) // 2


@pytest.mark.parametrize("end", [2.0, 2.1, 2.4999])
def test_segment_may_end_less_than_half_a_second_after_its_recording(end: float, tmp_path: Path) -> None:
    """As in Kaldi; the segment then ends with the recording."""
    path = write(tmp_path / "a.wav", WAV)

    result = load_all(cut(path, (1.5, end)))["utt0"]

    assert isinstance(result, Waveform)
    assert result.duration == 0.5
    np.testing.assert_array_equal(result.whole, as_float(TONE[24_000:]))


def test_segments_of_both_channels_are_read_together(tmp_path: Path) -> None:
    channels = noisy_tone(2 * RATE, 2)
    path = write(tmp_path / "a.wav", encode(channels))
    first, second, third = cut(path, (0.0, 1.0), (0.5, 1.5), (0.5, 1.5))
    utterances = [dataclasses.replace(first, channel=1), dataclasses.replace(second, channel=0), third]

    results = load_all([*utterances, dataclasses.replace(third, index=3, utt_id="utt3", channel=2)])

    expected = [channels[:RATE, 1], channels[8_000:24_000, 0], channels[8_000:24_000].mean(axis=1)]
    for number, samples in enumerate(expected):
        result = results[f"utt{number}"]
        assert isinstance(result, Waveform)
        np.testing.assert_allclose(result.whole, samples / 2**15, rtol=0, atol=1e-7)
    assert results["utt3"] == (
        "no such channel",
        "channel 3 of a file with 2 channels; files of segments count channels from 0, RTTM from 1",
    )


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "missing"), (b"", "empty"), (b"text", "not audio"), (WAV[:-10_000], "truncated")]
)
def test_unreadable_recording_fails_all_its_segments(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)

    results = load_all(cut(path, (0.0, 0.5), (1.0, None)))

    assert {result[0] for result in results.values() if isinstance(result, tuple)} == {reason}
    assert not any(isinstance(result, Waveform) for result in results.values())


def test_infinite_sample_fails_only_segments_that_contain_it(tmp_path: Path) -> None:
    samples = as_float(TONE)
    samples[20_000] = np.inf
    path = write(tmp_path / "a.wav", encode(samples, subtype="FLOAT"))

    results = load_all(cut(path, (0.0, 1.0), (1.0, 2.0), (1.5, 2.0), (0.0, None)))

    assert {name for name, result in results.items() if isinstance(result, Waveform)} == {"utt0", "utt2"}
    assert results["utt1"] == results["utt3"] == ("not finite", "NaN or infinite samples")


def test_faulty_lines_fail_alone(tmp_path: Path) -> None:
    bad, lost, good = cut(write(tmp_path / "a.wav", WAV), (1.0, 0.5), (0.0, 1.0), (0.0, 1.0))
    bad = dataclasses.replace(bad, fault="segments:1: from 1 to 0.5 s: not 0 <= start < end <= 1e9")
    lost = dataclasses.replace(lost, source="", fault='segments:2: recording "r" is not in wav.scp')

    results = {result.utterance.index: result for result in load_waveforms([bad, lost, good], OPTIONS, never)}

    assert results[0] == Failure(bad, "corpus", "bad segment", bad.fault)
    assert results[1] == Failure(lost, "corpus", "no recording", lost.fault)
    assert isinstance(results[2], Waveform)


def test_recording_is_read_only_around_its_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between two segments of a seekable format is not read."""
    taken: list[int] = []
    path = write(tmp_path / "a.wav", encode(LONG_TONE))
    read = soundfile.SoundFile.read

    def note(file: soundfile.SoundFile, *args: Any, **options: Any) -> NDArray[np.float32]:
        block: NDArray[np.float32] = read(file, *args, **options)
        taken.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", note)
    load_all(cut(path, (0.5, 1.0), (9.0, 9.1)), in_blocks(4000))

    assert sum(taken) == 0.6 * RATE


def test_memory_of_a_long_recording_is_that_of_its_segments(tmp_path: Path) -> None:
    """The recording is an hour of zeros."""
    path = write(tmp_path / "a.flac", encode(np.zeros(3600 * RATE, np.int16), "FLAC"))
    utterances = cut(path, *((float(start), start + 1.0) for start in range(0, 3600, 60)))
    tracemalloc.start()
    try:
        for result in load_waveforms(utterances, OPTIONS, never):
            assert isinstance(result, Waveform)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 30e6
