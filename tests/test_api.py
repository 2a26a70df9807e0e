"""The Python API: the numbers of the command, and errors that name the waveform."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from support.audio_files import RATE, as_float, encode, noisy_tone
from support.checkpoints import TOKENS, make_config, make_model
from support.corpora import CLIPS
from support.gpus import stand_in
from support.processes import ROOT, E2v
from support.sites import serve_site

import e2v_cli
from e2v_cli.api import PredictionError, Recognizer, Result
from e2v_cli.errors import DeviceError, ModelError, UsageError
from e2v_cli.network.emotion2vec import Emotion2vec, Taps
from e2v_cli.options import Precision, ResamplerName

WAV = ROOT / "sample_data" / "wav"

ENGLISH = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")


@pytest.fixture(scope="module")
def sample() -> Recognizer:
    return e2v_cli.load("sample", device="cpu")


def waveform(num_samples: int = 16_000) -> NDArray[np.float32]:
    return as_float(noisy_tone(num_samples))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_results_of_files_are_those_of_the_command_to_the_bit(e2v: E2v, sample: Recognizer, tmp_path: Path) -> None:
    """PyTorch has one thread here, as in a worker."""
    (tmp_path / "long.flac").write_bytes(encode(noisy_tone(61 * 8_000, rate=8_000), "FLAC", rate=8_000))
    paths = [*CLIPS, tmp_path / "long.flac"]
    out = tmp_path / "out"
    command = ("predict", *paths, "-m", "sample", "-o", out, "--embeddings", "ark", "--timeline", "0.33")
    assert e2v(*command).returncode == 0
    rows, spans = read_rows(out / "predictions.tsv"), read_rows(out / "timeline.tsv")
    embeddings = kaldiio.load_scp(str(out / "embeddings.scp"))

    results = sample.predict([*paths[:-1], str(paths[-1])], timeline=0.33)

    for path, result, row in zip(paths, results, rows, strict=True):
        assert Path(path).stem == row["utt_id"]
        assert result.embedding.tobytes() == embeddings[row["utt_id"]].tobytes()
        assert result.label == row["label"]
        assert f"{result.score:.6f} {result.duration:.4f}" == f"{row['score']} {row['duration']}"
        assert {label: f"{value:.6f}" for label, value in result.probabilities.items()} == {
            label: row[label] for label in ENGLISH
        }
        assert result.timeline is not None
        own = [row for row in spans if row["utt_id"] == Path(path).stem]
        for span, line in zip(result.timeline, own, strict=True):
            numbers = [f"{span.start:.4f}", f"{span.end:.4f}", span.label, f"{span.score:.6f}"]
            assert numbers == [line["start"], line["end"], line["label"], line["score"]]
            assert [f"{posterior:.6f}" for posterior in span.posteriors] == [line[label] for label in ENGLISH]


def test_files_and_arrays_mix(sample: Recognizer) -> None:
    """An array gives the same as the file that it was read from, also in int16."""
    paths = [WAV / f"{name}.wav" for name in ("f1-0001", "f1-0003", "m1-0004")]
    floats, rate = soundfile.read(paths[0], dtype="float32")
    integers, _ = soundfile.read(paths[1], dtype="int16")
    assert integers.dtype == np.int16

    mixed = sample.predict(iter([floats, integers, paths[2]]), sample_rate=rate)

    for result, expected in zip(mixed, sample.predict(paths), strict=True):
        assert result.embedding.tobytes() == expected.embedding.tobytes()
        assert (result.label, result.score, result.duration) == (expected.label, expected.score, expected.duration)


def test_url_is_downloaded(sample: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve_site() as site:
        results = sample.predict([f"{site.url}/a.wav", f"{site.url}/status/404"], errors="return")
    (expected,) = sample.predict([noisy_tone(RATE)], RATE)
    assert isinstance(results[0], Result)
    assert results[0].embedding.tobytes() == expected.embedding.tobytes()
    assert str(results[1]) == f"audio 1: missing: {site.url}/status/404: HTTP 404 Not Found"


def test_results_are_in_the_order_of_the_waveforms(sample: Recognizer) -> None:
    waveforms = [waveform(length) for length in (40_000, 400, 16_000, 8_000, 16_000, 300_000, 720)]

    results = sample.predict(waveforms, RATE)

    for alone, result in zip(waveforms, results, strict=True):
        (expected,) = sample.predict([alone], RATE)
        assert result.posteriors is not None
        assert expected.posteriors is not None
        np.testing.assert_allclose(result.posteriors, expected.posteriors, rtol=0, atol=1e-5)
        np.testing.assert_allclose(result.embedding, expected.embedding, rtol=0, atol=1e-5)


def test_result_has_label_score_probabilities_and_embedding(sample: Recognizer) -> None:
    (result,) = sample.predict([waveform()], RATE)

    assert result.posteriors is not None
    assert (result.posteriors.shape, result.posteriors.dtype.name) == ((9,), "float32")
    assert result.posteriors.sum() == pytest.approx(1, abs=1e-6)
    assert type(result.score) is float
    assert result.label == sample.labels[int(result.posteriors.argmax())]
    assert result.score == result.posteriors.max()
    assert tuple(result.probabilities) == sample.labels
    assert list(result.probabilities.values()) == result.posteriors.tolist()
    assert (result.embedding.shape, result.embedding.dtype.name) == ((96,), "float32")
    assert (result.duration, result.timeline) == (1.0, None)


def test_repr_is_one_line(sample: Recognizer) -> None:
    path = WAV / "f1-0001.wav"
    (result,) = sample.predict([path])
    (framed,) = sample.predict([path], granularity="frame", timeline=1)

    assert repr(result) == "Result(surprised 0.81, 1.55 s, embedding (96,))"
    assert repr(framed) == "Result(surprised 0.81, 1.55 s, embedding (77, 96), timeline of 2)"


def test_frame_embeddings_are_fifty_a_second(sample: Recognizer) -> None:
    waveforms = [waveform(32_000), waveform(400)]

    results = sample.predict(waveforms, RATE, granularity="frame")

    assert [result.embedding.shape for result in results] == [(99, 96), (1, 96)]
    for result, pooled in zip(results, sample.predict(waveforms, RATE), strict=True):
        np.testing.assert_allclose(result.embedding.mean(axis=0), pooled.embedding, rtol=0, atol=1e-5)
        assert (result.label, result.score) == (pooled.label, pooled.score)


@pytest.mark.e2e
def test_resampling_equals_that_of_the_command(e2v: E2v, sample: Recognizer, tmp_path: Path) -> None:
    samples = noisy_tone(60_000, rate=44_100)
    (tmp_path / "a.wav").write_bytes(encode(samples, rate=44_100))
    rows = {}
    for resampler in get_args(ResamplerName):
        (result,) = sample.predict([as_float(samples)], sample_rate=44_100, resampler=resampler)

        done = e2v("predict", tmp_path / "a.wav", "-m", "sample", "-q", "--resampler", resampler)
        rows[resampler] = done.stdout.splitlines()[1].split("\t")[5:]
        assert result.posteriors is not None
        assert [f"{posterior:.6f}" for posterior in result.posteriors] == rows[resampler]
    assert rows["soxr"] != rows["torchaudio"]


def test_long_waveforms_are_encoded_in_windows(sample: Recognizer) -> None:
    samples = waveform(61 * 16_000)

    framed, short = sample.predict([samples, waveform()], RATE, granularity="frame")
    (pooled,) = sample.predict([samples], RATE)

    assert (framed.embedding.shape, short.embedding.shape) == ((3049, 96), (49, 96))
    assert pooled.label == framed.label
    np.testing.assert_allclose(framed.embedding.mean(axis=0), pooled.embedding, rtol=0, atol=1e-5)


def test_no_waveforms_give_no_results(sample: Recognizer) -> None:
    assert sample.predict([], RATE) == []


@pytest.mark.parametrize(
    "kind", ["float64", "list", "tensor", "strided", "read-only", "int16", "gradient", "generator"]
)
def test_other_types_of_waveforms_are_accepted(kind: str, sample: Recognizer) -> None:
    samples = waveform()
    wide = np.repeat(samples, 2)
    frozen = samples.copy()
    frozen.flags.writeable = False
    given: dict[str, Any] = {
        "float64": [samples.astype(np.float64)],
        "list": [samples.tolist()],
        "tensor": [torch.from_numpy(samples)],
        "strided": [wide[::2]],
        "read-only": [frozen],
        "int16": [noisy_tone(16_000)],
        "gradient": [torch.from_numpy(samples.copy()).requires_grad_()],
        "generator": (row for row in samples[None]),
    }

    (result,) = sample.predict(given[kind], RATE)

    assert result.embedding.tobytes() == sample.predict([samples], RATE)[0].embedding.tobytes()


def test_waveforms_are_not_modified(sample: Recognizer) -> None:
    samples = waveform()
    sample.predict([samples], RATE)
    assert samples.tobytes() == waveform().tobytes()


@pytest.mark.parametrize(
    ("language", "labels"),
    [
        ("zh", ("生气", "厌恶", "恐惧", "开心", "中立", "其他", "难过", "吃惊", "<unk>")),
        ("both", TOKENS),
        ("en", ENGLISH),
    ],
)
def test_labels_in_a_language(language: str, labels: tuple[str, ...], tiny: Path) -> None:
    model = e2v_cli.load(str(tiny), labels=language)  # type: ignore[arg-type]

    assert model.labels == labels
    assert model.predict([waveform()], RATE)[0].label in labels


def test_model_without_a_head_gives_only_embeddings(tmp_path: Path) -> None:
    model = e2v_cli.load(str(make_model(tmp_path, make_config(tokenizer=False))))

    (result,) = model.predict([waveform()], RATE)

    assert model.labels == ()
    assert (result.label, result.score, result.posteriors, result.probabilities) == (None, None, None, {})
    assert repr(result) == "Result(1.00 s, embedding (96,))"
    with pytest.raises(ValueError, match=r" has no head, which a timeline needs: leave out timeline$"):
        model.predict([waveform()], RATE, timeline=1)
    assert result.embedding.shape == (96,)


# -- global state ------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_closed_set_is_that_of_the_command(e2v: E2v, sample: Recognizer) -> None:
    path = WAV / "f1-0002.ogg"
    options = ("--classes", "sad,happy,negative", "--merge", "surprised=happy", "--merge", "angry=negative")
    command = ("predict", path, "-m", "sample", "-q", "--format", "jsonl", "--timeline", "1", *options)
    rows = [json.loads(line) for line in e2v(*command).stdout.splitlines()]
    classes = {"happy": ["happy", "surprised"], "negative": ["anger"], "Sad": ()}

    (result,) = sample.predict([path], timeline=1.0, classes=classes)
    (whole,) = sample.predict([path])

    assert list(result.probabilities) == ["negative", "happy", "sad"]
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert result.label == max(result.probabilities, key=result.probabilities.__getitem__)
    assert result.timeline is not None
    for span, row in zip(result.timeline, rows, strict=True):
        assert span.label == row["label"]
        assert [f"{value:.6f}" for value in span.posteriors] == [f"{row[name]:.6f}" for name in result.probabilities]
    assert tuple(whole.probabilities) == ENGLISH == sample.labels


def test_model_without_a_head_has_no_classes(tmp_path: Path) -> None:
    model = e2v_cli.load(make_model(tmp_path, make_config(tokenizer=False)))

    with pytest.raises(ValueError, match=r" has no head, which classes need: leave out classes$"):
        model.predict([waveform()], RATE, classes=["sad", "happy"])


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_matmul_precision_of_the_process_is_restored(
    precision: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2v_cli.api.check_precision", lambda *_: None)
    model = e2v_cli.load("sample", device="cpu", precision=precision)  # type: ignore[arg-type]
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    (expected,) = model.predict([waveform()], RATE)
    initially = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        before = [switch.fp32_precision for switch in switches]
        (result,) = model.predict([waveform()], RATE)
        assert result.posteriors is not None
        assert expected.posteriors is not None
        assert result.posteriors.tobytes() == expected.posteriors.tobytes()
        assert [switch.fp32_precision for switch in switches] == before
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(initially)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_gpu_is_used_without_becoming_the_current_one(precision: Precision, sample: Recognizer) -> None:
    waveforms = [waveform(), waveform(20_000)]
    expected = sample.predict(waveforms, RATE, granularity="frame")

    with stand_in(2) as gpus:
        model = e2v_cli.load("sample", device="cuda:1", precision=precision)
        results = model.predict(waveforms, RATE, granularity="frame")

        assert (gpus.contexts, gpus.current) == ({1}, 0)
    for result, other in zip(results, expected, strict=True):
        tolerance = 0.3 if precision == "bf16" else 1e-4
        np.testing.assert_allclose(result.embedding, other.embedding, rtol=0, atol=tolerance)


def test_threads_predict_on_a_gpu_each(sample: Recognizer) -> None:
    waveforms = [waveform(length) for length in (16_000, 20_000, 8_000)]
    expected = [result.embedding for result in sample.predict(waveforms, RATE)]

    with stand_in(2), ThreadPoolExecutor(2) as threads:
        models = [e2v_cli.load("sample", device=f"cuda:{number}") for number in range(2)]
        for results in threads.map(lambda number: models[number % 2].predict(waveforms, RATE), range(6)):
            np.testing.assert_allclose([result.embedding for result in results], expected, rtol=0, atol=1e-5)


DENORMALS = torch.full((2, 100_000), 1e-40)


def kept_denormals() -> list[float]:
    """Return the share of denormals that each of PyTorch's two threads keeps."""
    kept: list[float] = (DENORMALS * 1 != 0).float().mean(1).tolist()
    return kept


@pytest.fixture
def _two_threads() -> Iterator[None]:
    """Two threads of PyTorch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("are_started", [False, True], ids=["threads not started", "threads started"])
def test_denormals_are_flushed_in_all_threads_of_the_model_and_in_no_other(
    are_started: bool, sample: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a caller's threads has threads of PyTorch's, which it starts when they are first needed."""
    forward, inside = Emotion2vec.forward, []

    def note(network: Emotion2vec, waveforms: Sequence[torch.Tensor], *taps: Taps) -> list[torch.Tensor]:
        inside.append(kept_denormals())
        return forward(network, waveforms, *taps)

    def call() -> list[float]:
        if are_started:
            assert kept_denormals() == [1, 1]
        sample.predict([waveform()], RATE)
        return kept_denormals()

    monkeypatch.setattr(Emotion2vec, "forward", note)
    with ThreadPoolExecutor(1) as caller:
        assert caller.submit(call).result() == [1, 1]
    assert inside == [[0, 0]]


@pytest.mark.parametrize("setting", ["autocast", "default device"])
def test_settings_of_the_caller_do_not_change_numbers(setting: str, sample: Recognizer) -> None:
    contexts: dict[str, Any] = {
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "default device": torch.device("meta"),
    }
    (expected,) = sample.predict([waveform()], RATE)

    with contexts[setting]:
        (result,) = sample.predict([waveform()], RATE)

    assert result.embedding.tobytes() == expected.embedding.tobytes()


# -- interrupted -------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_within_a_window(sample: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes in the first window of twenty; the computing thread has ended when predict does."""
    encode = Emotion2vec.encode
    calls: list[threading.Thread] = []
    received = threading.Event()

    def receive(number: int, frame: FrameType | None) -> None:
        if not received.is_set():
            received.set()
            signal.default_int_handler(number, frame)

    def interrupt(network: Emotion2vec, waveforms: Sequence[torch.Tensor], *taps: Taps) -> list[torch.Tensor]:
        while not calls and not received.wait(0.1):  # Python misses a signal just before it waits for a lock
            os.kill(os.getpid(), signal.SIGINT)
        calls.append(threading.current_thread())
        return encode(network, waveforms, *taps)

    monkeypatch.setattr(Emotion2vec, "encode", interrupt)
    handler = signal.signal(signal.SIGINT, receive)  # a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            sample.predict([np.tile(waveform(), 20 * 55)], RATE)
    finally:
        signal.signal(signal.SIGINT, handler)

    assert len(calls) < 5
    assert not calls[0].is_alive()
    monkeypatch.undo()
    assert sample.predict([waveform()], RATE)[0].label in ENGLISH


# -- audio without a result --------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, str]] = {
    "int64": (
        np.ones(9, np.int64),
        "not samples: int64; give floats of about ±1, or int16: x / 2**31 for samples of 32 bits",
    ),
    "samples, channels": (
        np.zeros((16_000, 2), np.float32),
        "not mono: shape (16000, 2); give one channel, x[:, 0], or the mean of all, x.mean(axis=1)",
    ),
    "channels, samples": (
        torch.zeros(2, 16_000),
        "not mono: shape (2, 16000); give one channel, x[0], or the mean of all, x.mean(axis=0)",
    ),
    "int16 channels": (
        noisy_tone(16_000, num_channels=2),
        "not mono: shape (16000, 2); give one channel, x[:, 0], or the mean of all, (x / 2**15).mean(axis=1)",
    ),
    "three dimensions": (np.zeros((1, 2, 3)), "not mono: shape (1, 2, 3); give an array of shape (samples,)"),
    "a number": (0.5, "not samples: a float; give a path, or an array of shape (samples,)"),
    "nothing": (None, "not samples: a NoneType; give a path, or an array of shape (samples,)"),
    "with its rate": ((waveform(), RATE), "not samples: a tuple; give a path, or an array of shape (samples,)"),
    "no path": ("", "not samples: a str; give a path, or an array of shape (samples,)"),
    "a command": ("cat a.wav |", "not allowed: 'cat a.wav |' is a command; only e2v predict runs those"),
    "no file": ("none.wav", "missing: none.wav: no such file"),
    "NaN": (np.full(16_000, np.nan, np.float32), "not finite: NaN or infinite samples"),
    "infinite": (np.full(16_000, np.inf, np.float32), "not finite: NaN or infinite samples"),
    "too large": (np.full(16_000, 1e300), "not finite: NaN or infinite samples"),
    "too short": (waveform(399), "too short: 399 samples at 16 kHz; the model needs 400 (25 ms)"),
    "empty": (np.empty(0, np.float32), "zero length: holds no samples"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_audio_is_numbered_and_raised(kind: str, sample: Recognizer) -> None:
    bad, message = BAD[kind]

    with pytest.raises(PredictionError, match=f"^{re.escape('audio 1: ' + message)}$"):
        sample.predict([waveform(), bad, waveform()], RATE)


def test_errors_are_returned_in_the_place_of_results(sample: Recognizer) -> None:
    first, *errors, last = sample.predict(
        [waveform(), *(bad for bad, _ in BAD.values()), waveform(8_000)],
        RATE,
        errors="return",
    )

    assert isinstance(first, Result)
    assert isinstance(last, Result)
    assert (first.duration, last.duration) == (1.0, 0.5)
    assert [str(error) for error in errors] == [f"audio {n}: {text}" for n, (_, text) in enumerate(BAD.values(), 1)]
    missing = errors[list(BAD).index("no file")]
    assert isinstance(missing, PredictionError)
    assert (missing.reason, missing.detail) == ("missing", "none.wav: no such file")
    assert str(pickle.loads(pickle.dumps(missing))) == str(missing)  # noqa: S301 — our own


def test_error_of_the_model_speaks_python(sample: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Emotion2vec, "encode", run_out)
    with pytest.raises(PredictionError, match=r"^audio 0: out of memory: 1\.0 s are too long for the memory of cpu$"):
        sample.predict([waveform()], RATE)


# -- arguments ---------------------------------------------------------------------------------------------------------

NO_LIST: dict[str, tuple[Any, str]] = {
    "array": (waveform(), "predict([x], sample_rate=rate)"),
    "tensor": (torch.zeros(16_000), "predict([x], sample_rate=rate)"),
    "numbers": ([0.0, 0.1], "predict([x], sample_rate=rate)"),
    "stereo": (np.zeros((2, 16_000)), "predict([x], sample_rate=rate), or list(x) if each row of x is one"),
    "str": ("a.wav", "predict(['a.wav'])"),
    "path": (Path("a.wav"), "predict(['a.wav'])"),
}


@pytest.mark.parametrize("kind", NO_LIST)
def test_audio_without_a_list_is_refused(kind: str, sample: Recognizer) -> None:
    audio, remedy = NO_LIST[kind]
    with pytest.raises(ValueError, match=f"^{re.escape('predict takes a list, also of one: ' + remedy)}$"):
        sample.predict(audio, RATE)


def test_array_needs_a_sample_rate(sample: Recognizer) -> None:
    message = (
        "audio 1 is an array, which has no sample rate of its own: predict(…, sample_rate=rate), in Hz, "
        "as in x, rate = soundfile.read(path)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sample.predict(["a.wav", waveform()], errors="return")


@pytest.mark.parametrize("rate", [0, -16_000, 16, 16_000.5, float("nan"), float("inf"), "16000"])
def test_invalid_sample_rate_is_refused(rate: Any, sample: Recognizer) -> None:
    message = f"sample_rate is {rate!r}; it must be a whole number of Hz, such as 16000"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sample.predict([waveform()], sample_rate=rate)


CLASSES = "it must be a list of labels, or a mapping to lists of labels"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resampler": "sox"}, "resampler is 'sox'; choose one of soxr, torchaudio"),
        ({"granularity": "word"}, "granularity is 'word'; choose one of utterance, frame"),
        ({"errors": "ignore"}, "errors is 'ignore'; choose one of raise, return"),
        ({"timeline": 0.01}, "timeline is 0.01; no span can be shorter than a frame, 0.02 s"),
        ({"classes": "sad,happy"}, f"classes is 'sad,happy'; {CLASSES}"),
        ({"classes": []}, f"classes is []; {CLASSES}"),
        ({"classes": ["exc", "sad"]}, f"classes='exc': no class exc; sample has {', '.join(ENGLISH)}"),
        (
            {"classes": {"happy": ["exc"]}},
            f"classes={{'happy': ['exc']}}: no class exc; sample has {', '.join(ENGLISH)}",
        ),
        ({"classes": {"sad": []}}, "sad would be the only class, of probability 1: keep two or more"),
        ({"timeline": 1e6}, "timeline=1e+06: must be from 0.02 s, one frame, to 86400 s"),
    ],
)
def test_invalid_argument_is_refused(arguments: dict[str, Any], message: str, sample: Recognizer) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sample.predict([waveform()], RATE, **arguments)


COPY = (
    "\nOn a machine with a network, 'e2v models pull {} --to DIR' makes a folder to copy here; "
    "name that, or another model's folder, as model='DIR'"
)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "tpu"}, ValueError, "device is 'tpu'; choose one of auto, cpu, cuda, or a GPU as in cuda:1"),
        (
            {"device": "cuda:0,1"},
            ValueError,
            "device is 'cuda:0,1'; choose one of auto, cpu, cuda, or a GPU as in cuda:1",
        ),
        ({"precision": "fp16"}, DeviceError, "precision='fp16' needs a GPU, and this run has none; leave it out"),
        ({"precision": "tf32"}, DeviceError, "precision='tf32' needs a GPU, and this run has none; leave it out"),
        ({"revision": "v1"}, UsageError, "revision='v1': sample is a folder here, and has none"),
        (
            {"model": "emotion2vec_base", "revision": "a b"},
            UsageError,
            "revision='a b': not a branch, tag or commit",
        ),
        (
            {"model": "emotion2vec_base_finetuned", "hub": "hf"},
            ModelError,
            "emotion2vec_base_finetuned is not on Hugging Face: choose hub='ms'",
        ),
        (
            {"model": "iic/none", "offline": True, "revision": "v2"},
            ModelError,
            "iic/none@v2: no such folder, and it is not on this machine, and no download is allowed"
            + COPY.format("iic/none --revision v2"),
        ),
    ],
)
def test_errors_of_load_speak_python(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        e2v_cli.load(**{"model": "sample", "device": "cpu", **arguments})


def test_missing_gpu_is_named() -> None:
    """PyTorch's version is in the message."""
    with pytest.raises(
        DeviceError, match=r"^device='cuda:77': PyTorch \S+ sees .*; use device='cpu', or a CUDA build$"
    ):
        e2v_cli.load("sample", device="cuda:77")


def test_load_errors_name_the_cause(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^nonsense: no such folder, and no model of that name"):
        e2v_cli.load("nonsense")
    with pytest.raises(UsageError, match=r"is a folder here, and has none$"):
        e2v_cli.load(tiny, revision="v1")
    with pytest.raises(ModelError, match=r"config.yaml is missing"):
        e2v_cli.load(str(tmp_path))


# -- the package -------------------------------------------------------------------------------------------------------


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_no_heavy_packages() -> None:
    code = "import sys, e2v_cli; print([name for name in ('torch', 'numpy', 'yaml', 'click') if name in sys.modules])"
    assert run_python(code) == "[]"


def test_public_names_are_importable() -> None:
    code = (
        "from e2v_cli import *; print(load.__module__, Recognizer.__name__, Result.__name__, PredictionError.__name__)"
    )
    assert run_python(code) == "e2v_cli.api Recognizer Result PredictionError"
    assert e2v_cli.load is e2v_cli.api.load


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'e2v_cli' has no attribute 'nonsense'$"):
        e2v_cli.nonsense  # noqa: B018
