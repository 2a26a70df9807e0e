"""MPEG audio: all frames are counted, and as many decoded as FFmpeg does; else the file fails."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from support.audio_files import RATE, encode, encode_mp3, noisy_tone, without_length
from support.ffmpeg import decode_by_ffmpeg, encode_by_ffmpeg
from support.kaldi_folders import read_rows
from support.processes import E2v

from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.formats import open_audio
from e2v_cli.audio.mpeg import count_mpeg_samples, find_frames

TONE = np.concatenate([noisy_tone(RATE), np.zeros(RATE // 2, np.int16), noisy_tone(RATE // 2)])
CONSTANT, VARIABLE = (encode_mp3(TONE, mode) for mode in ("CONSTANT", "VARIABLE"))
NO_HEADER = without_length(VARIABLE)
LAYER_2 = encode_by_ffmpeg(encode(TONE), ".mp2", "-b:a", "64k")
STEREO = encode_by_ffmpeg(encode(noisy_tone(44_100, 2, 44_100), rate=44_100), ".mp3", "-write_xing", "0")

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + b"\xff\xfb\x90\x64" * 200 + b"\xff\xd9"
ID3_V1 = b"TAG" + bytes(125)
APE = (
    b"APETAGEX" + struct.pack("<4I", 2000, 64, 0, 0xA000_0000) + bytes(8) + b"\x0c\0\0\0\0\0\0\0Title\0some" + bytes(44)
)
LYRICS = b"LYRICSBEGIN" + b"IND00002" + b"some words " * 50 + b"000569LYRICS200"


def id3(content: bytes, footer: bool = False) -> bytes:
    """Make a tag of ID3, version 2."""
    size = bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0))
    header = b"\x04\0" + (b"\x10" if footer else b"\0") + size
    return b"ID3" + header + content + (b"3DI" + header if footer else b"")


def split_frames(mp3: bytes) -> list[bytes]:
    """Split MP3 without tags into frames, by FFmpeg."""
    with av.open(io.BytesIO(mp3), format="mp3") as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def find_ends(mp3: bytes) -> set[int]:
    """Find the bytes at which frames end, by FFmpeg."""
    with av.open(io.BytesIO(mp3), format="mp3") as container:
        return {packet.pos + packet.size for packet in container.demux(audio=0) if packet.pos is not None}


def with_vbri(frames: bytes, num_frames: int) -> bytes:
    """Put a VBRI header before frames of layer III, MPEG-2, mono, at 16 kHz."""
    header = b"VBRI" + struct.pack(">HHHIIHHHH", 1, 1105, 75, len(frames) + 720, num_frames, 0, 1, 2, 1)
    return (b"\xff\xf3\xd8\xc4" + bytes(32) + header).ljust(720, b"\0") + frames


def with_xing(frames: bytes, flags: int = 3, num_frames: int | None = None, num_bytes: int | None = None) -> bytes:
    """Put a Xing header before frames of layer III, MPEG-2, mono, at 16 kHz; the counts are right unless given."""
    if num_frames is None:
        num_frames = len(split_frames(frames)) if frames else 0
    counts = num_frames, len(frames) + 288 if num_bytes is None else num_bytes
    fields = [count for bit, count in zip((1, 2), counts, strict=True) if flags & bit]
    header = b"Xing" + struct.pack(f">{1 + len(fields)}I", flags, *fields)
    return (b"\xff\xf3\x88\xc4" + bytes(9) + header).ljust(288, b"\0") + frames


def with_junk(frames: bytes, junk: bytes) -> bytes:
    """Put other bytes into the middle of a file, between frames."""
    parts = split_frames(frames)
    return b"".join((*parts[: len(parts) // 2], junk, *parts[len(parts) // 2 :]))


def read(path: Path) -> NDArray[np.float32]:
    """Read a file to its end, which is checked: (samples, channels)."""
    with open_audio(str(path)) as decoder:
        blocks = []
        while len(block := decoder.read(10_000)):
            blocks.append(block)
        samples = np.concatenate(blocks)
        decoder.check_end(len(samples))
        assert len(samples) == decoder.num_samples
        return samples


def outcome(path: Path, content: bytes) -> int | tuple[str, str]:
    """Write a file and read it: its samples, or why it can't be read."""
    path.write_bytes(content)
    try:
        return len(read(path))
    except AudioError as error:
        return error.reason, str(error)


WHOLE = {
    "no header": NO_HEADER,
    "no header, stereo": STEREO,
    "no header, constant": without_length(encode_mp3(TONE, "CONSTANT", 44_100)),
    "layer II": LAYER_2,
    "VBRI": with_vbri(NO_HEADER, len(split_frames(NO_HEADER))),
    "VBRI that counts itself": with_vbri(NO_HEADER, len(split_frames(NO_HEADER)) + 1),
    "VBRI of constant rate": with_vbri(without_length(CONSTANT), 0),
    "Xing of 0 frames": with_xing(NO_HEADER, num_frames=0, num_bytes=0),
    "Xing without frames": with_xing(NO_HEADER, flags=2),
    "Xing without counts": with_xing(NO_HEADER, flags=0),
    "Xing that counts itself": with_xing(NO_HEADER, num_frames=len(split_frames(NO_HEADER)) + 1),
    "leading ff": b"\xff\0\xff" + NO_HEADER,
    "leading zeros": bytes(3000) + NO_HEADER,
    "leading APE tag": APE + NO_HEADER,
    "leading junk before a header": b"\xff\0\xff" + VARIABLE,
    "two ID3 tags": id3(bytes(300)) * 2 + without_length(CONSTANT),
    "two ID3 tags, with a picture": id3(bytes(300)) + id3(JPEG) + VARIABLE,
    "ID3 tags with footer": id3(bytes(300), footer=True) + id3(JPEG, footer=True) + NO_HEADER,
    "ID3v1": NO_HEADER + ID3_V1,
    "APE tag": NO_HEADER + APE,
    "APE tag, ID3v1": LAYER_2 + APE + ID3_V1,
    "Lyrics3": NO_HEADER + LYRICS + ID3_V1,
    "trailing ID3 tag with a picture": NO_HEADER + id3(JPEG),
    "from the middle": without_length(CONSTANT)[5000:],
    "two files": VARIABLE + CONSTANT,
    "two files with tags": CONSTANT + ID3_V1 + id3(bytes(200)) + VARIABLE,
    "two files without headers": NO_HEADER + without_length(CONSTANT),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_file_has_the_length_of_ffmpeg(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"  # without suffix: FFmpeg goes by the content, too
    path.write_bytes(WHOLE[kind])

    samples = read(path)

    by_ffmpeg = decode_by_ffmpeg(path, samples.shape[1])
    assert len(samples) == len(by_ffmpeg) > RATE
    np.testing.assert_allclose(samples, by_ffmpeg, rtol=0, atol=1e-3)


@pytest.mark.parametrize("num_samples", [1000, 10_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_samples_do_not_depend_on_blocks(mode: str, num_samples: int, tmp_path: Path) -> None:
    """Soundfile seeks after each block if it may, and behind a seek libmpg123 lacks bits of the frames before."""
    path = tmp_path / "a.mp3"
    path.write_bytes(encode_mp3(TONE, mode))

    with open_audio(str(path)) as decoder:
        blocks = [decoder.read(num_samples) for _ in range(len(TONE) // num_samples + 1)]

    with soundfile.SoundFile(path) as file:
        np.testing.assert_array_equal(np.concatenate(blocks), file.read(dtype="float32", always_2d=True))


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_encoders_delay_and_padding_are_taken_off_as_by_ffmpeg(rate: int, num_channels: int, tmp_path: Path) -> None:
    samples = noisy_tone(rate // 2 + 77, num_channels, rate)
    wav = encode(samples, rate=rate)
    path = tmp_path / "a.mp3"
    contents = [encode_mp3(samples, mode, rate) for mode in ("CONSTANT", "AVERAGE", "VARIABLE")]
    contents += [encode_by_ffmpeg(wav, ".mp3"), encode_by_ffmpeg(wav, ".mp3", "-q:a", "4")]
    contents += [encode_by_ffmpeg(wav, ".mp3", "-joint_stereo", "0", "-write_xing", "0")]

    for number, content in enumerate(contents):
        path.write_bytes(content)
        decoded = read(path)
        assert len(decoded) == len(decode_by_ffmpeg(path, num_channels))
        if number < 3:
            assert decoded.shape == samples.reshape(-1, num_channels).shape


@pytest.mark.parametrize("kind", WHOLE)
def test_cut_file_is_complete_or_fails(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    content = WHOLE[kind]
    whole = outcome(path, content)

    outcomes = {size: outcome(path, content[:size]) for size in np.linspace(2, len(content) - 1, 20, dtype=int)}

    between_frames = find_ends(content)
    parts = {size: length for size, length in outcomes.items() if isinstance(length, int) and length != whole}
    assert set(parts) <= between_frames
    assert len(parts) < 5


def test_cut_between_frames_is_not_seen_without_a_header(tmp_path: Path) -> None:
    frames = split_frames(NO_HEADER)

    assert outcome(tmp_path / "a.mp3", b"".join(frames[:30])) == 30 * 576
    assert outcome(tmp_path / "a.mp3", with_xing(b"".join(frames[:30]), num_frames=31, num_bytes=0)) == (
        "truncated",
        "its header counts 31 frames, the file has 30: copy it again",
    )
    assert outcome(tmp_path / "a.mp3", b"".join(frames[:30]) + frames[30][:2]) == (
        "truncated",
        "the last frame is cut within its header: copy the file again",
    )


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (with_junk(NO_HEADER, b"garbage"), "unreadable", "7 bytes between frames, at byte "),
        (with_junk(without_length(CONSTANT), bytes(1000)), "unreadable", "1000 bytes between frames, at byte "),
        (with_junk(LAYER_2, JPEG), "unreadable", f"{len(JPEG)} bytes between frames, at byte "),
        (
            NO_HEADER + LAYER_2,
            "unreadable",
            f"another rate or layer from byte {len(NO_HEADER)} on: make a file of each",
        ),
        (NO_HEADER[:-20], "truncated", "the last frame lacks 20 bytes: copy the file again"),
        (NO_HEADER[:-20] + ID3_V1, "truncated", "the last frame lacks 20 bytes: copy the file again"),
        (with_xing(b"", num_frames=7), "truncated", "its header counts 7 frames, the file has 0: copy it again"),
        (
            CONSTANT[:-500] + ID3_V1 + VARIABLE,
            "truncated",
            "its header counts 58 frames, the file has 57: copy it again",
        ),
        (with_xing(b"", flags=2), "not audio", "no frame of MPEG audio in it"),
        (id3(JPEG), "not audio", "an ID3 tag, and no audio after it"),
        (id3(JPEG) * 2, "not audio", "an ID3 tag, and no audio after it"),
        (id3(JPEG) + b"some text", "not audio", "no known format: it begins with 'some text'"),
        (
            (b"\xff\xfb\x00\xc4" + b"\x55" * 320) * 5,
            "unreadable",
            "MPEG audio in free format: decode it, lame --decode IN.mp3 OUT.wav",
        ),
    ],
)
def test_incomplete_file_fails_with_its_own_reason(content: bytes, reason: str, detail: str, tmp_path: Path) -> None:
    result = outcome(tmp_path / "a.mp3", content)

    assert isinstance(result, tuple)
    assert (result[0], result[1][: len(detail)]) == (reason, detail)


@pytest.mark.parametrize(
    "content",
    [
        JPEG[:20] + np.random.default_rng(3).bytes(1 << 15).replace(b"\xff", b"\xff\0") + b"\xff\xd9",
        b"\xff\xfe" + "some text".encode("utf-16-le") * 100,
        b"\xff\xf1\x50\x80\x02\x1f\xfc" * 500,
        b"\xe9\x7b\xff\xff\xff\x41\xff\x25" * 4000,
        np.random.default_rng(0).bytes(1 << 16),
        np.random.default_rng(1).normal(0, 2, 30_000).astype("<i2").tobytes(),
        np.random.default_rng(2).normal(0, 20, 30_000).astype(">i2").tobytes(),
        encode(TONE)[44:],
    ],
    ids=["JPEG", "UTF-16", "ADTS", "machine code", "noise", "quiet PCM", "PCM", "tone"],
)
def test_other_bytes_are_no_mpeg_audio(content: bytes) -> None:
    assert not find_frames(content)


@pytest.mark.parametrize("options", [("-c:a", "libmp3lame"), ("-c:a", "mp2"), ("-c:a", "mp2", "-ac", "2")])
def test_frames_within_a_wav_file_are_counted(options: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    wav = encode_by_ffmpeg(encode(TONE), ".wav", *options)
    begin = wav.index(b"data") + 8
    path.write_bytes(wav + b"LIST\x0c\0\0\0INFOsomething")
    expected = len(decode_by_ffmpeg(path, 2 if "-ac" in options else 1))

    assert count_mpeg_samples(str(path), begin, len(wav)) == expected
    assert count_mpeg_samples(str(path), begin, None) == expected
    with pytest.raises(AudioError, match="the last frame lacks 9 bytes"):
        count_mpeg_samples(str(path), begin, len(wav) - 9)


@pytest.mark.parametrize("kind", WHOLE)
def test_length_is_predicted(kind: str, tmp_path: Path) -> None:
    """Roughly, where neither a header tells it nor the bit rate is constant."""
    path = tmp_path / "a.mp3"
    path.write_bytes(WHOLE[kind])

    with open_audio(str(path), at_a_glance=True) as decoder, open_audio(str(path)) as reader:
        assert (decoder.rate, decoder.num_channels) == (reader.rate, reader.num_channels)
        assert decoder.num_samples is not None
        assert reader.num_samples is not None
        assert abs(decoder.num_samples / reader.num_samples - 1) < 0.35


@pytest.mark.parametrize("content", [without_length(CONSTANT), with_xing(NO_HEADER * 100)], ids=["frames", "Xing"])
def test_long_file_is_neither_kept_in_memory_nor_read_for_its_prediction(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(content + NO_HEADER * 200)

    def bytes_read(open_it: Callable[[], object]) -> int:
        before = Path("/proc/self/io").read_text()
        open_it()
        after = Path("/proc/self/io").read_text()
        return int(after.split()[1]) - int(before.split()[1])

    def open_and_close(at_a_glance: bool) -> None:
        with open_audio(str(path), at_a_glance):
            pass

    assert bytes_read(lambda: open_and_close(at_a_glance=True)) < 600_000
    tracemalloc.start()
    try:
        open_and_close(at_a_glance=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2e6


def test_command_computes_intact_files_and_names_the_faults_of_others(tmp_path: Path, e2v: E2v) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    for number, kind in enumerate(("VBRI", "two ID3 tags", "no header")):
        (folder / f"{number}.mp3").write_bytes(WHOLE[kind])
    (folder / "junk.mp3").write_bytes(junk := with_junk(NO_HEADER, b"garbage"))
    (folder / "tag.mp3").write_bytes(id3(JPEG))

    done = e2v("predict", folder, "-m", "sample", "--device", "cpu", "-o", out)

    assert done.returncode == 3, done.stderr
    rows = read_rows((out / "predictions.tsv").read_text())
    assert {name: row[2] for name, row in rows.items()} == dict.fromkeys("012", "2.0880")
    assert (out / "failures.tsv").read_text().splitlines()[1:] == [
        f"junk\taudio\tunreadable\t{folder}/junk.mp3: 7 bytes between frames, at byte {junk.index(b'garbage')}: "
        "decoders lose audio there; decode it with ffmpeg, and listen",
        f"tag\taudio\tnot audio\t{folder}/tag.mp3: an ID3 tag, and no audio after it",
    ]
