"""FLAC files with missing frames, which libFLAC fills with silence, and without a length."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from support.audio_files import RATE, encode, noisy_tone, with_flac_samples

from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.formats import open_audio

TONE = noisy_tone(5 * RATE, num_channels=2)
FLAC = encode(TONE, "FLAC")


def find_frames(flac: bytes) -> list[tuple[int, int]]:
    """Find the first byte of each frame, and the one behind its last, by FFmpeg."""
    with av.open(io.BytesIO(flac)) as container:
        found = [(packet.pos, packet.pos + packet.size) for packet in container.demux(audio=0) if packet.size]
    return [(begin, end) for begin, end in found if begin is not None]


def without_frames(flac: bytes, first: int, last: int) -> bytes:
    """Remove frames from a file."""
    frames = find_frames(flac)
    return flac[: frames[first][0]] + flac[frames[last][1] :]


def without_md5(flac: bytes) -> bytes:
    """Make a file claim no MD5."""
    return flac[:26] + bytes(16) + flac[42:]


def with_block_size(samples: NDArray[np.int16], block_size: int) -> bytes:
    """Encode by FFmpeg in frames of so many samples."""
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE)
        stream.codec_context.options = {"frame_size": str(block_size)}
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def read(path: Path, first: int = 0, end: int | None = None) -> NDArray[np.float32]:
    """Read a file from a sample on, in blocks; without an end, up to its own, which is checked."""
    with open_audio(str(path)) as decoder:
        if first:
            decoder.seek(first)
        position, blocks = first, []
        while end is None or position < end:
            block = decoder.read(3000 if end is None else min(3000, end - position))
            if not len(block):
                break
            blocks.append(block)
            position += len(block)
        if end is None:
            decoder.check_end(position)
    return np.concatenate(blocks)


@pytest.mark.parametrize("md5", [True, False])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1), (5, 9), (18, 19), (10, 18)])
def test_file_with_missing_frames_fails(first: int, last: int, md5: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    assert len(find_frames(FLAC)) == 20
    path.write_bytes(without_frames(FLAC if md5 else without_md5(FLAC), first, last))

    with pytest.raises(AudioError) as error:
        read(path)

    assert error.value.reason == "truncated"


def test_missing_samples_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(without_frames(FLAC, 5, 9))

    with pytest.raises(AudioError, match=r"^samples 20480 to 40960 are missing: copy it again$"):
        read(path)


@pytest.mark.parametrize("block_size", [192, 1000, 4608])
def test_segments_away_from_a_gap_are_read(block_size: int, tmp_path: Path) -> None:
    """Those that touch it fail, wherever reading begins."""
    path = tmp_path / "a.flac"
    flac = with_block_size(TONE[:, 0].copy(), block_size)
    path.write_bytes(flac)
    whole = read(path)
    path.write_bytes(without_frames(flac, 7, 8))
    gap = range(7 * block_size, 9 * block_size)

    for first in range(0, len(TONE) - 2000, 1777):
        segment = range(first, first + 1500)
        if segment.start < gap.stop and gap.start < segment.stop:
            with pytest.raises(AudioError, match="are missing"):
                read(path, segment.start, segment.stop)
        else:
            np.testing.assert_array_equal(read(path, segment.start, segment.stop), whole[first : first + 1500])


@pytest.mark.parametrize("num_channels", [1, 2, 5])
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("rate", [8_000, 44_100, 12_345])
def test_samples_are_those_of_libsndfile(subtype: str, num_channels: int, rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(encode(noisy_tone(20_000, num_channels, rate), "FLAC", subtype, rate))

    np.testing.assert_array_equal(read(path), soundfile.read(path, dtype="float32", always_2d=True)[0])


def test_samples_that_differ_from_the_md5_fail(tmp_path: Path) -> None:
    """Two frames in each other's place, which have the right numbers."""
    path = tmp_path / "a.flac"
    other = encode(TONE[::-1].copy(), "FLAC")
    frames, others = find_frames(FLAC), find_frames(other)
    path.write_bytes(FLAC[: frames[3][0]] + other[others[3][0] : others[3][1]] + FLAC[frames[3][1] :])

    with pytest.raises(AudioError, match=r"^its samples are not those that were encoded \(MD5\): copy the file again$"):
        read(path)

    path.write_bytes(without_md5(path.read_bytes()))
    assert len(read(path)) == len(TONE)


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_file_without_a_length_is_read_to_its_end(cut: int, tmp_path: Path) -> None:
    """As ``flac`` writes it to a pipe; unless its last frame is not whole."""
    path = tmp_path / "a.flac"
    flac = without_md5(with_flac_samples(FLAC, 0))
    path.write_bytes(flac[: len(flac) - cut])

    if cut:
        with pytest.raises(AudioError) as error:
            read(path)
        assert error.value.reason == "truncated"
    else:
        np.testing.assert_array_equal(read(path), (TONE / 2**15).astype(np.float32))


def test_file_without_a_length_but_with_a_gap_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(without_frames(without_md5(with_flac_samples(FLAC, 0)), 5, 9))

    with pytest.raises(AudioError, match=r"^samples 20480 to 40960 are missing: copy it again$"):
        read(path)


def test_start_of_a_segment_is_found_by_bisection(tmp_path: Path) -> None:
    """A gap long before it does no harm, nor does one behind it."""
    noise = np.random.default_rng(0).integers(-(2**14), 2**14, 60 * RATE, dtype=np.int16)
    flac = encode(noise, "FLAC")
    assert len(flac) > 1_500_000
    last = len(find_frames(flac)) - 1
    path = tmp_path / "a.flac"
    path.write_bytes(without_frames(without_frames(flac, last - 5, last - 5), 10, 11))

    for first in range(100_000, 900_000, 33_333):
        segment = read(path, first, first + 5000)
        np.testing.assert_array_equal(segment[:, 0], (noise[first : first + 5000] / 2**15).astype(np.float32))


def test_segment_behind_the_end_of_a_file_cut_short_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(FLAC[: len(FLAC) // 2])

    assert len(read(path, 1000, 3000)) == 2000
    for first in (45_000, 60_000, len(TONE) - 1):
        with pytest.raises(AudioError) as error:
            read(path, first, first + 1)
        assert error.value.reason == "truncated"


def test_endless_metadata_is_not_read(tmp_path: Path) -> None:
    """Each four zeros are a block of metadata without content."""
    path = tmp_path / "a.flac"
    with path.open("wb") as file:
        file.write(b"fLaC")
        file.truncate(10**9)

    with pytest.raises(AudioError, match=r"^a FLAC file with more than 256 blocks of metadata$"):
        open_audio(str(path))
