"""Sources of a list are fetched whole, or fail with the reason; no temporary file remains."""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from support.audio_files import RATE, as_float, encode, noisy_tone
from support.containers import Container
from support.processes import find_group, wait_until
from support.sites import WAV, SiteServer

from e2v_cli.audio.errors import AudioError, blame
from e2v_cli.audio.sources import FetchLimits, is_pipe, is_url, open_source
from e2v_cli.audio.urls import DOWNLOAD_SECONDS, READ_SECONDS, download

TONE = noisy_tone(RATE)
STEREO = noisy_tone(RATE, 2)
FLAC = encode(TONE, "FLAC")
MATRIX = np.stack([as_float(TONE), as_float(TONE[::-1])])


def never() -> bool:
    return False


def fetch(name: str | Path, folder: str = "", pipe_seconds: float | None = 10.0) -> bytes:
    with open_source(str(name), folder, FetchLimits(pipe_seconds), never) as path:
        return Path(path).read_bytes()


def fetch_audio(name: str | Path) -> tuple[NDArray[np.float32], int]:
    with open_source(str(name), "", FetchLimits(None), never) as path:
        samples, rate = soundfile.read(path, dtype="float32")
    return samples, rate


def failure(
    name: str | Path, folder: str = "", pipe_seconds: float | None = 10.0, stopping: Callable[[], bool] = never
) -> tuple[str, str]:
    """Fetch an unusable source: (reason, detail)."""
    with pytest.raises(AudioError) as caught, open_source(str(name), folder, FetchLimits(pipe_seconds), stopping):
        pass
    return caught.value.reason, str(caught.value)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read_scp(path: Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "pipe", "url"),
    [
        ("a.wav", False, False),
        ("cat a.wav |", True, False),
        ("cat a.wav|", True, False),
        ("cat a.wav | \t\r", True, False),
        ("curl http://x/a.wav |", True, False),
        ("|", True, False),
        ("| cat", False, False),
        ("a|b.wav", False, False),
        ("http://x/a.wav", False, True),
        ("HTTPS://x/a.wav", False, True),
        ("ftp://x/a.wav", False, False),
        ("a/http://x/a.wav", False, False),
        ("http:/x/a.wav", False, False),
        ("", False, False),
    ],
)
def test_kind_of_source_depends_on_its_text_alone(name: str, pipe: bool, url: bool) -> None:
    assert (is_pipe(name), is_url(name)) == (pipe, url)


@pytest.mark.parametrize("name", ["a.wav", "/nowhere/a.wav", "-", "a.wav:", "a.wav:1x", "a\0b.wav", "| cat", "a\udcff"])
def test_plain_path_is_unchanged(name: str, tmp_path: Path) -> None:
    """Also without such a file: its reader raises the error."""
    with open_source(name, str(tmp_path), FetchLimits(None), never) as path:
        assert path == name


def test_relative_path_is_resolved_against_folder_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "list").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(tmp_path / "here" / "both", b"here")
    for name in ("both", "beside"):
        write(tmp_path / "list" / name, b"list")
    folder = str(tmp_path / "list")

    assert fetch("both", folder) == b"here"
    assert fetch("beside", folder) == b"list"
    with open_source("neither", folder, FetchLimits(None), never) as path:
        assert path == "neither"
    with open_source("beside", "", FetchLimits(None), never) as path:
        assert path == "beside"


def test_a_path_of_any_bytes_is_found(tmp_path: Path) -> None:
    name = b"\xff caf\xe9.wav"
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        file.write(b"key " + WAV)

    assert fetch(os.fsdecode(name), str(tmp_path)) == b"key " + WAV
    assert fetch(os.fsdecode(name + b":4"), str(tmp_path)) == WAV


def test_a_file_on_a_dropped_mount_is_not_looked_for_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may exist; its reader raises the error of the mount."""
    real, mount = os.stat, str(tmp_path / "mount")

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(mount):
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)

    with open_source("a.wav", mount, FetchLimits(None), never) as path:
        assert path == f"{mount}/a.wav"
    with (
        pytest.raises(OSError, match="Stale file handle"),
        open_source(f"{mount}/a.ark:4", "", FetchLimits(None), never) as path,
    ):
        os.stat(path)


@pytest.mark.parametrize(
    "samples", [TONE, STEREO, (TONE // 256 + 128).astype(np.uint8)], ids=["mono", "stereo", "8 bit"]
)
def test_wav_records_of_kaldiio_are_cut_out_exactly(samples: NDArray[Any], tmp_path: Path) -> None:
    ark, scp = tmp_path / "a.ark", tmp_path / "a.scp"
    kaldiio.save_ark(str(ark), {key: (RATE, samples[length:]) for key, length in (("a", 0), ("b", 1))}, scp=str(scp))

    for value in read_scp(scp).values():
        rate, expected = kaldiio.load_mat(value)
        with open_source(value, "", FetchLimits(None), never) as path:
            dtype = "int16"
            got, got_rate = soundfile.read(path, dtype=dtype)
            assert os.stat(path).st_size == 44 + expected.nbytes
        if expected.dtype == np.uint8:
            expected = (expected.astype(np.int16) - 128) << 8
        assert got_rate == rate
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_files_wrapped_by_kaldiio_are_cut_out_exactly(kind: str, tmp_path: Path) -> None:
    ark, scp = tmp_path / "a.ark", tmp_path / "a.scp"
    audio = {"a": (44_100, TONE), "b": (RATE, TONE[:5000])}
    kaldiio.save_ark(str(ark), audio, scp=str(scp), write_function="soundfile", write_kwargs={"format": kind})

    for value in read_scp(scp).values():
        rate, expected = kaldiio.load_mat(value)
        samples, got_rate = fetch_audio(value)
        assert got_rate == rate
        np.testing.assert_array_equal(samples, expected.astype(np.float32))


def test_wav_records_of_kaldi_are_cut_out_exactly(tmp_path: Path) -> None:
    ark, scp = tmp_path / "a.ark", tmp_path / "a.scp"
    with kaldi_native_io.WaveWriter(f"ark,scp:{ark},{scp}") as writer:
        for key, rate, samples in (("a", 8_000, TONE[None]), ("b", RATE, STEREO.T)):
            writer[key] = kaldi_native_io.WaveData(rate, samples.astype(np.float32))

    for value in read_scp(scp).values():
        rate, expected = kaldiio.load_mat(value)
        samples, got_rate = fetch_audio(value)
        assert got_rate == rate
        np.testing.assert_array_equal(samples, as_float(expected))


@pytest.mark.parametrize("between", [b"", b"utt2 ", b"utt2 \0BFV "], ids=["nothing", "a key", "a vector"])
def test_a_flac_file_within_an_archive_is_read_to_its_own_end(between: bytes, tmp_path: Path) -> None:
    other = encode(TONE[::-1].copy(), "FLAC")
    ark = write(tmp_path / "a.ark", b"utt1 " + FLAC + between + other)

    first, _ = fetch_audio(f"{ark}:5")
    second, _ = fetch_audio(f"{ark}:{5 + len(FLAC) + len(between)}")

    np.testing.assert_array_equal(first, as_float(TONE))
    np.testing.assert_array_equal(second, as_float(TONE[::-1]))


@pytest.mark.parametrize("bits", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("num_samples", [1, 100, 50_000])
@pytest.mark.parametrize("num_channels", [1, 2, 8])
def test_copy_of_a_flac_record_has_a_size_limit(num_channels: int, num_samples: int, bits: str, tmp_path: Path) -> None:
    """Noise gives the longest file; a picture may precede it."""
    noise = np.random.default_rng(0).integers(-(2**31), 2**31, (num_samples, num_channels), dtype=np.int32)
    flac = encode(noise, "FLAC", bits)
    assert flac[4] == 0
    flac = flac[:42] + b"\x06" + (100_000).to_bytes(3, "big") + bytes(100_000) + flac[42:]
    ark = write(tmp_path / "a.ark", flac + b"x" * 10_000_000)

    content = fetch(f"{ark}:0")

    assert content.startswith(flac)
    assert len(content) < 300_000 + 2.1 * noise.nbytes


def test_endless_flac_header_is_copied_quickly(tmp_path: Path) -> None:
    ark = write(tmp_path / "a.ark", b"fLaC" + bytes(20_000_000))
    started = time.process_time()

    assert len(fetch(f"{ark}:0")) < 100_000
    assert time.process_time() - started < 1


@pytest.mark.parametrize("behind", [b"", b"utt2 " + WAV])
@pytest.mark.parametrize("size", [0, 28, 0x7FFF_F000, 0x7FFF_F024, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_wav_record_ends_with_its_audio(size: int, behind: bytes, tmp_path: Path) -> None:
    """Whatever the header declares in all."""
    wav = WAV[:4] + struct.pack("<I", size) + WAV[8:]

    assert fetch(f"{write(tmp_path / 'a.ark', b'utt ' + wav + behind)}:4") == wav


@pytest.mark.parametrize("behind", [b"", b"utt2 " + WAV])
@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FF9B, 0xFFFF_FFFF])
def test_wav_record_of_unknown_size_fails(size: int, behind: bytes, tmp_path: Path) -> None:
    """Its end can't be told from the next record."""
    wav = WAV[:40] + struct.pack("<I", size) + WAV[44:]

    assert failure(f"{write(tmp_path / 'a.ark', b'utt ' + wav + behind)}:4") == (
        "unreadable",
        f"the header declares {size} bytes of audio, as if it was written to a pipe, so that the next record can't be "
        "told from it: write it to a file, and the file to the archive",
    )


@pytest.mark.parametrize("magic", [b"RIFX", b"RF64"])
def test_wav_records_of_other_kinds_are_cut_out_exactly(magic: bytes, tmp_path: Path) -> None:
    container = Container(magic)
    wav = container.wrap(container.encode(TONE, "PCM_16"), after=container.chunk(b"LIST", b"INFO"))

    assert fetch(f"{write(tmp_path / 'a.ark', b'utt ' + wav + b'utt2 ' + WAV)}:4") == wav


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "samples", [MATRIX[0], MATRIX[:1], MATRIX, MATRIX.T], ids=["vector", "one row", "rows", "columns"]
)
def test_vectors_and_matrices_are_samples_at_16_khz(
    samples: NDArray[np.float32], dtype: type[Any], tmp_path: Path
) -> None:
    ark, scp = tmp_path / "a.ark", tmp_path / "a.scp"
    kaldiio.save_ark(str(ark), {"a": samples.astype(dtype), "b": samples[..., :50].astype(dtype)}, scp=str(scp))
    expected = samples.T if samples.shape[0] <= 2 else samples

    got, rate = fetch_audio(read_scp(scp)["a"])

    assert rate == 16_000
    np.testing.assert_array_equal(got, np.squeeze(expected))


def test_matrices_of_kaldi_are_read_as_kaldiio_reads_them(tmp_path: Path) -> None:
    ark, scp = tmp_path / "a.ark", tmp_path / "a.scp"
    with kaldi_native_io.FloatMatrixWriter(f"ark,scp:{ark},{scp}") as writer:
        writer["a"] = MATRIX

    got, _ = fetch_audio(read_scp(scp)["a"])

    np.testing.assert_array_equal(got, kaldiio.load_mat(read_scp(scp)["a"]).T)
    np.testing.assert_array_equal(got, MATRIX.T)


@pytest.mark.parametrize("method", [2, 3, 4, 5])
@pytest.mark.parametrize("columns", [False, True])
def test_compressed_matrices_are_read(columns: bool, method: int, tmp_path: Path) -> None:
    """Of all three formats, within their precision."""
    ark, scp = tmp_path / "a.ark", tmp_path / "a.scp"
    samples = np.ascontiguousarray(STEREO if columns else STEREO.T).astype(np.float32)
    kaldiio.save_ark(str(ark), {"a": samples, "b": samples}, scp=str(scp), compression_method=method)
    expected = kaldiio.load_mat(read_scp(scp)["b"])

    got, rate = fetch_audio(read_scp(scp)["a"])

    assert rate == 16_000
    np.testing.assert_allclose(got, (expected if columns else expected.T) / 2**15, rtol=0, atol=1e-7)
    np.testing.assert_allclose(got, as_float(STEREO), rtol=0, atol=0.02)


def test_matrices_compressed_by_kaldi_are_read(tmp_path: Path) -> None:
    ark, scp = tmp_path / "a.ark", tmp_path / "a.scp"
    with kaldi_native_io.CompressedMatrixWriter(f"ark,scp:{ark},{scp}") as writer:
        writer["a"] = STEREO.T.astype(np.float32)

    got, _ = fetch_audio(read_scp(scp)["a"])

    np.testing.assert_allclose(got, as_float(STEREO), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([0.5, -1.0, 1.0], [0.5, -1.0, 1.0]),
        ([16384.0, -32768.0, 0.5], [0.5, -1.0, 0.5 / 32768]),
        ([0.0, -1.5], [0.0, -1.5 / 32768]),
        ([0.5, np.nan], [0.5, np.nan]),
        ([1.0, np.inf], [1.0 / 32768, np.inf]),
        ([1e300, 32768.0], [np.inf, 1.0]),
    ],
)
def test_samples_in_16_bit_range_are_scaled(written: list[float], expected: list[float], tmp_path: Path) -> None:
    kaldiio.save_ark(str(tmp_path / "a.ark"), {"a": np.array(written)})

    got, _ = fetch_audio(f"{tmp_path}/a.ark:2")

    np.testing.assert_array_equal(got, np.array(expected, np.float32))


def kaldi(kind: bytes, *shape: int, content: bytes = b"") -> bytes:
    """Make the header of a vector or matrix, followed by its content."""
    if kind.startswith(b"CM"):
        return b"\0B" + kind + b" " + struct.pack("<ffii", 0, 1, *shape) + content
    return b"\0B" + kind + b" " + b"".join(b"\4" + struct.pack("<i", size) for size in shape) + content


NO_AUDIO = "no WAV or FLAC file, and no vector or matrix of floats, begins at this byte"


def cut(declared: int, left: int) -> tuple[str, str]:
    return "truncated", f"the header declares {declared} bytes, the archive has {left} left: copy it again"


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (b"", "truncated", "the archive has 4 bytes"),
        (WAV[:-1], *cut(32044, 32043)),
        (WAV[:8], *cut(32044, 8)),
        (b"AUDIO\x02\x00\x01" + bytes(255), *cut(256, 255)),
        (b"AUDIO\xff" + b"\1" * 100, *cut(int("01" * 100, 16), 0)),
        (kaldi(b"FV", 10, content=bytes(36)), *cut(50, 46)),
        (kaldi(b"DV", 10, content=bytes(79)), *cut(90, 89)),
        (kaldi(b"FM", 2, 5, content=bytes(32)), *cut(55, 47)),
        (kaldi(b"FV", 2**31 - 1), *cut(8589934598, 10)),
        (kaldi(b"CM", 5, 2, content=bytes(25)), *cut(47, 46)),
        (kaldi(b"CM2", 5, 2, content=bytes(19)), *cut(42, 41)),
        (kaldi(b"CM3", 5, 2, content=bytes(9)), *cut(32, 31)),
        (kaldi(b"FV", 0), "zero length", "holds no samples"),
        (kaldi(b"FM", 0, 0), "zero length", "holds no samples"),
        (kaldi(b"FM", 1000, 80, content=bytes(320_000)), "not audio", "a matrix of 1000 x 80 is not audio"),
        (kaldi(b"CM", 9, 9), "not audio", "a matrix of 9 x 9 is not audio"),
        (kaldi(b"FM", -1, 80), "not audio", "a matrix of -1 x 80 is not audio"),
        (kaldi(b"FV", -5), "not audio", "a matrix of -5 is not audio"),
        (b"\0B\4\3\0\0\0" + b"\4\0\0\0\0" * 3, "not audio", "neither a vector nor a matrix of floats"),
        (b"\0BFV ", "not audio", "neither a vector nor a matrix of floats"),
        (b" [ 1.0 2.0 ]\n", "not audio", NO_AUDIO),
        (b"NPY\x01\x20" + bytes(32), "not audio", NO_AUDIO),
        (b"OggS" + bytes(100), "not audio", NO_AUDIO),
        (b"R", "not audio", NO_AUDIO),
    ],
)
def test_unusable_archive_record_fails_with_reason(content: bytes, reason: str, detail: str, tmp_path: Path) -> None:
    assert failure(f"{write(tmp_path / 'a.ark', b'utt ' + content)}:4") == (reason, detail)


@pytest.mark.parametrize("kind", ["tuple", "soundfile", "vector", "matrix", "compressed"])
def test_truncated_archive_record_fails(kind: str, tmp_path: Path) -> None:
    records: dict[str, tuple[Any, dict[str, Any]]] = {
        "tuple": ((RATE, TONE), {}),
        "soundfile": ((RATE, TONE), {"write_function": "soundfile"}),
        "vector": (MATRIX[0], {}),
        "matrix": (MATRIX, {}),
        "compressed": (MATRIX, {"compression_method": 2}),
    }
    record, options = records[kind]
    ark = tmp_path / "a.ark"
    kaldiio.save_ark(str(ark), {"a": record}, **options)
    content = ark.read_bytes()
    assert fetch(f"{ark}:2")

    for size in (*range(7, 60), len(content) // 2, *range(len(content) - 9, len(content))):
        write(ark, content[:size])
        assert failure(f"{ark}:2")[0] in {"truncated", "not audio"}


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_of_an_archive_is_run(tmp_path: Path) -> None:
    witness, ark = tmp_path / "witness", tmp_path / "a.ark"
    kaldiio.save_ark(str(ark), {"a": Bomb(witness)}, write_function="pickle")

    assert failure(f"{ark}:2") == ("not audio", NO_AUDIO)
    assert not witness.exists()

    kaldiio.load_mat(f"{ark}:2")
    assert witness.exists()


def test_file_name_may_end_like_an_offset(tmp_path: Path) -> None:
    """An existing file takes precedence over an archive."""
    write(tmp_path / "a:4", b"utt " + WAV)
    write(tmp_path / "a", b"utt " + FLAC)

    assert fetch(f"{tmp_path}/a:4") == b"utt " + WAV
    assert fetch("a:4", str(tmp_path)) == b"utt " + WAV
    assert fetch(f"{tmp_path}/a:4:4") == WAV
    assert fetch_audio(f"{tmp_path}/a:0004")[1] == RATE


def test_archive_is_found_beside_its_list(tmp_path: Path) -> None:
    write(tmp_path / "a.ark", b"utt " + WAV)

    assert fetch("a.ark:4", str(tmp_path)) == WAV


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("{}/none.ark:4", "missing", "no such file"),
        ("none.ark:4", "missing", "no such file"),
        ("{}:4", "unreadable", "not a regular file"),
        ("{}/fifo:4", "unreadable", "not a regular file"),
        ("{}/a.ark/b.ark:4", "unreadable", "Not a directory"),
        ("{}/a\0.ark:4", "unreadable", "a NUL character in the path"),
        ("{}/a.ark:32048", "truncated", "the archive has 32048 bytes"),
        ("{}/a.ark:999999999999999999", "truncated", "the archive has 32048 bytes"),
        ("{}/a.ark:4[0:5]", "unreadable", "[0:5]: a part of an archive's record can't be read"),
        ("{}/none.ark:4[,3]", "unreadable", "[,3]: a part of an archive's record can't be read"),
    ],
)
def test_unreadable_archives_fail_with_reason(name: str, reason: str, detail: str, tmp_path: Path) -> None:
    write(tmp_path / "a.ark", b"utt " + WAV)
    os.mkfifo(tmp_path / "fifo")

    assert failure(name.format(tmp_path)) == (reason, detail)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("cat 'it is.wav' |", WAV),
        ('cat "it is.wav"|  ', WAV),
        (r"cat it\ is.wav | cat |", WAV),
        ("for part in a b; do printf '%s' $part; done |", b"ab"),
        ('printf %s "$VARIABLE" |', b"its value"),
        ("cat < 'it is.wav'; exit 0 |", WAV),
        ("cat 'it is.wav' > /dev/stdout |", WAV),
        ("echo careful >&2; echo x |", b"x\n"),
        ("yes | head -n 1 |", b"y\n"),
    ],
)
def test_standard_output_of_a_command_is_read(
    command: str, output: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is run by a shell, in the current folder."""
    write(tmp_path / "it is.wav", WAV)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VARIABLE", "its value")

    assert fetch(command) == output


def test_a_command_of_any_bytes_is_run(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff caf\xe9.wav"
    with open(path, "wb") as file:
        file.write(WAV)

    assert fetch(os.fsdecode(b"cat '" + path + b"' |")) == WAV


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16")],
)
def test_audio_from_a_command_can_be_opened_repeatedly(kind: str, subtype: str, tmp_path: Path) -> None:
    audio = write(tmp_path / "audio", encode(TONE, kind, subtype))
    expected, _ = soundfile.read(audio)

    with open_source(f"cat {audio} |", "", FetchLimits(10), never) as path:
        for _ in range(3):
            samples, rate = soundfile.read(path)
            assert rate == RATE
            np.testing.assert_array_equal(samples, expected)


def test_command_may_write_50_megabytes() -> None:
    with open_source("head -c 50000000 /dev/zero |", "", FetchLimits(10), never) as path:
        assert os.stat(path).st_size == 50_000_000


def test_commands_run_concurrently() -> None:
    with ExitStack() as stack:
        paths = [
            stack.enter_context(open_source(f"echo {number} |", "", FetchLimits(10), never)) for number in range(20)
        ]

        assert [Path(path).read_text() for path in paths] == [f"{number}\n" for number in range(20)]


def test_command_has_no_input_and_its_own_session() -> None:
    """Signals of the terminal do not reach another session."""
    assert failure("cat |") == ("empty", "0 bytes of output")
    pid, session = fetch("cut -d ' ' -f 1,6 /proc/$$/stat; exit 0 |").split()
    assert pid == session


def test_commands_are_run_only_if_allowed(tmp_path: Path) -> None:
    reason = ("not allowed", "commands are run only with --allow-pipes")

    assert failure(f"touch {tmp_path}/witness |", pipe_seconds=None) == reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "reason", "detail"),
    [
        ("cat {wav}; exit 3 |", "pipe failed", "exit code 3"),
        ("cat {wav}; echo no more >&2; exit 3 |", "pipe failed", "exit code 3: no more"),
        ("cat {wav} | false |", "pipe failed", "exit code 1"),
        ("printf 'a\\tb\\r\\n\\033c\\0d\\377\\n\\n' >&2; exit 1 |", "pipe failed", "exit code 1: a b c d\ufffd"),
        ("printf '\\n \\033' >&2; exit 1 |", "pipe failed", "exit code 1"),
        ("cat {wav}; kill -KILL $$ |", "pipe failed", "killed by SIGKILL"),
        ("cat {wav}; echo oh >&2; kill -TERM $$ |", "pipe failed", "killed by SIGTERM: oh"),
        ("cat {wav}; kill -40 $$ |", "pipe failed", "killed by signal 40"),
        ("if |", "pipe failed", "exit code 2: /bin/sh: "),
        ("nosuchcommand |", "pipe failed", "exit code 127: /bin/sh: "),
        ("true |", "empty", "0 bytes of output"),
        ("echo nothing to say >&2 |", "empty", "0 bytes of output: nothing to say"),
        ("|", "empty", "0 bytes of output"),
        ("cat a\0b |", "pipe failed", "a NUL character in the command"),
        ("cat " + 200_000 * "x" + " |", "pipe failed", "Argument list too long"),
    ],
)
def test_failed_command_fails_despite_its_output(command: str, reason: str, detail: str, tmp_path: Path) -> None:
    wav = write(tmp_path / "a.wav", WAV)

    got = failure(command.replace("{wav}", str(wav)))

    assert (got[0], got[1][: len(detail)]) == (reason, detail)
    assert got[1] == detail or detail.endswith(" ")


def test_last_characters_of_standard_error_are_kept() -> None:
    reason, detail = failure("seq 100000 >&2; exit 1 |")

    assert reason == "pipe failed"
    assert re.fullmatch(r"exit code 1: [0-9 ]{500}", detail)
    assert detail.endswith(" 99998 99999 100000")


def test_command_that_times_out_is_killed_with_its_children(tmp_path: Path) -> None:
    command = f"echo $$ > {tmp_path}/pid; echo waiting >&2; sleep 100 & sleep 100 | cat |"
    started = time.monotonic()

    assert failure(command, pipe_seconds=2) == ("pipe timed out", "no end after 2 s: waiting")
    assert 2 <= time.monotonic() - started < 60
    wait_until(lambda: not find_group(int((tmp_path / "pid").read_text())))


def test_a_command_is_killed_when_the_run_is_stopped(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = f"sleep 100 & echo $$ > {pid}; wait |"

    assert failure(command, stopping=lambda: pid.exists() and bool(pid.read_text())) == (
        "stopped",
        "the run was stopped",
    )
    wait_until(lambda: not find_group(int(pid.read_text())))


def test_background_processes_of_a_command_are_killed(tmp_path: Path) -> None:
    """They are not waited for, though they keep the output open."""
    pid = tmp_path / "pid"
    started = time.monotonic()

    assert fetch(f"(sleep 100; echo late) & echo $$ > {pid}; echo done |") == b"done\n"
    assert time.monotonic() - started < 60
    wait_until(lambda: not find_group(int(pid.read_text())))


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.wav", WAV),
        ("a b.wav?x=1#part", WAV),
        ("to//a.wav", WAV),
        ("chunks", b"some bytes more"),
        ("zipped", WAV),
        ("large", WAV * 300),
    ],
)
def test_a_url_is_downloaded(path: str, content: bytes, site: SiteServer) -> None:
    assert fetch(f"{site.url}/{path}") == content


def test_url_of_any_bytes_is_downloaded(site: SiteServer) -> None:
    assert fetch(os.fsdecode(f"HTTP{site.url[4:]}/".encode() + b"caf\xe9.wav")) == WAV
    assert fetch(f"{site.url}/café.wav") == WAV
    assert site.requests == ["/caf%E9.wav", "/caf%C3%A9.wav"]


def test_busy_server_is_retried(site: SiteServer) -> None:
    """Soon, despite its Retry-After: the run could not be stopped during such a wait."""
    assert fetch(f"{site.url}/busy-twice") == WAV
    assert len(site.requests) == 3


@pytest.mark.parametrize(
    ("path", "reason", "detail"),
    [
        ("status/404", "missing", "HTTP 404 Not Found"),
        ("status/410", "missing", "HTTP 410 Gone"),
        ("status/403", "download failed", "HTTP 403 Forbidden"),
        ("status/204", "download failed", "HTTP 204 No Content"),
        ("status/599", "download failed", "HTTP 599"),
        ("cut", "download failed", "IncompleteRead(1000 bytes read, 31044 more expected)"),
        ("cut-chunks", "download failed", "IncompleteRead("),
        ("to/file:///etc/passwd", "download failed", "No connection adapters were found for 'file:///etc/passwd'"),
        ("to/ftp://127.0.0.1/a", "download failed", "No connection adapters were found for 'ftp://127.0.0.1/a'"),
        ("to/http://127.0.0.1:99999/", "download failed", "Port out of range 0-65535"),
        ("loop", "download failed", "Exceeded 30 redirects."),
    ],
)
def test_failed_download_has_reason(path: str, reason: str, detail: str, site: SiteServer) -> None:
    got = failure(f"{site.url}/{path}")

    assert (got[0], got[1][: len(detail)]) == (reason, detail)


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("http://", "Invalid URL 'http://': No host supplied"),
        ("http://127.0.0.1:99999/", "Failed to parse: http://127.0.0.1:99999/"),
        ("http://[x/", "Failed to parse: '[x' is not a valid host or port"),
    ],
)
def test_invalid_url_fails_with_reason(url: str, detail: str) -> None:
    assert failure(url) == ("download failed", detail)


def test_server_that_stays_busy_fails(site: SiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda *_: None)

    assert failure(f"{site.url}/status/503") == ("download failed", "HTTP 503 Service Unavailable")
    assert len(site.requests) == 4


def test_absent_server_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda *_: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))

        detail = failure(f"http://127.0.0.1:{unused.getsockname()[1]}/a.wav")

    assert detail == ("download failed", "Connection refused")


@pytest.mark.parametrize(
    ("limits", "detail"),
    [({"read_seconds": 0.2}, "timed out"), ({"download_seconds": 0}, "no end after 0 s")],
    ids=["silent", "slow"],
)
def test_a_server_that_takes_too_long_is_given_up(limits: dict[str, float], detail: str, site: SiteServer) -> None:
    assert (READ_SECONDS, DOWNLOAD_SECONDS) == (60, 3600)
    with pytest.raises(AudioError, match=f"^{detail}$") as caught:
        download(f"{site.url}/slow", io.BytesIO(), 10**6, never, **limits)
    assert caught.value.reason == "download failed"


def test_a_download_ends_when_the_run_is_stopped(site: SiteServer) -> None:
    """Even after only a few bytes."""
    started = time.monotonic()

    assert failure(f"{site.url}/slow", stopping=lambda: True) == ("stopped", "the run was stopped")
    assert time.monotonic() - started < 60


def test_a_proxy_of_the_environment_is_used(site: SiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url)

    assert fetch("http://nowhere.invalid/a.wav") == WAV
    assert site.requests == ["http://nowhere.invalid/a.wav"]


@pytest.fixture(params=["command", "archive", "url"])
def fetched(request: pytest.FixtureRequest, site: SiteServer, tmp_path: Path) -> str:
    """A source of each kind that needs a temporary file."""
    ark = write(tmp_path / "a.ark", WAV)
    return {"command": f"cat {ark} |", "archive": f"{ark}:0", "url": f"{site.url}/a.wav"}[request.param]


def test_temporary_file_has_no_name(fetched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing remains, even without a clean-up."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    with open_source(fetched, "", FetchLimits(10), never) as path:
        assert Path(path).read_bytes() == WAV
        assert list((tmp_path / "tmp").iterdir()) == []
        assert os.stat(path).st_dev == tmp_path.stat().st_dev
    assert not Path(path).exists()


def test_a_full_disk_is_not_blamed_on_the_source(fetched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)

    with pytest.raises(OSError, match="No space left on device"), open_source(fetched, "", FetchLimits(10), never):
        pass


@pytest.mark.parametrize("fetched", ["archive", "url"], indirect=True)
def test_disk_that_fills_up_is_not_blamed_on_the_source(fetched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "r+b"))

    with pytest.raises(OSError, match="No space left on device"), open_source(fetched, "", FetchLimits(10), never):
        pass


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENAMETOOLONG])
def test_most_errors_are_blamed_on_the_file(code: int) -> None:
    error = blame(OSError(code, os.strerror(code)))

    assert (error.reason, str(error)) == ("unreadable", os.strerror(code))


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN])
def test_some_errors_are_blamed_on_the_machine(code: int) -> None:
    with pytest.raises(OSError, match=os.strerror(code)):
        blame(OSError(code, os.strerror(code)))
