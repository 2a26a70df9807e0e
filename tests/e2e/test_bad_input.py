"""Bad files and ids: a row of ``failures.tsv`` or a correct result, nothing outside OUT, and little memory."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from urllib.parse import unquote

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
import soundfile
from support.audio_files import encode, noisy_tone, with_flac_samples, with_wav_size
from support.processes import ROOT, E2v

pytestmark = pytest.mark.e2e

GOOD = noisy_tone(16_000)


def measure(*args: str | Path) -> tuple[int, int]:
    """Run e2v; return its exit code, and the peak memory of its largest process in kilobytes."""
    process = subprocess.Popen([sys.executable, "-m", "e2v_cli", *map(str, args)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def make_bad_files(folder: Path) -> dict[str, str]:
    """Create bad files; return the failure reason of each."""
    good, flac = encode(GOOD), encode(GOOD, "FLAC")
    infinite = GOOD / 2**15
    infinite[500] = np.inf
    files = {
        "empty": (b"", "empty"),
        "text": (b"not audio at all, though it may look like it\n" * 9, "not audio"),
        "cut": (good[:20_000], "truncated"),
        "cut_flac": (flac[: len(flac) // 2], "truncated"),
        "no_samples": (encode(GOOD[:0]), "zero length"),
        "too_short": (encode(GOOD[:399]), "too short"),
        "nan": (encode(np.full(16_000, np.nan), subtype="FLOAT"), "not finite"),
        "infinite": (encode(infinite, subtype="FLOAT"), "not finite"),
        "claims_4_gib": (with_wav_size(good, 0xFFF0_0000)[:60], "truncated"),
        "claims_hours": (with_flac_samples(flac, 16_000 * 36_000), "truncated"),
        "raw_zeros": (bytes(100_000), "not audio"),
        "gzip": (b"\x1f\x8b" + bytes(range(256)) * 40, "not audio"),
    }
    for name, (content, _) in files.items():
        (folder / f"{name}.wav").write_bytes(content)
    reasons = {name: reason for name, (_, reason) in files.items()}
    (folder / "dangling.wav").symlink_to("nowhere.wav")
    (folder / "round.wav").symlink_to("round.wav")
    (folder / "folder.wav").mkdir()
    (folder / "folder.wav" / "again").symlink_to("..")
    os.mkfifo(folder / "fifo.wav")
    special = {"dangling": "missing", "round": "unreadable", "folder": "unreadable", "fifo": "unreadable"}
    return {**reasons, **special, "missing": "missing"}


def make_good_files(folder: Path) -> list[str]:
    """Create files of the same second of audio in many formats; return their names."""
    wide = (GOOD.astype(np.int32) << 16) + 1
    ways = {
        "pcm_16": encode(GOOD),
        "pcm_u8": encode(GOOD, subtype="PCM_U8"),
        "pcm_24": encode(wide, subtype="PCM_24"),
        "pcm_32": encode(wide, subtype="PCM_32"),
        "float": encode(GOOD / 2**15, subtype="FLOAT"),
        "double": encode(GOOD / 2**15, subtype="DOUBLE"),
        "stereo": encode(np.stack([GOOD, GOOD], axis=1)),
        "48_khz": encode(noisy_tone(48_000, rate=48_000), rate=48_000),
        "96_khz": encode(noisy_tone(96_000, rate=96_000), rate=96_000),
        "8_khz": encode(noisy_tone(8_000, rate=8_000), rate=8_000),
        "silence_1s": encode(np.zeros(16_000, np.int16)),
    }
    for name, content in ways.items():
        (folder / f"{name}.wav").write_bytes(content)
    return list(ways)


def write_minutes(path: Path, minutes: int) -> None:
    """Write minutes of silence."""
    with soundfile.SoundFile(path, "w", 16_000, 1, format="FLAC") as file:
        for _ in range(minutes):
            file.write(np.zeros(60 * 16_000, np.int16))


def test_bad_files_fail_alone_and_long_files_need_little_memory(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.mkdir()
    good.mkdir()
    reasons, ways = make_bad_files(bad), make_good_files(good)
    good_scp, bad_scp = tmp_path / "good.scp", tmp_path / "bad.scp"
    good_scp.write_text("".join(f"{name} {good}/{name}.wav\n" for name in [*ways, "minute"]))
    write_minutes(good / "minute.wav", 1)
    write_minutes(bad / "long.wav", 15)
    bad_scp.write_text(
        good_scp.read_text() + "".join(f"{name} {bad}/{name}.wav\n" for name in reasons) + f"long {bad}/long.wav\n"
    )
    options = ("-m", "sample", "-j", "1", "-q")
    code, good_memory = measure("predict", good_scp, "-o", tmp_path / "good_out", *options)
    assert code == 0
    code, bad_memory = measure("predict", bad_scp, "-o", tmp_path / "bad_out", *options)
    assert code == 3
    failures = read_table(tmp_path / "bad_out" / "failures.tsv")
    assert {row["utt_id"]: row["reason"] for row in failures} == reasons
    assert {row["stage"] for row in failures} == {"audio"}
    *rows, minute, long = read_table(tmp_path / "bad_out" / "predictions.tsv")
    assert (minute["utt_id"], minute["duration"], minute["windows"]) == ("minute", "60.0000", "1")
    assert (long["utt_id"], long["duration"], long["windows"]) == ("long", "900.0000", "17")
    assert [row["utt_id"] for row in rows] == ways
    assert [*rows, minute] == read_table(tmp_path / "good_out" / "predictions.tsv")
    assert {row["duration"] for row in rows} == {"1.0000"}
    expected = rows[ways.index("pcm_16")]
    for name in ("pcm_24", "pcm_32", "float", "double", "stereo"):
        assert float(rows[ways.index(name)]["score"]) == pytest.approx(float(expected["score"]), abs=1e-3)
    assert bad_memory < 1.5 * good_memory


IDS = [
    "../../x",
    "/etc/cron.d/x",
    "a/b",
    "a/../../b",
    ".",
    "..",
    "-rf",
    "$(touch_x)",
    "%2E",
    "%2e",
    "x" * 300,
    "x" * 299 + "y",
    "case",
    "CASE",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "笑い声",
    "a:1",
    "a.npy",
    "con",
]


@pytest.mark.parametrize("kind", ["npy", "ark"])
def test_ids_of_any_kind(kind: str, tmp_path: Path, e2v: E2v) -> None:
    """Clips have different lengths, so that all embeddings differ."""
    scp, out = tmp_path / "wav.scp", tmp_path / "deep" / "down" / "out"
    with scp.open("w") as file:
        for number, utt_id in enumerate(IDS):
            path = tmp_path / f"{number}.wav"
            path.write_bytes(encode(noisy_tone(8_000 + 400 * number)))
            file.write(f"{utt_id} {path}\n")
    before = set(tmp_path.rglob("*"))
    assert e2v("predict", scp, "-m", "sample", "-o", out, "--embeddings", kind).returncode == 0
    assert all(path == out or out in path.parents or path in out.parents for path in set(tmp_path.rglob("*")) - before)
    assert [row["utt_id"] for row in read_table(out / "predictions.tsv")] == IDS
    if kind == "ark":
        by_kaldiio = kaldiio.load_scp(str(out / "embeddings.scp"))
        assert list(by_kaldiio) == IDS
        with kaldi_native_io.SequentialFloatVectorReader(f"scp:{out}/embeddings.scp") as reader:
            assert {key: value.tobytes() for key, value in reader} == {
                key: value.tobytes() for key, value in by_kaldiio.items()
            }
        embeddings = list(by_kaldiio.values())
    else:
        pairs = [line.split("\t") for line in (out / "embeddings.tsv").read_text().splitlines()]
        assert [utt_id for utt_id, _ in pairs] == IDS
        assert len({path for _, path in pairs}) == len(IDS) == len(list((out / "embeddings").iterdir()))
        for utt_id, place in pairs:
            if len(utt_id) < 200:
                assert unquote(Path(place).name.removesuffix(".npy")) == utt_id
        embeddings = [np.load(path) for _, path in pairs]
    assert len({embedding.tobytes() for embedding in embeddings}) == len(IDS)
