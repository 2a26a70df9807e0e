"""``e2v predict`` end to end, on the sample corpus."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from io import StringIO
from pathlib import Path

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
import soundfile
from support.audio_files import encode, noisy_tone
from support.checkpoints import make_config, make_model
from support.corpora import CLIPS, write_takes
from support.forkserver import ForkedCommand, fork_e2v, shared_server
from support.processes import ON_OPENING, ROOT, E2v, Hold, hook, on_opening, start_e2v, wait_until

from e2v_cli.journal.history import read_header
from e2v_cli.options import NUMERICS

pytestmark = pytest.mark.e2e

LABELS = ["angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown"]
COLUMNS = ["utt_id", "label", "score", "duration", "windows", *LABELS]
SAMPLE_SCP = ROOT / "sample_data" / "wav.scp"


def read_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text), delimiter="\t"))


def read_scp_ids(path: Path = SAMPLE_SCP) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -- results -----------------------------------------------------------------------------------------------------------


def test_sample_corpus(e2v: E2v, tmp_path: Path) -> None:
    done = e2v("predict", "sample_data", "-m", "sample", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("e2v: 40 utterances: 40 done, 0 failed\ne2v: 150.2 s of audio at ")
    text = (tmp_path / "out" / "predictions.tsv").read_text()
    assert text.splitlines()[0].split("\t") == COLUMNS
    rows = read_rows(text)
    assert [row["utt_id"] for row in rows] == read_scp_ids()
    spoken = dict(line.split() for line in (ROOT / "sample_data" / "utt2emo").read_text().splitlines())
    right = sum(row["label"] == spoken[row["utt_id"]] for row in rows)
    assert right >= 0.6 * len(rows)
    for row in rows:
        probabilities = [row[label] for label in LABELS]
        assert all(len(probability) == len("0.123456") for probability in probabilities)
        assert sum(map(float, probabilities)) == pytest.approx(1, abs=1e-5)
        assert row["score"] == row[row["label"]] == max(probabilities)
        assert row["windows"] == "1"


def test_files_of_out(e2v: E2v, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert e2v("predict", SAMPLE_SCP, "-m", "sample", "-o", out, "--embeddings", "ark", "-j", "1").returncode == 0
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock.1-of-1",
        ".lock.merge",
        "embeddings.1-of-1.1.ark",
        "embeddings.scp",
        "failures.tsv",
        "frame_shift",
        "input.49543d04de3b1732",
        "input.49543d04de3b1732.sources",
        "journal.1-of-1.1",
        "log",
        "predictions.tsv",
        "run.json",
        "utt2dur",
        "utt2emo",
        "utt2num_frames",
    ]
    assert (out / "failures.tsv").read_text() == "utt_id\tstage\treason\tdetail\n"
    rows = read_rows((out / "predictions.tsv").read_text())
    audio = dict(line.split(maxsplit=1) for line in SAMPLE_SCP.read_text().splitlines())
    durations = {utt_id: soundfile.info(ROOT / path).duration for utt_id, path in audio.items()}
    assert [row["duration"] for row in rows] == [f"{duration:.4f}" for duration in durations.values()]
    assert (out / "utt2dur").read_text() == "".join(f"{key} {value:.4f}\n" for key, value in durations.items())
    assert (out / "utt2emo").read_text() == "".join(f"{row['utt_id']} {row['label']}\n" for row in rows)
    assert (out / "frame_shift").read_text() == "0.02\n"
    frames = dict(line.split() for line in (out / "utt2num_frames").read_text().splitlines())
    assert list(frames) == list(audio)
    for utt_id in ("f1-0001", "f1-0002"):  # 16 kHz
        assert int(frames[utt_id]) == (soundfile.info(ROOT / audio[utt_id]).frames - 400) // 320 + 1
    run = json.loads((out / "run.json").read_text())
    weights = ROOT / "e2v_cli" / "sample" / "model.pt"
    assert run["model"] == {
        "name": "sample",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "labels": LABELS,
    }
    assert run["counts"] == {"input": 40, "done": 40, "failed": 0}
    assert run["audio_seconds"] == pytest.approx(sum(durations.values()), abs=0.01)
    assert 0 < run["encode_seconds"] < run["wall_seconds"]
    assert run["speed"] == pytest.approx(run["audio_seconds"] / run["encode_seconds"], rel=0.01)


def test_journal_header_describes_the_run_and_its_process(tmp_path: Path) -> None:
    before = datetime.now().astimezone().replace(microsecond=0)
    clip = ROOT / "sample_data" / "wav" / "f1-0001.wav"
    formats = ("--timeline-format", "textgrid", "--timeline-format", "rttm", "--timeline-format", "textgrid")
    process = start_e2v("predict", clip, "-m", "sample", "-o", tmp_path, "--timeline", "0.5", *formats, "--join")
    process.communicate(timeout=60)
    assert process.returncode == 0
    header = read_header(tmp_path / "journal.1-of-1.1")
    assert header is not None
    assert (header.host, header.pid) == (socket.gethostname(), process.pid)
    assert before <= datetime.fromisoformat(header.started) <= datetime.now().astimezone()
    assert (header.model, header.labels, header.input_size, header.frame_shift) == ("sample", tuple(LABELS), 1, 0.02)
    assert (header.timeline_formats, header.join) == (("rttm", "textgrid"), True)
    assert header.input_sha256 == hashlib.sha256(b"f1-0001\n").hexdigest()
    options = {"embeddings": "none", "compress": "no", "window": 60.0, "timeline": 0.5, "channel": "mix"}
    options["resampler"] = "soxr"
    assert options.items() <= dict(header.fingerprint).items()


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_ark_and_npy_hold_the_same_bits(granularity: str, dtype: str, e2v: E2v, tmp_path: Path) -> None:
    options = ["-m", "sample", "--granularity", granularity, "--embedding-dtype", dtype]
    ark, npy = tmp_path / "ark", tmp_path / "npy"
    assert e2v("predict", *CLIPS, "-o", ark, "--embeddings", "ark", *options).returncode == 0
    assert e2v("predict", *CLIPS, "-o", npy, "--embeddings", "npy", *options).returncode == 0
    assert (ark / "predictions.tsv").read_bytes() == (npy / "predictions.tsv").read_bytes()
    paths = dict(line.split("\t") for line in (npy / "embeddings.tsv").read_text().splitlines())
    places = dict(line.split(" ", 1) for line in (ark / "embeddings.scp").read_text().splitlines())
    assert list(paths) == list(places) == [clip.stem for clip in CLIPS]
    by_kaldiio = kaldiio.load_scp(str(ark / "embeddings.scp"))
    native = kaldi_native_io.FloatVector if granularity == "utterance" else kaldi_native_io.FloatMatrix
    frames = dict(line.split() for line in (ark / "utt2num_frames").read_text().splitlines())
    for utt_id, path in paths.items():
        expected = np.load(path)
        assert expected.dtype == (np.float32 if dtype == "fp32" else np.float16)
        assert expected.shape == ((96,) if granularity == "utterance" else (int(frames[utt_id]), 96))
        expected = expected.astype(np.float32)
        assert by_kaldiio[utt_id].dtype == np.float32
        assert by_kaldiio[utt_id].tobytes() == expected.tobytes()
        by_native = native.read(places[utt_id]).numpy()
        assert by_native.shape == expected.shape
        assert by_native.tobytes() == expected.tobytes()


def test_both_engines_agree(e2v: E2v, real_e2v: E2v, tmp_path: Path) -> None:
    """FunASR's whole package is imported by a real process."""
    ours, upstreams = tmp_path / "ours", tmp_path / "upstreams"
    assert e2v("predict", *CLIPS, "-m", "sample", "-o", ours).returncode == 0
    done = real_e2v("predict", *CLIPS, "-m", "sample", "-o", upstreams, "--engine", "funasr", "-j", "1")
    assert (done.returncode, done.stdout) == (0, "")
    for row, other in zip(
        read_rows((ours / "predictions.tsv").read_text()),
        read_rows((upstreams / "predictions.tsv").read_text()),
        strict=True,
    ):
        assert row["utt_id"] == other["utt_id"]
        assert row["label"] == other["label"]
        assert [float(row[label]) for label in LABELS] == pytest.approx(
            [float(other[label]) for label in LABELS], abs=1.1e-5
        )


def test_model_without_a_head(e2v: E2v, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", make_config(tokenizer=False))
    refused = e2v("predict", SAMPLE_SCP, "-m", model)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"e2v: {model} has no head, only embeddings: add -o OUT --embeddings npy, or ark\n"
    out = tmp_path / "out"
    assert e2v("predict", SAMPLE_SCP, "-m", model, "-o", out, "--embeddings", "ark").returncode == 0
    lines = (out / "predictions.tsv").read_text().splitlines()
    assert lines[0] == "utt_id\tduration\twindows"
    assert lines[1] == "f1-0001\t1.5461\t1"
    assert len(kaldiio.load_scp(str(out / "embeddings.scp"))) == 40


def test_standard_output_equals_predictions_tsv(e2v: E2v, tmp_path: Path) -> None:
    printed = e2v("predict", SAMPLE_SCP, "-m", "sample")
    e2v("predict", SAMPLE_SCP, "-m", "sample", "-o", tmp_path)
    assert printed.returncode == 0
    assert printed.stdout == (tmp_path / "predictions.tsv").read_text()


def test_input_is_read_from_standard_input(e2v: E2v) -> None:
    lines = SAMPLE_SCP.read_text().splitlines()[5:8]
    done = e2v("predict", "-", "-m", "sample", stdin="\n".join(lines))
    assert done.returncode == 0
    assert [row["utt_id"] for row in read_rows(done.stdout)] == [line.split()[0] for line in lines]


# -- bad audio ---------------------------------------------------------------------------------------------------------


def test_bad_audio_becomes_a_row_of_failures(e2v: E2v, tmp_path: Path) -> None:
    good = ROOT / "sample_data" / "wav" / "f1-0001.wav"
    (tmp_path / "cut.wav").write_bytes(good.read_bytes()[:20_000])
    (tmp_path / "text.wav").write_text("not audio at all")
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16_000)
    soundfile.write(tmp_path / "shortest.wav", np.ones(400), 16_000)
    names = ["cut.wav", "text.wav", "short.wav", "shortest.wav", "gone.wav"]
    scp = tmp_path / "wav.scp"
    scp.write_text(f"good {good}\n" + "".join(f"{name[:-4]} {tmp_path / name}\n" for name in names))
    out = tmp_path / "out"
    done = e2v("predict", scp, "-m", "sample", "-o", out, "-q")
    assert done.returncode == 3
    assert done.stderr == (
        f"e2v: 4 failed, more than --max-failures 0 allows: see {out}/failures.tsv; --retry-failed tries again\n"
    )
    assert [row["utt_id"] for row in read_rows((out / "predictions.tsv").read_text())] == ["good", "shortest"]
    cut = "the header declares 49474 bytes of audio, the file has 19956: copy it again"
    needs = "the model needs 400 (25 ms)"
    assert (out / "failures.tsv").read_text().splitlines() == [
        "utt_id\tstage\treason\tdetail",
        f"cut\taudio\ttruncated\t{tmp_path}/cut.wav: {cut}",
        f"text\taudio\tnot audio\t{tmp_path}/text.wav: no known format: it begins with 'not audio at all'",
        f"short\taudio\ttoo short\t{tmp_path}/short.wav: 399 samples at 16 kHz; {needs}",
        f"gone\taudio\tmissing\t{tmp_path}/gone.wav: no such file",
    ]
    assert json.loads((out / "run.json").read_text())["counts"] == {"input": 6, "done": 2, "failed": 4}
    assert e2v("predict", scp, "-m", "sample", "-o", out).returncode == 3
    for allowed, code in (("4", 0), ("3", 3), ("66.7%", 0), ("66.6%", 3), ("100%", 0)):
        assert e2v("predict", scp, "-m", "sample", "-o", out, "--max-failures", allowed).returncode == code

    shutil.copy(good, tmp_path / "gone.wav")
    assert e2v("predict", scp, "-m", "sample", "-o", out, "--retry-failed").returncode == 3
    assert [row["utt_id"] for row in read_rows((out / "predictions.tsv").read_text())] == ["good", "shortest", "gone"]
    assert json.loads((out / "run.json").read_text())["counts"] == {"input": 6, "done": 3, "failed": 3}


def test_model_with_nan_output_fails_its_utterances(e2v: E2v, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", wrap=lambda state: {**state, "proj.bias": state["proj.bias"] * float("nan")})
    out = tmp_path / "out"
    assert e2v("predict", ROOT / "sample_data" / "wav" / "f1-0001.wav", "-m", model, "-o", out).returncode == 3
    assert (out / "failures.tsv").read_text().splitlines()[1:] == [
        "f1-0001\tmodel\tnot finite\tthe model's output has NaN or infinite values"
    ]


def test_bad_audio_is_reported_without_an_output_folder(e2v: E2v, tmp_path: Path) -> None:
    good = ROOT / "sample_data" / "wav" / "f1-0001.wav"
    (tmp_path / "list").write_text(f"{tmp_path}/gone.wav\n{good}\n")
    done = e2v("predict", tmp_path / "list", "-m", "sample")
    assert done.returncode == 3
    assert [row["utt_id"] for row in read_rows(done.stdout)] == ["f1-0001"]
    assert f"e2v: gone: audio: missing: {tmp_path}/gone.wav: no such file\n" in done.stderr


# -- runs --------------------------------------------------------------------------------------------------------------


def test_finished_run_computes_nothing(e2v: E2v, real_e2v: E2v, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("predict", SAMPLE_SCP, "-m", "sample", "-o", out, "--embeddings", "npy")
    assert e2v(*command).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("[!.]*") if "log" not in path.parts}
    again = real_e2v(*command, CUDA_VISIBLE_DEVICES="", PYTHONPROFILEIMPORTTIME="1")
    assert again.returncode == 0
    assert f"e2v: {out} is complete: nothing to do\n" in again.stderr
    assert " e2v_cli.commands.predict" in again.stderr  # in the list of imports
    assert " torch" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_longer_list_computes_only_new_utterances(e2v: E2v, tmp_path: Path) -> None:
    lines = SAMPLE_SCP.read_text().splitlines(keepends=True)
    scp, out = tmp_path / "wav.scp", tmp_path / "out"
    scp.write_text("".join(lines[:30]))
    assert e2v("predict", scp, "-m", "sample", "-o", out, "--embeddings", "npy").returncode == 0
    before = digests(out / "embeddings")
    times = {path: path.stat().st_mtime_ns for path in (out / "embeddings").iterdir()}
    scp.write_text("".join(lines))
    assert e2v("predict", scp, "-m", "sample", "-o", out, "--embeddings", "npy").returncode == 0
    assert len(digests(out / "embeddings")) == 40
    assert before.items() <= digests(out / "embeddings").items()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [row["utt_id"] for row in read_rows((out / "predictions.tsv").read_text())] == read_scp_ids()


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--granularity", "frame"], "granularity was utterance, is frame"),
        (["--embeddings", "npy"], "embeddings was ark, is npy"),
        (["--batch-seconds", "5"], "batch-seconds was 10.0, is 5.0"),
        (["--window", "30"], "window was 60.0, is 30.0"),
        (["--window", "30", "--timeline", "1"], "window was 60.0, is 30.0; timeline was off, is 1.0"),
        (["--channel", "A"], "channel was mix, is 1"),
        (["--resampler", "torchaudio"], "resampler was soxr, is torchaudio"),
        (["--embeddings", "ark,t"], "embeddings was ark, is ark,t"),
        (["--classes", "sad,hap"], f"labels was {' '.join(LABELS)}, is happy sad; classes was all, is hap,sad"),
        (
            ["--engine", "funasr", "--embedding-dtype", "fp16"],
            "engine was e2v, is funasr; embedding-dtype was fp32, is fp16",
        ),
    ],
)
def test_another_run_is_refused(options: list[str], difference: str, e2v: E2v, tmp_path: Path) -> None:
    command = ["predict", ROOT / "sample_data" / "wav" / "f1-0001.wav", "-m", "sample", "-o", tmp_path]
    assert e2v(*command, "--embeddings", "ark").returncode == 0
    before = digests(tmp_path)
    refused = e2v(*command, "--embeddings", "ark", *options)
    assert refused.returncode == 4
    assert refused.stderr == (
        f"e2v: {tmp_path} holds a different run: {difference}. Choose another -o, or delete that run with --overwrite\n"
    )
    assert digests(tmp_path) == before
    assert e2v(*command, "--embeddings", "ark", *options, "--overwrite").returncode == 0


def test_run_of_an_older_e2v_with_other_numbers_is_refused(e2v: E2v, tmp_path: Path) -> None:
    command = ["predict", ROOT / "sample_data" / "wav" / "f1-0001.wav", "-m", "sample", "-o", tmp_path / "out"]
    older = hook(tmp_path / "hook", "import e2v_cli.options\ne2v_cli.options.NUMERICS = 3\n")
    assert e2v(*command, **older).returncode == 0
    refused = e2v(*command)
    assert refused.returncode == 4
    assert refused.stderr == (
        f"e2v: {tmp_path}/out holds a different run: results-version was 3, is {NUMERICS}. "
        "Choose another -o, or delete that run with --overwrite\n"
    )


def test_resampler_changes_only_other_sample_rates(e2v: E2v, tmp_path: Path) -> None:
    """And is recorded, also where shards are merged."""
    for rate in (8_000, 16_000, 44_100):
        (tmp_path / f"{rate}.wav").write_bytes(encode(noisy_tone(2 * rate, rate=rate), rate=rate))
    wavs = [tmp_path / f"{rate}.wav" for rate in (8_000, 16_000, 44_100)]
    soxr, torchaudio, shards = (tmp_path / name for name in ("soxr", "torchaudio", "shards"))

    assert e2v("predict", *wavs, "-m", "sample", "-o", soxr).returncode == 0
    assert e2v("predict", *wavs, "-m", "sample", "-o", torchaudio, "--resampler", "torchaudio").returncode == 0
    for shard in ("1/2", "2/2"):
        done = e2v("predict", *wavs, "-m", "sample", "-o", shards, "--shard", shard, E2V_RESAMPLER="torchaudio")
        assert done.returncode == 0
    refused = e2v("predict", *wavs, "-m", "sample", "-o", shards, "--shard", "1/2")

    assert json.loads((soxr / "run.json").read_text())["options"]["resampler"] == "soxr"
    for out in (torchaudio, shards):
        assert json.loads((out / "run.json").read_text())["options"]["resampler"] == "torchaudio"
    assert (shards / "predictions.tsv").read_bytes() == (torchaudio / "predictions.tsv").read_bytes()
    rows, others = ((out / "predictions.tsv").read_text().splitlines()[1:] for out in (soxr, torchaudio))
    assert [row == other for row, other in zip(rows, others, strict=True)] == [False, True, False]
    assert refused.returncode == 4
    assert f"{shards} holds a different run: resampler was torchaudio, is soxr. " in refused.stderr


def test_another_model_is_refused(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    command = ["predict", ROOT / "sample_data" / "wav" / "f1-0001.wav", "-o", tmp_path]
    assert e2v(*command, "-m", "sample").returncode == 0
    refused = e2v(*command, "-m", tiny)
    assert refused.returncode == 4
    assert f"{tmp_path} holds a different run: model was 0f1e5919" in refused.stderr


def test_overwrite_keeps_foreign_files(e2v: E2v, tmp_path: Path) -> None:
    mine = ["notes.txt", "embeddings/precious.txt", "log/train.log", "log/worker.log", "embeddings.ark"]
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    command = ["predict", ROOT / "sample_data" / "wav" / "f1-0001.wav", "-m", "sample", "-o", tmp_path]
    assert e2v(*command, "--embeddings", "npy").returncode == 0
    assert (tmp_path / "embeddings" / "f1-0001.npy").exists()
    assert e2v("report", tmp_path).returncode == 0
    assert e2v(*command, "--overwrite").returncode == 0
    assert not (tmp_path / "embeddings" / "f1-0001.npy").exists()
    assert not (tmp_path / "report.html").exists()
    assert [(tmp_path / name).read_text() for name in mine] == ["mine"] * len(mine)


def test_overwrite_without_a_run_removes_nothing(e2v: E2v, tmp_path: Path) -> None:
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings" / "precious.npy").write_text("mine")
    command = ["predict", ROOT / "sample_data" / "wav" / "f1-0001.wav", "-m", "sample", "-o", tmp_path]
    assert e2v(*command, "--overwrite").returncode == 0
    assert (tmp_path / "embeddings" / "precious.npy").read_text() == "mine"


def test_kaldi_data_directory_is_refused_as_out(e2v: E2v, tmp_path: Path) -> None:
    shutil.copy(SAMPLE_SCP, tmp_path)
    (tmp_path / "utt2dur").write_text("mine")
    refused = e2v("predict", tmp_path, "-m", "sample", "-o", tmp_path, "--overwrite")
    assert refused.returncode == 4
    assert refused.stderr == (
        f"e2v: {tmp_path} is a Kaldi data directory, and its utt2dur would be replaced: choose another -o\n"
    )
    assert (tmp_path / "utt2dur").read_text() == "mine"


def test_missing_final_files_are_restored(e2v: E2v, tmp_path: Path) -> None:
    command = ["predict", SAMPLE_SCP, "-m", "sample", "-o", tmp_path, "--embeddings", "ark"]
    assert e2v(*command).returncode == 0
    before = digests(tmp_path)
    log = "log/launcher.1-of-1.log"
    for name in ("predictions.tsv", "run.json"):
        (tmp_path / name).unlink()
        assert e2v(*command).returncode == 0
        assert before.items() <= {**digests(tmp_path), log: before[log]}.items()


def test_overwrite_with_a_broken_model_removes_nothing(e2v: E2v, tmp_path: Path) -> None:
    broken = make_model(tmp_path / "broken", wrap=lambda state: {**state, "proj.bias": "gone"})
    out = tmp_path / "out"
    command = ["predict", ROOT / "sample_data" / "wav" / "f1-0001.wav", "-o", out]
    assert e2v(*command, "-m", "sample").returncode == 0
    before = digests(out)
    refused = e2v(*command, "-m", broken, "--overwrite")
    assert refused.returncode == 1
    assert "tensor 'proj.bias' is missing" in refused.stderr
    assert digests(out) == before


def test_results_without_a_journal_are_not_touched(e2v: E2v, tmp_path: Path) -> None:
    (tmp_path / "predictions.tsv").write_text("from elsewhere")
    refused = e2v("predict", SAMPLE_SCP, "-m", "sample", "-o", tmp_path)
    assert refused.returncode == 4
    assert refused.stderr == (
        f"e2v: {tmp_path} holds predictions.tsv, but no journal of its run: choose another -o, or use --overwrite\n"
    )
    assert (tmp_path / "predictions.tsv").read_text() == "from elsewhere"


@pytest.mark.parametrize("kind", ["npy", "ark"])
def test_missing_embeddings_are_named(kind: str, e2v: E2v, tmp_path: Path) -> None:
    command = ["predict", ROOT / "sample_data" / "wav" / "f1-0001.wav", "-m", "sample", "-o", tmp_path]
    assert e2v(*command, "--embeddings", kind).returncode == 0
    gone = tmp_path / ("embeddings" if kind == "npy" else "embeddings.1-of-1.1.ark")
    gone.rename(tmp_path / "elsewhere")
    again = e2v(*command, "--embeddings", kind)
    assert again.returncode == 1
    assert again.stderr == (f"e2v: {gone} is missing, but the journal lists it: restore it, or use --overwrite\n")


def test_folder_creation_error_is_reported(e2v: E2v, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = e2v("predict", SAMPLE_SCP, "-m", "sample", "-o", tmp_path / "file" / "out")
    assert refused.returncode == 1
    assert refused.stderr == f"e2v: {tmp_path}/file/out: Not a directory; choose another -o\n"


@pytest.fixture(scope="module")
def long_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample corpus twice."""
    return write_takes(tmp_path_factory.mktemp("long") / "long.scp", 2)


@pytest.fixture(scope="module")
def whole(long_list: Path, tmp_path_factory: pytest.TempPathFactory, e2v: E2v) -> Path:
    """A run of the long list that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    command = ("predict", long_list, "-m", "sample", "--embeddings", "npy", "-o", out)
    assert e2v(*command).returncode == 0
    return out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_run_stopped_by_a_signal_resumes(
    number: signal.Signals, long_list: Path, whole: Path, hold: Hold, e2v: E2v, tmp_path: Path
) -> None:
    """SIGTERM stops the real command, the others forked ones."""
    out = tmp_path / "out"
    command = ("predict", long_list, "-m", "sample", "--embeddings", "npy", "-o")
    process = (start_e2v if number == signal.SIGTERM else fork_e2v)(*command, out, **hold.environment)
    while not list(out.glob("embeddings/*.npy")):  # the first batch is being committed
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    os.kill(process.pid, number)
    hold.release()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert errors.splitlines()[-1].startswith("e2v: stopped; to go on: ")
    assert not (out / "predictions.tsv").exists()
    early = digests(out / "embeddings")
    assert 0 < len(early) < 80
    assert e2v(*command, out).returncode == 0
    assert early.items() <= digests(out / "embeddings").items()
    assert digests(out / "embeddings") == digests(whole / "embeddings")
    assert (out / "predictions.tsv").read_bytes() == (whole / "predictions.tsv").read_bytes()


def test_signal_stops_a_retry_of_failures(e2v: E2v, tmp_path: Path) -> None:
    scp, out = tmp_path / "wav.scp", tmp_path / "out"
    paths = [tmp_path / "clip.wav"] * 99 + [tmp_path / "last.wav"]
    scp.write_text("".join(f"utt{index} {path}\n" for index, path in enumerate(paths)))
    command = ("predict", scp, "-m", "sample", "-o", out)
    assert e2v(*command).returncode == 3
    for path in {*paths}:
        soundfile.write(path, np.random.default_rng(0).standard_normal(16_000) / 10, 16_000)
    hold = Hold(tmp_path / "hold", "last.wav")
    process = fork_e2v(*command, "--retry-failed", **hold.environment)
    journal = out / "journal.1-of-1.2"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:  # the header and the first batch
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    hold.release()
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert e2v(*command, "--retry-failed").returncode == 0
    assert len(read_rows((out / "predictions.tsv").read_text())) == 100
    assert (out / "failures.tsv").read_text().count("\n") == 1


@pytest.mark.parametrize("reader", ["reads", "has ended, as by the same Ctrl-C"])
def test_stopped_run_prints_what_is_done(reader: str, tmp_path: Path) -> None:
    """One worker waits for the first clip; rows of the other are printed in order, and counted."""
    lines = SAMPLE_SCP.read_text().splitlines()[:20]
    (tmp_path / "wav.scp").write_text("".join(f"{line}\n" for line in lines))
    first, last = (line.split("/")[-1] for line in (lines[0], lines[-1]))
    mark = tmp_path / "opened"
    action = f"time.sleep(600) if '{first}' in path else '{last}' in path and open({str(mark)!r}, 'w').close()"
    environment = {**os.environ, **on_opening(tmp_path / "hook", "", action)}
    command = [sys.executable, "-m", "e2v_cli", "predict", str(tmp_path / "wav.scp"), "-m", "sample", "-j", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        wait_until(mark.exists)
        if reader != "reads":
            process.stdout.close()
        process.send_signal(signal.SIGINT)
        output = process.stdout.read() if reader == "reads" else ""
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 75
    if reader != "reads":
        assert errors == ""
        return
    rows = [row.split("\t")[0] for row in output.splitlines()[1:]]
    ids = [line.split()[0] for line in lines[1:]]
    assert rows == [utt_id for utt_id in ids if utt_id in rows] != []
    assert errors.startswith(f"e2v: 20 utterances: {len(rows)} done, 0 failed, {20 - len(rows)} left\n")


JOB = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}


@pytest.mark.parametrize(
    ("number", "job", "kept", "code"),
    [
        (signal.SIGUSR1, JOB, False, 1),
        (signal.SIGUSR1, JOB, True, 75),
        (signal.SIGUSR1, {}, False, 75),
        (signal.SIGTERM, JOB, False, 75),
    ],
)
def test_job_without_progress_is_not_requeued(
    number: signal.Signals, job: dict[str, str], kept: bool, code: int, tmp_path: Path
) -> None:
    """Exit code 75 puts a job back into the queue at its time limit, where it would end like this again."""
    out, mark = tmp_path / "out", tmp_path / "opened"
    shorter = "launcher.STOP_SECONDS = launcher.WARNED_SECONDS = 0.2\n"
    code_at_start = ON_OPENING.format(name="", action=f"open({str(mark)!r}, 'w').close(); time.sleep(600)")
    environment = hook(tmp_path / "hook", f"{code_at_start}from e2v_cli.workers import launcher\n{shorter}")
    command = ("predict", "sample_data/wav/f1-0001.wav", "-m", "sample", "-o", out)
    process = fork_e2v(*command, **environment, **job)
    wait_until(mark.exists)
    if kept:
        (out / f".windows.{hashlib.sha256(b'f1-0001').hexdigest()[:16]}.npz").touch()
    os.kill(process.pid, number)
    _, errors = process.communicate()
    assert process.returncode == code, errors
    if code == 1:
        assert errors == (
            "e2v: f1-0001: no window of it was finished within the time limit of job 5_2, which is not requeued: "
            "submit it with more --time\n"
        )


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGINT)",
        "exec('os.kill(os.getpid(), signal.SIGUSR1)')",
    ],
)
def test_signal_during_imports_ends_the_command(code: str, real_e2v: E2v, tmp_path: Path) -> None:
    """e2v handles signals before it imports other packages; dataclasses are made by ``exec``."""
    (tmp_path / "yaml.py").write_text(f"import os, signal; {code}")
    done = real_e2v("predict", SAMPLE_SCP, "-m", "sample", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "e2v: stopped; nothing is kept without -o OUT\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_commands_of_a_list_end_with_e2v(number: signal.Signals, tmp_path: Path) -> None:
    """SIGKILL ends the real command, SIGTERM a forked one."""
    scp = tmp_path / "wav.scp"
    scp.write_text(f"a echo $$ > {tmp_path}/pid; trap '' TERM; sleep 77; cat a.wav |\nb sample_data/wav/m2-0001.flac\n")
    start: Callable[..., subprocess.Popen[str] | ForkedCommand]
    start = start_e2v if number == signal.SIGKILL else fork_e2v
    process = start("predict", scp, "-m", "sample", "-o", tmp_path / "out", "--allow-pipes")
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    command = int((tmp_path / "pid").read_text())

    os.kill(process.pid, number)
    process.communicate(timeout=60)

    assert process.returncode == (75 if number == signal.SIGTERM else -number)
    wait_until(lambda: not Path(f"/proc/{command}").exists())


@pytest.mark.parametrize("listener", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_run_completes_with_unwritable_standard_error(listener: str, tmp_path: Path) -> None:
    """Standard error is closed, a full disk, or a pipe without a reader; the bar, the log and messages go there."""
    is_open = listener != "2>&-"  # else the real command starts without it
    e2v = shared_server().write_command(tmp_path / "bin" / "e2v") if is_open else f"{sys.executable} -m e2v_cli"
    (tmp_path / "gone.scp").write_text("gone gone.wav\n")
    command = f'{e2v} predict sample_data/wav.scp "{tmp_path}/gone.scp" -m sample --progress -v'
    script = f'{command} -o "{tmp_path}" {listener}'
    assert subprocess.run(["bash", "-c", script], cwd=ROOT, timeout=120, check=False).returncode == 3
    assert (tmp_path / "predictions.tsv").read_text().count("\n") == 41


@pytest.mark.parametrize("gone", ["out", "journal"])
def test_removing_results_during_a_run_is_an_error(gone: str, long_list: Path, hold: Hold, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = fork_e2v("predict", long_list, "-m", "sample", "-o", out, **hold.environment)
    journal = out / "journal.1-of-1.1"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.01)
    if gone == "out":
        out.rename(tmp_path / "elsewhere")
    else:
        journal.unlink()
    hold.release()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert str(out) in errors.splitlines()[-1]
    assert "run the same command again" in errors.splitlines()[-1]


def test_missing_ids_are_restored(e2v: E2v, tmp_path: Path) -> None:
    command = ["predict", SAMPLE_SCP, "-m", "sample", "-o", tmp_path]
    assert e2v(*command).returncode == 0
    ids, sources = sorted(tmp_path.glob("input.*"))
    content = [path.read_bytes() for path in (ids, sources)]
    ids.unlink()
    sources.unlink()
    lost = e2v("status", tmp_path)
    assert lost.returncode == 1
    assert lost.stderr == f"e2v: {ids}: No such file or directory; run e2v predict again to go on\n"
    assert e2v(*command).returncode == 0
    assert [path.read_bytes() for path in (ids, sources)] == content


def test_moved_run_lists_its_new_paths(e2v: E2v, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    assert e2v("predict", SAMPLE_SCP, "-m", "sample", "-o", old, "--embeddings", "ark").returncode == 0
    old.rename(new)
    assert e2v("predict", SAMPLE_SCP, "-m", "sample", "-o", new, "--embeddings", "ark").returncode == 0
    assert len(kaldiio.load_scp(str(new / "embeddings.scp"))["f1-0001"]) == 96


def test_wait_for_a_list_on_standard_input_can_be_terminated() -> None:
    command = [sys.executable, "-m", "e2v_cli", "predict", "-", "-m", "sample"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as process:
        time.sleep(1)
        process.terminate()
        assert process.wait(timeout=60) in (75, -signal.SIGTERM)  # the latter before Python handles signals


def test_concurrent_second_run_is_refused(long_list: Path, hold: Hold, e2v: E2v, tmp_path: Path) -> None:
    command = ("predict", long_list, "-m", "sample", "-o", tmp_path / "out")
    first = fork_e2v(*command, **hold.environment)
    while not (tmp_path / "out" / "log").exists():  # is created after the lock
        assert first.poll() is None
        time.sleep(0.01)
    refused = [e2v(*command), e2v(*command, "--overwrite")]
    assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    for run in refused:
        assert run.returncode == 4
        assert re.fullmatch(
            rf"e2v: {tmp_path}/out: another e2v is running there \(process {first.pid} on \S+ since \S+\); "
            "wait for it, or choose another -o\n",
            run.stderr,
        )
    assert e2v(*command).returncode == 0
