"""WAV, W64 and AIFF files: whole by their chunks, whatever libsndfile makes of them, or a failure with its reason."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from support.audio_files import RATE, encode, noisy_tone
from support.containers import Container
from support.ffmpeg import decode_by_ffmpeg, encode_by_ffmpeg
from support.kaldi_folders import read_rows, write_folder
from support.processes import E2v

from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.formats import open_audio
from e2v_cli.audio.pcm import Encoding, PcmDecoder
from e2v_cli.audio.riff import MAX_CHUNKS

CONTAINERS = {
    "RIFF": Container(b"RIFF"),
    "RIFX": Container(b"RIFX"),
    "RF64": Container(b"RF64"),
    "BW64": Container(b"BW64"),
    "W64": Container(b"riff"),
    "AIFF": Container(b"FORM"),
    "sowt": Container(b"FORM", swapped=True),
}

SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")

RIFF = CONTAINERS["RIFF"]
NUM_SAMPLES = 1001
"""Odd, so that files of some encodings are padded."""

TONE = noisy_tone(NUM_SAMPLES)
PCM = RIFF.encode(TONE, "PCM_16")
FMT = RIFF.wrap(b"")[12:36]

MEND = "copy it again, or, if that is all, mend the header: sox --ignore-length IN OUT"


def read(path: Path, content: bytes | None = None) -> NDArray[np.float32]:
    """Read a file, with content that is written to it before, in blocks to its end: (samples, channels)."""
    if content is not None:
        path.write_bytes(content)
    with open_audio(str(path)) as decoder:
        assert decoder.rate == RATE
        blocks = [np.empty((0, decoder.num_channels), np.float32)]
        while len(block := decoder.read(300)):
            blocks.append(block)
        samples = np.concatenate(blocks)
        decoder.check_end(len(samples))
        assert decoder.num_samples == len(samples)
    return samples


def failure(path: Path, content: bytes | None = None) -> tuple[str, str]:
    """Read a file that can't be used: (reason, detail)."""
    with pytest.raises(AudioError) as error:
        read(path, content)
    return error.value.reason, str(error.value)


DROPS_SAMPLES = int(av.__version__.partition(".")[0]) < 18
"""Whether PyAV drops what FFmpeg decodes before a sample that is not whole."""


def count_by_ffmpeg(path: Path) -> int:
    """Count the samples that FFmpeg decodes; 0 where it can't read the file."""
    try:
        with av.open(str(path)) as container:
            return sum(frame.samples for frame in container.decode(audio=0))
    except av.FFmpegError:
        return 0


def decode_by_libsndfile(samples: NDArray[np.int16], subtype: str) -> NDArray[np.float32]:
    """Encode samples to a WAV file and decode that: (samples, channels)."""
    decoded: NDArray[np.float32]
    decoded, _ = soundfile.read(io.BytesIO(encode(samples, "WAV", subtype)), dtype="float32", always_2d=True)
    return decoded


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_samples_are_those_of_libsndfile(num_channels: int, name: str, tmp_path: Path) -> None:
    """To the bit, with chunks before and behind them, from any sample on; and as many as FFmpeg decodes."""
    container = CONTAINERS[name]
    tone = noisy_tone(NUM_SAMPLES, num_channels)
    other = container.chunk(b"LIST", b"INFOISFT\3\0\0\0e2v"), container.chunk(b"tag ", bytes(80))
    for subtype in SUBTYPES[:4] if container.swapped else SUBTYPES:
        audio = container.encode(tone, subtype)
        expected = decode_by_libsndfile(tone, subtype)
        for before, after in ((b"", b""), (other[0], other[1]), (other[1] + other[0], other[0])):
            path = tmp_path / "a"
            samples = read(path, container.wrap(audio, subtype, num_channels, before=before, after=after))

            assert samples.tobytes() == expected.tobytes(), subtype
            if name != "sowt" or subtype == "PCM_16":  # FFmpeg knows no other
                assert count_by_ffmpeg(path) == NUM_SAMPLES
            with open_audio(str(path)) as decoder:
                assert decoder.can_seek
                for first, count in ((700, 50), (3, 10), (1000, 5), (0, 1)):
                    decoder.seek(first)
                    assert decoder.read(count).tobytes() == expected[first : first + count].tobytes()


@pytest.mark.parametrize("name", CONTAINERS)
def test_file_cut_anywhere_is_whole_or_fails(name: str, tmp_path: Path) -> None:
    """Also in a chunk before the audio; it is whole if a chunk behind the audio is cut."""
    container = CONTAINERS[name]
    long = b"".join(container.chunk(b"LIST", b"INFO" + bytes(101)) for _ in range(60))
    for num_channels in (1, 2):
        tone = noisy_tone(NUM_SAMPLES, num_channels)
        for subtype in SUBTYPES[:4] if container.swapped else SUBTYPES:
            audio = container.encode(tone, subtype)
            content = container.wrap(audio, subtype, num_channels, before=long, after=long)
            end = content.index(audio) + len(audio)
            cuts = {*np.linspace(1, len(content) - 1, 20, dtype=int), end - 1, end, end - len(audio), *range(1, 40, 5)}
            for size in cuts:
                path = tmp_path / "a"
                path.write_bytes(content[:size])
                if size >= end:
                    assert len(read(path)) == NUM_SAMPLES
                else:
                    assert failure(path)[0] in {"truncated", "not audio"}, (subtype, size)


UNKNOWN_SIZES = {
    "RIFF": [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x7FFF_FF00, 0x8000_0000, 0x8000_0024, 0xFFFF_FFFF, 0xFFFF_FF9B],
    "RIFX": [0, 0x7FFF_F000, 0xFFFF_FFFF],
    "RF64": [0, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF],
    "W64": [0, 0x7FFF_FFFF_FFFF_FFFF - 24, 0xFFFF_FFFF_FFFF_FFFF - 24],
    "AIFF": [0, 0x7F00_0000],
    "sowt": [0, 0x7F00_0000],
}


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, sizes in UNKNOWN_SIZES.items() for size in sizes], ids=str
)
def test_file_of_unknown_size_ends_where_it_ends(name: str, size: int, tmp_path: Path) -> None:
    """Also if the size is rounded down to whole samples; a sample that is not whole at the end is left out."""
    container = CONTAINERS[name]
    num_compared = 0
    for num_channels in (1, 2):
        tone = noisy_tone(NUM_SAMPLES, num_channels)
        for subtype in SUBTYPES[:4] if container.swapped else SUBTYPES[:5]:
            audio = container.encode(tone, subtype)
            expected = decode_by_libsndfile(tone, subtype).tobytes()
            frame = len(audio) // NUM_SAMPLES
            for declared in {size, size // frame * frame}:
                path = tmp_path / "a"
                content = container.wrap(audio, subtype, num_channels, size=declared)
                content = content[: content.index(audio) + len(audio)]

                assert read(path, content).tobytes() == expected
                if name == "RIFF":
                    assert count_by_ffmpeg(path) == NUM_SAMPLES
                    num_compared += 1
                if frame > 1:
                    assert read(path, content + b"\x7f" * (frame - 1)).tobytes() == expected
                    assert name != "RIFF" or DROPS_SAMPLES or count_by_ffmpeg(path) == NUM_SAMPLES
    assert num_compared or name != "RIFF"


@pytest.mark.parametrize("size", [0x7EFE_FFFF, 0x7F01_0000, 0x7FFE_EFFF, 0x8001_0000, 0x9000_0000, 0xFFFE_FFFF])
def test_size_of_a_long_recording_is_believed(size: int, tmp_path: Path) -> None:
    """It is not one that a writer to a pipe would choose, so that most of the recording is missing."""
    detail = f"the header declares {size} bytes of audio, the file has {len(PCM)}: copy it again"

    assert failure(tmp_path / "a.wav", RIFF.wrap(PCM, size=size)) == ("truncated", detail)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("num_behind", [0, 1, 3])
def test_empty_audio_before_other_chunks_is_no_unknown_size(num_behind: int, name: str, tmp_path: Path) -> None:
    container = CONTAINERS[name]
    after = container.chunk(b"LIST", b"INFOISFT\3\0\0\0e2v") * num_behind

    assert len(read(tmp_path / "a", container.wrap(b"", after=after))) == 0


@pytest.mark.parametrize("size", [0x7FFF_F000, 0x7FFF_FFFE, 0x8000_0000])
def test_recording_of_two_gigabytes_goes_on_behind_an_unknown_size(size: int, tmp_path: Path) -> None:
    """Unless chunks follow: then the size is what it says. The file is sparse."""
    path = tmp_path / "a.wav"
    path.write_bytes(RIFF.wrap(b"", size=size))
    os.truncate(path, 44 + size + 2000)
    with open_audio(str(path)) as decoder:
        assert decoder.num_samples == (size + 2000) // 2

    os.truncate(path, 44 + size)
    with path.open("ab") as file:
        file.write(RIFF.chunk(b"LIST", b"INFO"))
    with open_audio(str(path)) as decoder:
        assert decoder.num_samples == size // 2


@pytest.mark.parametrize("lost", [1 << 32, 3 << 32, (1 << 32) - 1_000_000])
def test_size_that_wrapped_is_refused(lost: int, tmp_path: Path) -> None:
    """Also if the end of the file is missing. The file is sparse."""
    path = tmp_path / "a.wav"
    path.write_bytes(RIFF.wrap(PCM))
    os.truncate(path, 44 + len(PCM) + lost)

    assert failure(path) == (
        "unreadable",
        f"the header declares 2002 bytes of audio, the file has {2002 + lost}: a header of 32 bits ends at "
        "4 GiB; convert it, sox --ignore-length IN OUT.w64",
    )


def test_audio_of_more_than_four_gigabytes_is_read(tmp_path: Path) -> None:
    """In containers with sizes of 64 bits. The files are sparse."""
    size = 5 << 30
    for name in ("RF64", "BW64", "W64"):
        path = tmp_path / name
        content = CONTAINERS[name].wrap(b"", size=size)
        path.write_bytes(content)
        os.truncate(path, len(content) + size)
        with open_audio(str(path)) as decoder:
            assert decoder.num_samples == size // 2
            decoder.seek(size // 2 - 100)
            assert decoder.read(200).shape == (100, 1)
        os.truncate(path, len(content) + size - 2000)
        assert failure(path)[0] == "truncated"


@pytest.mark.parametrize("excess", [1, 2, 8, 28, 44, 999])
def test_slight_excess_of_a_size_is_named(excess: int, tmp_path: Path) -> None:
    detail = f"the header declares {2002 + excess} bytes of audio, the file has 2002, {excess} less: {MEND}"

    assert failure(tmp_path / "a.wav", RIFF.wrap(PCM, size=2002 + excess)) == ("truncated", detail)


def test_greater_excess_of_a_size_has_no_remedy(tmp_path: Path) -> None:
    detail = "the header declares 3002 bytes of audio, the file has 2002: copy it again"

    assert failure(tmp_path / "a.wav", RIFF.wrap(PCM, size=3002)) == ("truncated", detail)


@pytest.mark.parametrize("tag", [b"LIST", b"cue ", b"xyz1"])
@pytest.mark.parametrize("length", [5, 45])
def test_odd_chunk_needs_no_pad(length: int, tag: bytes, tmp_path: Path) -> None:
    """As in Kaldi, which expects none; with one, of any value, as in others."""
    odd = tag + struct.pack("<I", length) + b"x" * length

    for before in (odd, odd + b"\0", odd + odd, odd + b"\0" + odd):
        assert len(read(tmp_path / "a.wav", RIFF.wrap(PCM, before=before))) == NUM_SAMPLES
    content = RIFF.wrap(PCM)
    for pad in (b"", b"\0", b"x"):
        samples = read(tmp_path / "b.wav", content[:36] + odd + pad + content[36:])
        assert len(samples) == NUM_SAMPLES


def test_audio_may_precede_its_description(tmp_path: Path) -> None:
    content = RIFF.wrap(PCM, after=FMT)

    assert len(read(tmp_path / "a.wav", content[:12] + content[36:])) == NUM_SAMPLES
    assert failure(tmp_path / "a.wav", content[:12] + content[36:-2])[0] != "not audio"


@pytest.mark.parametrize("number", [1, 500, MAX_CHUNKS])
def test_many_chunks_are_walked(number: int, tmp_path: Path) -> None:
    """Up to a number; libsndfile's own log of a header ends after 2 kB."""
    content = RIFF.wrap(PCM, before=RIFF.chunk(b"LIST", b"INFO") * number)
    path = tmp_path / "a.wav"
    if number == MAX_CHUNKS:
        assert failure(path, content) == ("unreadable", f"more than {MAX_CHUNKS} chunks: convert it, sox IN OUT")
        return
    assert len(read(path, content)) == NUM_SAMPLES
    assert failure(path, content[: -len(PCM) // 2])[0] == "truncated"


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (
            RIFF.wrap(PCM, after=RIFF.chunk(b"data", PCM)),
            "two data chunks",
            "audio begins at byte 44 and at byte 2054: make a file of each",
        ),
        (RIFF.wrap(PCM, rate=0), "not audio", "a sample rate of 0 Hz"),
        (RIFF.wrap(PCM, num_channels=0), "not audio", "0 channels"),
        (CONTAINERS["AIFF"].wrap(PCM, rate=0), "not audio", "a sample rate of 0 Hz"),
        (CONTAINERS["AIFF"].wrap(PCM, num_channels=0), "not audio", "0 channels"),
        (
            RIFF.wrap(PCM).replace(b"fmt ", b"form"),
            "unreadable",
            "no chunk describes how the samples are stored: write the file again",
        ),
        (RIFF.wrap(PCM)[:36], "truncated", "no audio: the file ends after chunk 'fmt ': copy it again"),
        (RIFF.wrap(PCM)[:12], "truncated", "no audio: the file ends after chunk 'RIFF': copy it again"),
        (
            RIFF.wrap(PCM, before=RIFF.chunk(b"LIST", b"", 3000)),
            "truncated",
            "no audio after chunk 'LIST': it declares 3000 bytes, the file has 2034: copy it again",
        ),
        (
            RIFF.wrap(PCM, before=RIFF.chunk(b"LIST", bytes(6), 2)),
            "unreadable",
            "no audio: no chunk begins at byte 22, after chunk 'LIST'",
        ),
        (
            RIFF.wrap(PCM)[:16] + b"\x0c\0\0\0" + RIFF.wrap(PCM)[20:32] + RIFF.wrap(PCM)[36:],
            "unreadable",
            "a 'fmt ' chunk of 12 bytes: it needs 16",
        ),
        (
            RIFF.wrap(PCM).replace(b"\1\0\1\0", b"\x61\1\1\0"),
            "unreadable",
            "its encoding is not read, WAV's number 0x0161, 16 bits in blocks of 2 bytes: "
            "convert it, ffmpeg -i IN OUT.wav",
        ),
        (
            CONTAINERS["AIFF"].wrap(PCM).replace(b"NONE", b"QDM2"),
            "unreadable",
            "its encoding is not read, AIFF's 'qdm2', 16 bits: convert it, ffmpeg -i IN OUT.wav",
        ),
        (
            CONTAINERS["AIFF"].wrap(PCM).replace(struct.pack(">hI", 1, 1001), struct.pack(">hI", 1, 9001)),
            "truncated",
            "the header declares 18002 bytes of audio, the file has 2002: copy it again",
        ),
        (
            CONTAINERS["AIFF"].wrap(PCM).replace(bytes(8), struct.pack(">II", 2004, 0)),
            "unreadable",
            "an 'SSND' chunk of 2010 bytes whose audio begins at byte 2012",
        ),
        (
            RIFF.wrap(PCM).replace(struct.pack("<I", 2002), struct.pack("<I", 802)),
            "unreadable",
            "the header declares 802 bytes of audio and 2038 in all, between which no chunk begins: "
            "if that is audio, mend the header: sox --ignore-length IN OUT",
        ),
        (
            CONTAINERS["W64"].wrap(PCM).replace(struct.pack("<Q", 2002 + 24), struct.pack("<Q", (1 << 63) - 1)),
            "unreadable",
            "the header declares 9223372036854775783 bytes of audio and 2088 in all, between which no chunk begins: "
            "if that is audio, mend the header: sox --ignore-length IN OUT",
        ),
        (
            CONTAINERS["RF64"].wrap(PCM).replace(b"ds64", b"ds46"),
            "unreadable",
            "no 'ds64' chunk, which has the sizes of others: copy the file again",
        ),
        (
            CONTAINERS["W64"].wrap(PCM, size=(1 << 63) + 2002),
            "truncated",
            f"the header declares {(1 << 63) + 2002} bytes of audio, the file has 2008: copy it again",
        ),
        (
            CONTAINERS["W64"].wrap(PCM).replace(b"data\xf3", b"data\xf4"),
            "truncated",
            "no audio: the file ends after chunk 'data': copy it again",
        ),
        (CONTAINERS["W64"].wrap(PCM)[:20], "truncated", "the file ends within its header: copy it again"),
        (
            encode(TONE, "AU") + bytes(1001),
            "unreadable",
            "the header declares 2002 bytes of audio, the file has 3003: "
            "if all is audio, mend the header: sox --ignore-length IN OUT",
        ),
        (encode(TONE, "AU")[:20], "truncated", "the file ends within its header: copy it again"),
        (
            encode(TONE, "AU", "G721_32"),
            "unreadable",
            "AU's encoding 23 is not read: convert it, ffmpeg -i IN OUT.wav",
        ),
    ],
)
def test_unusable_file_fails_with_its_own_reason(content: bytes, reason: str, detail: str, tmp_path: Path) -> None:
    assert failure(tmp_path / "a", content) == (reason, detail)


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF])
def test_au_file_of_unknown_size_ends_where_it_ends(size: int, tmp_path: Path) -> None:
    content = encode(TONE, "AU")
    path = tmp_path / "a.au"

    samples = read(path, content[:8] + struct.pack(">I", size) + content[12:] + b"\1")

    assert samples.tobytes() == decode_by_libsndfile(TONE, "PCM_16").tobytes()
    assert DROPS_SAMPLES or count_by_ffmpeg(path) == (NUM_SAMPLES if size else 0)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "IMA_ADPCM"),
        ("WAV", "MS_ADPCM"),
        ("WAV", "GSM610"),
        ("W64", "IMA_ADPCM"),
        ("AIFF", "IMA_ADPCM"),
        ("AIFF", "GSM610"),
    ],
)
def test_encodings_in_blocks_are_whole_or_fail(kind: str, subtype: str, tmp_path: Path) -> None:
    """Decoded by libsndfile, or by FFmpeg if libsndfile finds a block too many, as in its own GSM."""
    content = encode(noisy_tone(8000), kind, subtype)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    path = tmp_path / "a"

    samples = read(path, content)

    np.testing.assert_allclose(samples, expected[: len(samples)], rtol=0, atol=0.01)
    assert len(samples) == count_by_ffmpeg(path)
    for size in np.linspace(1, len(content) - 5, 20, dtype=int):
        assert failure(path, content[:size])[0] in {"truncated", "not audio"}


def test_encoding_in_blocks_that_libsndfile_misses_is_decoded_by_ffmpeg(tmp_path: Path) -> None:
    """It takes a size of 0 for the end."""
    content = encode(noisy_tone(8000), "WAV", "IMA_ADPCM")
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    offset = content.index(b"data") + 4

    samples = read(tmp_path / "a.wav", content[:offset] + bytes(4) + content[offset + 4 :])

    assert samples.shape == expected.shape
    np.testing.assert_allclose(samples, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("codec", ["libmp3lame", "mp2"])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_mpeg_audio_in_a_wav_file_is_whole_or_fails(num_channels: int, codec: str, tmp_path: Path) -> None:
    """Its frames are counted."""
    path = tmp_path / "a.wav"
    content = encode_by_ffmpeg(encode(noisy_tone(2 * RATE, num_channels)), ".wav", "-c:a", codec)

    samples = read(path, content)

    expected = decode_by_ffmpeg(path, num_channels)
    assert len(samples) >= 2 * RATE
    assert samples.shape == expected.shape
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-4)
    offset = content.index(b"data") + 4
    for size in np.linspace(1, len(content) - 1, 20, dtype=int):
        assert failure(path, content[:size])[0] in {"truncated", "not audio"}
        if size > offset:
            assert failure(path, content[:offset] + b"\xff\xff\xff\xff" + content[offset + 4 : size])[0] == "truncated"


def test_tag_before_the_file_is_skipped(tmp_path: Path) -> None:
    tag = b"ID3\x03\0\0\0\0\2\0" + bytes(256)

    for content in (RIFF.wrap(PCM), CONTAINERS["AIFF"].wrap(CONTAINERS["AIFF"].encode(TONE, "PCM_16"))):
        assert read(tmp_path / "a", tag + content).tobytes() == decode_by_libsndfile(TONE, "PCM_16").tobytes()


def test_headers_are_walked_without_reading_the_audio(tmp_path: Path) -> None:
    """The file is sparse."""
    path = tmp_path / "a.wav"
    path.write_bytes(RIFF.wrap(b"", size=0x7000_0000))
    os.truncate(path, 44 + 0x7000_0000)
    tracemalloc.start()
    try:
        open_audio(str(path)).close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 200_000


def test_disk_error_is_not_taken_for_the_end() -> None:
    """Byte 0 of a process's memory can't be read."""
    with PcmDecoder("/proc/self/mem", 0, 1000, Encoding(RATE, 1, "PCM_16", 2)) as decoder:
        with pytest.raises(OSError, match="Input/output error"):
            decoder.read(100)


def test_odd_files_are_predicted_or_fail(e2v: E2v, tmp_path: Path) -> None:
    """With the whole length, or the reason."""
    tone = noisy_tone(RATE)
    audio = RIFF.encode(tone, "PCM_16")
    files = {
        "cut": RIFF.wrap(audio, before=RIFF.chunk(b"LIST", b"INFO") * 300)[:-RATE],
        "long": RIFF.wrap(audio, size=len(audio) + 28),
        "odd": RIFF.wrap(audio, before=b"LIST\5\0\0\0hello"),
        "piped": RIFF.wrap(audio, size=0),
        "recorded": RIFF.wrap(audio, size=0x8000_0000),
        "twice": RIFF.wrap(audio, after=RIFF.chunk(b"data", audio)),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
    names = {name: tmp_path / f"{name}.wav" for name in files}
    segments = [f"{name}-{part} {name} 0.{part} 0.{part + 4}" for name in files for part in (1, 5)]
    data = write_folder(tmp_path / "data", names, segments=segments)

    out = tmp_path / "out"
    done = e2v("predict", *names.values(), "-m", "sample", "--device", "cpu", "-j", "1", "-o", out)
    parts = e2v("predict", data, "-m", "sample", "--device", "cpu", "-j", "1", "-o", tmp_path / "parts")

    assert done.returncode == parts.returncode == 3
    rows = read_rows((out / "predictions.tsv").read_text())
    assert {name: row[2] for name, row in rows.items()} == {"odd": "1.0000", "piped": "1.0000", "recorded": "1.0000"}
    assert (out / "failures.tsv").read_text().splitlines()[1:] == [
        f"cut\taudio\ttruncated\t{names['cut']}: the header declares 32000 bytes of audio, the file has 16000: "
        "copy it again",
        f"long\taudio\ttruncated\t{names['long']}: the header declares 32028 bytes of audio, the file has 32000, "
        f"28 less: {MEND}",
        f"twice\taudio\ttwo data chunks\t{names['twice']}: audio begins at byte 44 and at byte 32052: "
        "make a file of each",
    ]
    cells = read_rows((tmp_path / "parts" / "predictions.tsv").read_text())
    assert set(cells) == {f"{name}-{part}" for name in ("odd", "piped", "recorded") for part in (1, 5)}
    assert cells["odd-5"] == cells["piped-5"] == cells["recorded-5"]
