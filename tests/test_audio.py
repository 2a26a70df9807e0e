"""Audio files are read whole and exactly, or fail with the reason."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from audio_files import (
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
from numpy.typing import NDArray

from e2v_cli import audio
from e2v_cli.audio import decode_ahead, load_waveform, read_audio
from e2v_cli.containers import AudioError
from e2v_cli.records import Failure, Utterance, Waveform

MIN_SAMPLES = 400

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


def load(path: Path | str) -> Waveform | Failure:
    return load_waveform(Utterance(0, "utt", str(path)), MIN_SAMPLES)


def failure(path: Path | str) -> tuple[str, str, str]:
    """Load what can't be loaded: (stage, reason, detail)."""
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
    ],
)
def test_lossless_formats_give_the_samples_that_were_written(
    name: str, kind: str, subtype: str, tmp_path: Path
) -> None:
    samples, rate = read_audio(str(write(tmp_path / name, encode(TONE, kind, subtype))))

    assert (samples.dtype.name, rate) == ("float32", RATE)
    np.testing.assert_array_equal(samples, as_float(TONE))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF"])
def test_all_24_bits_are_kept(kind: str, tmp_path: Path) -> None:
    written = np.random.default_rng(0).integers(-(2**23), 2**23, 1000, dtype=np.int32) << 8

    samples, _ = read_audio(str(write(tmp_path / "a", encode(written, kind, "PCM_24"))))

    np.testing.assert_array_equal(samples, as_float(written))


def test_floats_are_kept_even_beyond_full_scale(tmp_path: Path) -> None:
    written = np.array([0.1, -1.5, 2.0, 1e-30], dtype=np.float32)

    samples, _ = read_audio(str(write(tmp_path / "a.wav", encode(written, subtype="FLOAT"))))

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
def test_lossy_formats_give_as_many_samples_of_about_the_value(
    kind: str, subtype: str, tolerance: float, tmp_path: Path
) -> None:
    samples, rate = read_audio(str(write(tmp_path / "a", encode(TONE, kind, subtype))))

    assert (samples.dtype.name, samples.shape, rate) == ("float32", TONE.shape, RATE)
    np.testing.assert_allclose(samples, as_float(TONE), rtol=0, atol=tolerance)


@pytest.mark.parametrize("num_channels", [2, 3, 6])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_channels_are_averaged(num_channels: int, kind: str, tmp_path: Path) -> None:
    channels = noisy_tone(RATE, num_channels)

    samples, _ = read_audio(str(write(tmp_path / "a", encode(channels, kind))))

    np.testing.assert_allclose(samples, channels.mean(axis=1) / 2**15, rtol=0, atol=1e-7)


@pytest.mark.parametrize("num_samples", [1999, 2000, 2001])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_files_longer_than_a_block_are_read_whole(
    num_samples: int, num_channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.wav", encode(noisy_tone(num_samples, num_channels)))
    at_once, _ = read_audio(str(path))

    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 500 * num_channels)

    np.testing.assert_array_equal(read_audio(str(path))[0], at_once)
    assert len(at_once) == num_samples


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_are_resampled_to_16_khz(rate: int, tmp_path: Path) -> None:
    samples = noisy_tone(12_345, rate=rate)

    waveform = load(write(tmp_path / "a.wav", encode(samples, rate=rate)))

    assert isinstance(waveform, Waveform)
    assert waveform.duration == 12_345 / rate
    assert waveform.samples.dtype == np.float32
    assert abs(len(waveform.samples) - 12_345 * RATE / rate) < 1
    np.testing.assert_array_equal(waveform.samples, soxr.resample(as_float(samples), rate, RATE, quality="HQ"))


def test_resampling_keeps_a_tone_and_removes_what_16_khz_cannot_hold(tmp_path: Path) -> None:
    """The output is the tone itself, sampled at 16 kHz, whatever library resamples."""
    low, high = (0.5 * np.sin(2 * np.pi * pitch * np.arange(44_100) / 44_100) for pitch in (1_000, 12_000))

    waveform = load(write(tmp_path / "a.wav", encode(low + high, subtype="FLOAT", rate=44_100)))

    assert isinstance(waveform, Waveform)
    expected = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(RATE) / RATE)
    inside = slice(1_000, -1_000)  # at the ends the filter sees the silence around the file
    np.testing.assert_allclose(waveform.samples[inside], expected[inside], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "content", "reason", "detail"),
    [
        ("a.wav", b"", "empty", "0 bytes"),
        ("a.wav", b"This is a text.\n" * 100, "not audio", "Format not recognised."),
        ("a.flac", bytes(5000), "not audio", "Format not recognised."),
        ("a.raw", WAV, "not audio", "no header: sample rate and format are unknown"),
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
        ("a.wav", WAV[:-1], "truncated", "its header says 64000 bytes of audio, 63999 are there"),
        (
            "a.wav",
            with_wav_size(WAV, 0x4000_0000),
            "truncated",
            "its header says 1073741824 bytes of audio, 64000 are there",
        ),
        (
            "a.wav",
            with_wav_size(WAV, 0x9000_0000),
            "truncated",
            "its header says 2415919104 bytes of audio, 64000 are there",
        ),
        ("a.sph", encode(TONE, "NIST")[:-2], "truncated", "its header says 32000 samples, 31999 are there"),
        (
            "a.flac",
            with_flac_samples(FLAC, 10 * 3600 * RATE),
            "truncated",
            "the audio is damaged, or ends before sample 576000000",
        ),
        (
            "a.flac",
            with_flac_samples(FLAC, 0),
            "unreadable",
            "its header does not say how long it is; decode it and encode it again",
        ),
    ],
)
def test_bad_audio_fails_and_says_why(name: str, content: bytes, reason: str, detail: str, tmp_path: Path) -> None:
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
def test_what_is_no_file_fails_and_says_why(
    make: Callable[[Path], Any], reason: str, detail: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    make(path)

    assert failure(path) == ("audio", reason, f"{path}: {detail}")


def test_below_a_file_there_is_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", WAV) / "b.wav"

    assert failure(path) == ("audio", "unreadable", f"{path}: Not a directory")


def test_a_null_byte_in_a_path_fails() -> None:
    assert failure("a\0b.wav") == ("audio", "unreadable", "a\0b.wav: embedded null byte")


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

    samples, _ = read_audio(os.fsdecode(path))

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
def test_no_part_of_a_file_passes_for_the_whole(name: str, tmp_path: Path) -> None:
    """Wherever it ends, also within the header."""
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
def test_a_wav_file_that_was_written_to_a_pipe_is_read_whole(size: int, tmp_path: Path) -> None:
    """Its writer could not know the size, and claims the greatest that it has."""
    samples, _ = read_audio(str(write(tmp_path / "a.wav", with_wav_size(WAV, size))))

    np.testing.assert_array_equal(samples, as_float(TONE))


def test_an_au_file_that_was_written_to_a_pipe_is_read_whole(tmp_path: Path) -> None:
    content = encode(TONE, "AU")

    samples, _ = read_audio(str(write(tmp_path / "a.au", content[:8] + b"\xff\xff\xff\xff" + content[12:])))

    np.testing.assert_array_equal(samples, as_float(TONE))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "junk",
    [b"TAG" + bytes(125), b"LIST\x0c\0\0\0INFOsomething", b"\x01\x02\x03\x04" * 250],
    ids=["ID3v1", "LIST", "noise"],
)
def test_junk_behind_the_audio_does_no_harm(name: str, junk: bytes, tmp_path: Path) -> None:
    content = encode(TONE, *FORMATS[name])
    whole, _ = read_audio(str(write(tmp_path / "whole", content)))

    samples, _ = read_audio(str(write(tmp_path / "junk", content + junk)))

    np.testing.assert_array_equal(samples, whole)


def test_an_id3_tag_before_the_audio_does_no_harm(tmp_path: Path) -> None:
    content = encode(TONE, "MP3", "MPEG_LAYER_III")
    whole, _ = read_audio(str(write(tmp_path / "whole", content)))
    tag = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)

    samples, _ = read_audio(str(write(tmp_path / "tagged", tag + content)))

    np.testing.assert_array_equal(samples, whole)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp3_file_of_constant_bit_rate_need_not_say_how_long_it_is(rate: int, tmp_path: Path) -> None:
    content = without_length(encode_mp3(LONG_TONE, "CONSTANT", rate))
    whole, cut = write(tmp_path / "whole.mp3", content), write(tmp_path / "cut.mp3", content[:-10])

    samples, _ = read_audio(str(whole))

    assert 0 <= len(samples) - len(LONG_TONE) < 3 * 1152  # the encoder's delay, and the rest of the last frame
    assert failure(cut)[:2] == ("audio", "truncated")


def test_an_mp3_file_of_variable_bit_rate_must_say_how_long_it_is(tmp_path: Path) -> None:
    """Or it would end where a constant rate would put its end: here, before its middle."""
    speech_and_silence = np.concatenate([TONE, np.zeros(8 * RATE, np.int16), TONE])
    path = write(tmp_path / "a.mp3", without_length(encode_mp3(speech_and_silence, "VARIABLE")))

    assert failure(path) == (
        "audio",
        "unreadable",
        f"{path}: its header does not say how long it is; decode it and encode it again",
    )


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_ogg_streams_one_behind_the_other_fail(name: str, tmp_path: Path) -> None:
    """Of which the first alone would be read."""
    first, second = (encode(samples, *FORMATS[name]) for samples in (TONE, TONE[::-1].copy()))
    path = write(tmp_path / f"a.{name}", first + second)

    assert failure(path)[:2] == ("audio", "unreadable")


@pytest.mark.parametrize(
    "content",
    [with_wav_size(WAV, 0x7FFF_0000), with_flac_samples(FLAC, 100 * 3600 * RATE), with_wav_size(WAV, 0xFFFF_FFFF)],
    ids=["wav", "flac", "wav from a pipe"],
)
def test_memory_follows_the_audio_that_is_there(content: bytes, tmp_path: Path) -> None:
    """Not the hours, or gigabytes, that a header claims."""
    path = write(tmp_path / "a", content)
    tracemalloc.start()
    try:
        load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20e6


@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_audio_may_be_as_long_as_half_an_hour_and_no_longer(
    kind: str, rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is half a second; it is seen before the rest is read."""
    assert audio.MAX_SECONDS == 1800
    monkeypatch.setattr(audio, "MAX_SECONDS", 0.5)
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    write(whole, encode(noisy_tone(rate // 2, rate=rate), kind, rate=rate))
    write(longer, encode(noisy_tone(rate // 2 + 1, rate=rate), kind, rate=rate))

    assert len(read_audio(str(whole))[0]) == rate // 2
    with pytest.raises(AudioError, match=r"^more than 0\.00833333 minutes; cut it into shorter files$") as caught:
        read_audio(str(longer))
    assert caught.value.reason == "too long"


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Forty utterances, of growing length; every third is missing."""
    for index in range(40):
        if index % 3:
            write(tmp_path / f"{index}.wav", encode(TONE[: 400 + index]))
    return [Utterance(index, f"utt{index}", str(tmp_path / f"{index}.wav")) for index in range(40)]


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("num_threads", [1, 2, 8, 100])
def test_decode_ahead_keeps_the_order_and_passes_failures_on(num_threads: int, utterances: list[Utterance]) -> None:
    results = list(decode_ahead(utterances, MIN_SAMPLES, num_threads))

    assert [result.utterance for result in results] == utterances
    lengths = [len(result.samples) if isinstance(result, Waveform) else result.reason for result in results]
    assert lengths == [400 + index if index % 3 else "missing" for index in range(40)]
    assert decoding_threads() == []


def test_decode_ahead_keeps_the_order_when_later_ones_are_ready_first(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    third_is_ready = threading.Event()

    def read(path: str) -> tuple[NDArray[np.float32], int]:
        if path == utterances[1].path:
            assert third_is_ready.wait(10)
        if path == utterances[2].path:
            third_is_ready.set()
        return np.zeros(400, np.float32), RATE

    monkeypatch.setattr(audio, "read_audio", read)

    assert [result.utterance for result in decode_ahead(utterances, MIN_SAMPLES, 2)] == utterances
    assert third_is_ready.is_set()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_decode_ahead_reads_a_few_ahead_and_no_more(num_threads: int, utterances: list[Utterance]) -> None:
    asked: list[Utterance] = []

    def source() -> Iterator[Utterance]:
        for utterance in utterances * 100:
            asked.append(utterance)
            yield utterance

    decoded = decode_ahead(source(), MIN_SAMPLES, num_threads)
    for _ in range(5):
        next(decoded)
    decoded.close()

    assert 5 < len(asked) <= 5 + 2 * num_threads


def test_decode_ahead_begins_no_more_while_much_waits(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audio that is decoded and not yet asked for takes memory, however few files it is of."""
    monkeypatch.setattr(audio, "AHEAD_SAMPLES", 1000)
    monkeypatch.setattr(audio, "read_audio", lambda _: (np.zeros(600, np.float32), RATE))
    asked: list[Utterance] = []

    def source() -> Iterator[Utterance]:
        for utterance in utterances:
            asked.append(utterance)
            yield utterance
            time.sleep(0.02)  # it is decoded meanwhile

    decoded = decode_ahead(source(), MIN_SAMPLES, 8)
    next(decoded)
    decoded.close()

    assert 2 <= len(asked) <= 8  # threads alone would allow 17


def test_decode_ahead_ends_its_threads_when_its_user_stops(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was waiting is not read any more."""
    read: list[str] = []

    def slowly(path: str) -> tuple[NDArray[np.float32], int]:
        read.append(path)
        if path != utterances[0].path:
            time.sleep(0.5)
        return np.zeros(400, np.float32), RATE

    monkeypatch.setattr(audio, "read_audio", slowly)
    for _ in decode_ahead(utterances, MIN_SAMPLES, 2):
        break

    assert decoding_threads() == []
    assert len(read) <= 3  # the one that was taken, and one in each thread


def test_decode_ahead_of_nothing_gives_nothing() -> None:
    assert list(decode_ahead([], MIN_SAMPLES, 2)) == []


def test_an_error_in_the_code_is_not_taken_for_a_bad_file(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> tuple[NDArray[np.float32], int]:
        raise MemoryError(path)

    monkeypatch.setattr(audio, "read_audio", fail)

    with pytest.raises(MemoryError):
        list(decode_ahead(utterances, MIN_SAMPLES, 2))
    assert decoding_threads() == []


def test_read_audio_says_what_is_wrong_without_the_path(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^no such file$") as caught:
        read_audio(str(tmp_path / "a.wav"))

    assert caught.value.reason == "missing"
