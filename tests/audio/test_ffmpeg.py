"""FFmpeg's formats: the same samples as the ffmpeg program's, and of a file that was cut short, none."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from support.audio_files import RATE, encode, noisy_tone
from support.ffmpeg import decode_by_ffmpeg, encode_by_ffmpeg, encode_each_by_ffmpeg
from support.kaldi_folders import read_rows
from support.processes import ROOT, E2v

from e2v_cli.audio.decode import AudioOptions, load_waveforms
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.ffmpeg import FfmpegDecoder
from e2v_cli.audio.formats import audio_suffixes, open_audio
from e2v_cli.options import ComputeOptions, InputOptions
from e2v_cli.records import Failure, Segment, Utterance, Waveform

ALL_RATES = (8_000, 16_000, 44_100, 48_000)

CUTS = 20
"""Number of offsets at which each file is cut."""

FORMATS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    ".m4a": ("-c:a aac", ALL_RATES, (1, 2)),
    "-first.mp4": ("-c:a aac -movflags +faststart", ALL_RATES, (1, 2)),
    "-fragmented.mp4": ("-c:a aac -movflags frag_keyframe+empty_moov -frag_duration 200000", ALL_RATES, (1, 2)),
    "-alac.m4a": ("-c:a alac", ALL_RATES, (1, 2)),
    "-mp3.mp4": ("-c:a libmp3lame", (16_000, 44_100, 48_000), (1, 2)),
    "-24.mov": ("-c:a pcm_s24be", ALL_RATES, (1, 2)),
    "-float.mov": ("-c:a pcm_f64le", ALL_RATES, (1, 2)),
    "-amr.3gp": ("-c:a libopencore_amrnb", (8_000,), (1,)),
    ".mkv": ("-c:a aac", ALL_RATES, (1, 2)),
    "-flac.mka": ("-c:a flac", ALL_RATES, (1, 2)),
    "-opus.webm": ("-c:a libopus", (8_000, 16_000, 48_000), (1, 2)),
    "-vorbis.webm": ("-c:a libvorbis", ALL_RATES, (1, 2)),
    "-live.webm": ("-c:a libopus -live 1", (8_000, 16_000, 48_000), (1, 2)),
    ".wma": ("-c:a wmav2", ALL_RATES, (1, 2)),
    ".avi": ("-c:a pcm_s16le", ALL_RATES, (1, 2)),
    "-8.avi": ("-c:a pcm_u8", ALL_RATES, (1, 2)),
    "-mp3.avi": ("-c:a libmp3lame", ALL_RATES, (1, 2)),
    ".wv": ("-c:a wavpack", ALL_RATES, (1, 2)),
    ".caf": ("-c:a pcm_s16be", ALL_RATES, (1, 2)),
    ".aac": ("-c:a aac", ALL_RATES, (1, 2)),
    ".amr": ("-c:a libopencore_amrnb", (8_000,), (1,)),
    ".ac3": ("-c:a ac3", (44_100, 48_000), (1, 2)),
    ".eac3": ("-c:a eac3", (44_100, 48_000), (1, 2)),
}
"""By the end of a name: ffmpeg's options, and the rates and channels that it encodes so."""

SELF_FRAMING = {".aac", ".amr", ".ac3", ".eac3", "-fragmented.mp4", "-live.webm"}
"""Formats in which a file that ends with a frame is whole, since nothing tells how many there were."""

OPTIONS = AudioOptions(InputOptions(()), ComputeOptions(), min_samples=400)

WAV = encode(noisy_tone(2 * RATE))
M4A = encode_by_ffmpeg(WAV, ".m4a", "-c:a", "aac")


@pytest.fixture(scope="module")
def samples() -> dict[str, dict[tuple[int, int], bytes]]:
    """Encode a second and a half of each format, by rate and channels."""
    encoded = {}
    for name, (options, rates, channels) in FORMATS.items():
        kinds = [(rate, count) for rate in rates for count in channels]
        waves = [encode(noisy_tone(rate * 3 // 2 + 17, count, rate), rate=rate) for rate, count in kinds]
        encoded[name] = dict(zip(kinds, encode_each_by_ffmpeg(waves, name, *options.split()), strict=True))
    return encoded


def read(path: Path | str, block: int = 10_000) -> NDArray[np.float32]:
    """Read a file to its end, which is checked: (samples, channels)."""
    with open_audio(str(path)) as decoder:
        blocks, position = [], 0
        while len(samples := decoder.read(block)):
            blocks.append(samples)
            position += len(samples)
        decoder.check_end(position)
        return np.concatenate(blocks) if blocks else np.empty((0, decoder.num_channels), np.float32)


def reason_of(path: Path | str) -> str:
    """Read a file that must fail."""
    with pytest.raises(AudioError) as caught:
        read(path)
    return f"{caught.value.reason}: {caught.value}"


def load(path: Path | str, segment: Segment | None = None) -> Waveform | Failure:
    utterance = Utterance(0, "utt", str(path), segment=segment)
    (result,) = load_waveforms([utterance], OPTIONS, lambda: False)
    return result


@pytest.mark.parametrize("name", FORMATS)
def test_samples_are_those_of_ffmpeg(
    name: str, samples: dict[str, dict[tuple[int, int], bytes]], tmp_path: Path
) -> None:
    """To the bit, and their number is known before to within a frame."""
    assert Path(f"a{name}").suffix in audio_suffixes()
    for (rate, channels), content in samples[name].items():
        path = tmp_path / f"{rate}-{channels}{name}"
        path.write_bytes(content)

        found = read(path)

        np.testing.assert_array_equal(found, decode_by_ffmpeg(path, channels), str(path))
        with open_audio(str(path), at_a_glance=True) as decoder:
            assert isinstance(decoder.num_samples, int)
            assert abs(decoder.num_samples - len(found)) <= 2048 + rate // 500  # a frame, and milliseconds
            assert (decoder.rate, decoder.num_channels) == (48_000 if "libopus" in FORMATS[name][0] else rate, channels)


@pytest.mark.parametrize("name", FORMATS)
def test_files_cut_anywhere_fail(name: str, samples: dict[str, dict[tuple[int, int], bytes]], tmp_path: Path) -> None:
    for content in samples[name].values():
        for number in range(1, CUTS + 1):
            path = tmp_path / f"cut{name}"
            path.write_bytes(content[: len(content) * number // (CUTS + 1)])
            try:
                found = read(path)
            except AudioError:
                continue
            assert name in SELF_FRAMING
            assert len(found) == len(decode_by_ffmpeg(path, found.shape[1]))


@pytest.mark.parametrize("missing", [1, 2, 7, 8, 9, 20])
@pytest.mark.parametrize("name", FORMATS)
def test_files_without_their_last_bytes_fail(
    name: str, missing: int, samples: dict[str, dict[tuple[int, int], bytes]], tmp_path: Path
) -> None:
    path = tmp_path / f"cut{name}"
    path.write_bytes(samples[name][max(samples[name])][:-missing])

    assert reason_of(path).startswith("truncated: ")


def test_alac_in_caf_is_read_whole(tmp_path: Path) -> None:
    """FFmpeg 8 and 9 cut the last packet twice."""
    path = tmp_path / "a.caf"
    path.write_bytes(encode_by_ffmpeg(WAV, ".caf", "-c:a", "alac"))

    np.testing.assert_array_equal(read(path), read_pcm(WAV, tmp_path))


def read_pcm(wav: bytes, folder: Path) -> NDArray[np.float32]:
    (folder / "pcm.wav").write_bytes(wav)
    return read(folder / "pcm.wav")


@pytest.mark.parametrize(
    ("magic", "speech", "pause", "samples"),
    [(b"#!AMR\n", bytes([0x3C]) + bytes(31), 8, 160), (b"#!AMR-WB\n", bytes([0x44]) + bytes(60), 9, 320)],
)
def test_pauses_in_amr_keep_their_duration(
    magic: bytes, speech: bytes, pause: int, samples: int, tmp_path: Path
) -> None:
    """A frame of comfort noise, and seven without data; FFmpeg's own decoder leaves them out."""
    silence = (bytes([pause << 3 | 4]) + bytes(5) + bytes([0x7C]) * 7) * 2
    path = tmp_path / "a.amr"
    path.write_bytes(magic + speech * 20 + silence + speech * 10)

    assert len(read(path)) == samples * (20 + 16 + 10)

    path.write_bytes(magic + speech * 20 + bytes([0x7C]) + speech * 10)  # a frame was lost
    assert reason_of(path) == f"truncated: no frame begins at byte {len(magic) + 20 * len(speech)}: copy the file again"


def test_ape_is_checked_by_its_header(tmp_path: Path) -> None:
    """Without an encoder at hand: a header that declares more bytes than there are, and one of an old version."""
    path = tmp_path / "a.ape"
    sizes = struct.pack("<7I16x", 52, 24, 4, 0, 10_000, 0, 0)
    header = struct.pack("<HHIIIHHI", 2000, 0, 73728, 1000, 2, 16, 1, RATE)
    path.write_bytes(b"MAC " + struct.pack("<HH", 3990, 0) + sizes + header + bytes(4 + 9_000))
    assert reason_of(path) == "truncated: the last part ends 1000 bytes past the end of the file: copy it again"

    path.write_bytes(b"MAC " + struct.pack("<H", 3970) + bytes(1000))
    assert reason_of(path) == "unreadable: Monkey's Audio 3.97: convert it to WAV"


def test_index_of_fragments_is_compared_with_the_file(tmp_path: Path) -> None:
    """A download that ends with a fragment."""
    options = ["-c:a", "aac", "-movflags", "dash+global_sidx+skip_trailer", "-frag_duration", "300000"]
    content = encode_by_ffmpeg(WAV, ".mp4", *options)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert len(read(path)) == len(decode_by_ffmpeg(path))

    path.write_bytes(content[: content.rindex(b"moof") - 4])

    assert "truncated: the last fragment ends" in reason_of(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".wmv", ".mov"])
def test_audio_of_videos_is_read(suffix: str, tmp_path: Path) -> None:
    """The first audio stream, although the picture goes on for longer."""
    codecs = {".webm": ("libvpx", "libopus"), ".wmv": ("wmv2", "wmav2"), ".avi": ("mpeg4", "libmp3lame")}
    video, audio = codecs.get(suffix, ("libx264", "aac"))
    picture = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=3")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_by_ffmpeg(WAV, suffix, *picture, "-c:v", video, "-c:a", audio))
    np.testing.assert_array_equal(read(path), decode_by_ffmpeg(path))

    path.write_bytes(path.read_bytes()[:-500])
    assert reason_of(path).startswith("truncated: ")

    path.write_bytes(encode_by_ffmpeg(WAV, suffix, *picture, "-c:v", video, "-map", "1"))
    assert reason_of(path) == "not audio: it has no audio stream"


def test_encrypted_audio_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(M4A.replace(b"mp4a", b"enca"))

    assert reason_of(path) == "unreadable: the audio is encrypted: only the program of its seller can read it"


def test_change_of_rate_within_a_file_fails(tmp_path: Path) -> None:
    parts = [encode_by_ffmpeg(WAV, ".aac", "-c:a", "aac", "-ar", rate) for rate in ("16000", "44100")]
    path = tmp_path / "a.aac"
    path.write_bytes(b"".join(parts))

    assert reason_of(path) == "unreadable: its rate or its channels change within the file: convert it to WAV"


@pytest.mark.parametrize("offset", [20, 4000])
@pytest.mark.parametrize("hole", [bytes(3000), b"\xff" * 3000, bytes(range(256)) * 12])
def test_damaged_audio_fails_with_the_message_of_ffmpeg(
    offset: int, hole: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which goes to the log, and never to standard error."""
    path = tmp_path / "a.m4a"
    begin = M4A.index(b"mdat") + offset
    path.write_bytes(M4A[:begin] + hole + M4A[begin + len(hole) :])

    with caplog.at_level(logging.INFO, "e2v_cli"):
        reason = reason_of(path)

    assert reason.startswith("truncated: FFmpeg: aac: ")
    assert f"FFmpeg: aac: {reason.removeprefix('truncated: FFmpeg: aac: ')}" in caplog.text
    assert capfd.readouterr().err == ""


def test_errors_of_several_threads_are_told_apart(tmp_path: Path) -> None:
    """The same error at the same time."""
    path = tmp_path / "a.m4a"
    begin = M4A.index(b"mdat") + 4000
    path.write_bytes(M4A[:begin] + bytes(3000) + M4A[begin + 3000 :])
    (tmp_path / "whole.m4a").write_bytes(M4A)
    barrier = Barrier(8)

    def run(number: int) -> str | int:
        barrier.wait()
        return reason_of(path) if number % 2 else len(read(tmp_path / "whole.m4a"))

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(run, range(8)))
    assert set(outcomes[::2]) == {len(noisy_tone(2 * RATE))}
    assert len(set(outcomes[1::2])) == 1


def test_tags_of_other_encodings_are_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(encode_by_ffmpeg(WAV, ".m4a", "-metadata", "title=XXXX").replace(b"XXXX", "情感".encode("gbk")))

    assert len(read(path)) == 2 * RATE


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.m4a", b"concat:a.m4a|b.m4a", b"http:example.org", b"subfile,,start,0:a.m4a"]
)
def test_any_name_is_that_of_a_file(name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = os.fsdecode(name)
    Path(path).write_bytes(M4A)

    assert len(read(path)) == 2 * RATE


def test_file_without_a_name_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "a", "w+b") as file:
        file.write(M4A)
        file.flush()
        (tmp_path / "a").unlink()
        assert len(read(f"/dev/fd/{file.fileno()}")) == 2 * RATE


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nsecret.m4a\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.m4a\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    ],
)
def test_playlists_are_no_audio(content: str, tmp_path: Path) -> None:
    (tmp_path / "secret.m4a").write_bytes(M4A)
    path = tmp_path / "a.m4a"
    path.write_text(content)

    assert reason_of(path).startswith("not audio: no known format")


def with_reference(movie: bytes, name: bytes) -> bytes:
    """Make a QuickTime file refer to another for its audio, by an alias in the box dref."""
    alias = bytes(130) + struct.pack(">HH16x", 1, 1) + struct.pack(">HH", 2, len(name)) + name + b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    offset = movie.rindex(b"dref") + 12
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = movie.rindex(kind) - 4
        movie = (
            movie[:at]
            + struct.pack(">I", int.from_bytes(movie[at : at + 4], "big") + len(entry) - 12)
            + movie[at + 4 :]
        )
    return movie[:offset] + entry + movie[offset + 12 :]


def test_other_files_that_a_file_names_are_not_opened(tmp_path: Path) -> None:
    """FFmpeg would read such a file, if it were allowed to."""
    movie = encode_by_ffmpeg(WAV, ".mov", "-c:a", "pcm_s16le")
    (tmp_path / "secret.mov").write_bytes(movie)
    path = tmp_path / "a.mov"
    path.write_bytes(with_reference(movie.replace(movie[100:30_000], bytes(29_900)), b"x/secret.mov"))

    with av.open(str(path), options={"enable_drefs": "1"}) as container:
        assert np.abs(next(container.decode(audio=0)).to_ndarray()).max() > 1000
    assert reason_of(path) == "truncated: the header declares 32000 samples, the file has 0: copy it again"


def test_demuxer_is_the_one_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_text("#EXTM3U\nsecret.m4a\n")

    with pytest.raises(AudioError):
        FfmpegDecoder(str(path), "mov", None)


def test_segments_are_parts_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(M4A)
    whole = load(path)
    assert isinstance(whole, Waveform)

    part = load(path, Segment(0.5, 1.25))

    assert isinstance(part, Waveform)
    np.testing.assert_array_equal(part.whole, whole.whole[8_000:20_000])


def test_libraries_are_imported_when_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(WAV)
    code = (
        "import sys, e2v_cli.cli.main\nfrom e2v_cli.audio.formats import open_audio\n"
        f"open_audio({str(tmp_path / 'a.wav')!r}).read(1)\nprint('av' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def make_folder(folder: Path, damage: Callable[[bytes], bytes]) -> Path:
    folder.mkdir()
    (folder / "a.m4a").write_bytes(encode_by_ffmpeg(WAV, ".m4a", "-c:a", "alac"))
    (folder / "b.wav").write_bytes(WAV)
    (folder / "c.M4A").write_bytes(damage(M4A))
    return folder


def test_folder_with_other_formats_is_predicted(e2v: E2v, tmp_path: Path) -> None:
    """A damaged file is a failure with a reason, and with -q nothing else is said."""
    begin = M4A.index(b"mdat") + 4000
    folder = make_folder(tmp_path / "in", lambda content: content[:begin] + bytes(3000) + content[begin + 3000 :])
    out = tmp_path / "out"

    done = e2v("predict", folder, "-m", "sample", "--device", "cpu", "-o", out, "-q", "--max-failures", "1")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = read_rows((out / "predictions.tsv").read_text())
    assert set(rows) == {"a", "b"}
    assert rows["a"] == rows["b"]
    (failure,) = (out / "failures.tsv").read_text().splitlines()[1:]
    assert failure.startswith(f"c\taudio\ttruncated\t{folder}/c.M4A: FFmpeg: aac: ")
    assert "FFmpeg: aac: " in "".join(path.read_text() for path in (out / "log").iterdir())


def test_plan_reads_the_headers(e2v: E2v, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", lambda content: content[:-100])

    done = e2v("plan", folder, "-m", "sample")

    assert done.returncode == 3, done.stderr
    assert "audio         0.00 hours (0:00:04)" in done.stdout
    assert "sample rates  16000 Hz: 2" in done.stdout
    assert f"c       truncated  {folder}/c.M4A: the box 'moov' at byte " in done.stdout
