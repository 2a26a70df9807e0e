"""The Python API: the numbers of the command, and errors that name the waveform."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from support.audio_files import as_float, encode, noisy_tone
from support.checkpoints import TOKENS, make_config, make_model
from support.gpus import stand_in
from support.processes import ROOT, E2v

import e2v_cli
from e2v_cli.api import Recognizer
from e2v_cli.errors import DeviceError, ModelError, UsageError
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.options import Precision, ResamplerName

ENGLISH = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")


@pytest.fixture(scope="module")
def sample() -> Recognizer:
    return e2v_cli.load("sample", device="cpu")


def waveform(num_samples: int = 16_000) -> NDArray[np.float32]:
    return as_float(noisy_tone(num_samples))


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_numbers_equal_those_of_the_command(e2v: E2v, sample: Recognizer, tmp_path: Path) -> None:
    paths = sorted((ROOT / "sample_data" / "wav").iterdir())[:6]
    out = tmp_path / "out"
    assert e2v("predict", *paths, "-m", "sample", "-o", out, "--embeddings", "ark").returncode == 0
    with (out / "predictions.tsv").open(newline="") as file:
        rows = {row["utt_id"]: row for row in csv.DictReader(file, delimiter="\t")}
    embeddings = kaldiio.load_scp(str(out / "embeddings.scp"))

    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        (result,) = sample.predict([samples], sample_rate=rate)

        row = rows[path.stem]
        assert result.label == row["label"]
        assert result.score == pytest.approx(float(row["score"]), abs=1.5e-6)
        assert result.posteriors == pytest.approx([float(row[label]) for label in ENGLISH], abs=1.5e-6)
        np.testing.assert_allclose(result.embedding, embeddings[path.stem], rtol=0, atol=1e-5)


def test_results_are_in_the_order_of_the_waveforms(sample: Recognizer) -> None:
    waveforms = [waveform(length) for length in (40_000, 400, 16_000, 8_000, 16_000, 300_000, 720)]

    results = sample.predict(waveforms)

    for alone, result in zip(waveforms, results, strict=True):
        (expected,) = sample.predict([alone])
        assert result.posteriors is not None
        assert expected.posteriors is not None
        np.testing.assert_allclose(result.posteriors, expected.posteriors, rtol=0, atol=1e-5)
        np.testing.assert_allclose(result.embedding, expected.embedding, rtol=0, atol=1e-5)


def test_result_has_label_score_posteriors_and_embedding(sample: Recognizer) -> None:
    (result,) = sample.predict([waveform()])

    assert result.posteriors is not None
    assert (result.posteriors.shape, result.posteriors.dtype.name) == ((9,), "float32")
    assert result.posteriors.sum() == pytest.approx(1, abs=1e-6)
    assert type(result.score) is float
    assert result.label == sample.labels[int(result.posteriors.argmax())]
    assert result.score == result.posteriors.max()
    assert (result.embedding.shape, result.embedding.dtype.name) == ((96,), "float32")


def test_frame_embeddings_are_fifty_a_second(sample: Recognizer) -> None:
    waveforms = [waveform(32_000), waveform(400)]

    results = sample.predict(waveforms, granularity="frame")

    assert [result.embedding.shape for result in results] == [(99, 96), (1, 96)]
    for result, pooled in zip(results, sample.predict(waveforms), strict=True):
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

    framed, short = sample.predict([samples, waveform()], granularity="frame")
    (pooled,) = sample.predict([samples])

    assert (framed.embedding.shape, short.embedding.shape) == ((3049, 96), (49, 96))
    assert pooled.label == framed.label
    np.testing.assert_allclose(framed.embedding.mean(axis=0), pooled.embedding, rtol=0, atol=1e-5)


def test_no_waveforms_give_no_results(sample: Recognizer) -> None:
    assert sample.predict([]) == []


@pytest.mark.parametrize("kind", ["float64", "list", "tensor", "strided", "read-only", "rows"])
def test_other_types_of_waveforms_are_accepted(kind: str, sample: Recognizer) -> None:
    samples = waveform()
    wide = np.repeat(samples, 2)
    frozen = samples.copy()
    frozen.flags.writeable = False
    given = {
        "float64": [samples.astype(np.float64)],
        "list": [samples.tolist()],
        "tensor": [torch.from_numpy(samples)],
        "strided": [wide[::2]],
        "read-only": [frozen],
        "rows": samples[None],
    }

    (result,) = sample.predict(given[kind])  # type: ignore[arg-type]

    assert result.embedding.tobytes() == sample.predict([samples])[0].embedding.tobytes()


def test_waveforms_are_not_modified(sample: Recognizer) -> None:
    samples = waveform()
    sample.predict([samples])
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
    assert model.predict([waveform()])[0].label in labels


def test_model_without_a_head_gives_only_embeddings(tmp_path: Path) -> None:
    model = e2v_cli.load(str(make_model(tmp_path, make_config(tokenizer=False))))

    (result,) = model.predict([waveform()])

    assert model.labels == ()
    assert (result.label, result.score, result.posteriors) == (None, None, None)
    assert result.embedding.shape == (96,)


# -- global state ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_matmul_precision_of_the_process_is_restored(
    precision: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2v_cli.api.check_precision", lambda *_: None)
    model = e2v_cli.load("sample", device="cpu", precision=precision)  # type: ignore[arg-type]
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    (expected,) = model.predict([waveform()])
    initially = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        before = [switch.fp32_precision for switch in switches]
        (result,) = model.predict([waveform()])
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
    expected = sample.predict(waveforms, granularity="frame")

    with stand_in(2) as gpus:
        model = e2v_cli.load("sample", device="cuda:1", precision=precision)
        results = model.predict(waveforms, granularity="frame")

        assert (gpus.contexts, gpus.current) == ({1}, 0)
    for result, other in zip(results, expected, strict=True):
        tolerance = 0.3 if precision == "bf16" else 1e-4
        np.testing.assert_allclose(result.embedding, other.embedding, rtol=0, atol=tolerance)


def test_threads_predict_on_a_gpu_each(sample: Recognizer) -> None:
    waveforms = [waveform(length) for length in (16_000, 20_000, 8_000)]
    expected = [result.embedding for result in sample.predict(waveforms)]

    with stand_in(2), ThreadPoolExecutor(2) as threads:
        models = [e2v_cli.load("sample", device=f"cuda:{number}") for number in range(2)]
        for results in threads.map(lambda number: models[number % 2].predict(waveforms), range(6)):
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

    def note(network: Emotion2vec, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        inside.append(kept_denormals())
        return forward(network, waveforms)

    def call() -> list[float]:
        if are_started:
            assert kept_denormals() == [1, 1]
        sample.predict([waveform()])
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
    (expected,) = sample.predict([waveform()])

    with contexts[setting]:
        (result,) = sample.predict([waveform()])

    assert result.embedding.tobytes() == expected.embedding.tobytes()


# -- refused -----------------------------------------------------------------------------------------------------------

BAD = {
    "integers": (noisy_tone(16_000), "int16 of shape (16000,); it must be floats, (samples,)"),
    "two channels": (np.zeros((16_000, 2), np.float32), "float32 of shape (16000, 2); it must be floats, (samples,)"),
    "a number": (0.5, "float64 of shape (); it must be floats, (samples,)"),
    "a path": ("a.wav", "<U5 of shape (); it must be floats, (samples,)"),
    "nothing": (None, "object of shape (); it must be floats, (samples,)"),
    "NaN": (np.full(16_000, np.nan, np.float32), "not finite: NaN or infinite samples"),
    "infinite": (np.full(16_000, np.inf, np.float32), "not finite: NaN or infinite samples"),
    "too short": (waveform(399), "too short: 399 samples at 16 kHz; the model needs 400 (25 ms)"),
    "empty": (np.empty(0, np.float32), "zero length: holds no samples"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_waveform_is_refused_and_numbered(kind: str, sample: Recognizer) -> None:
    bad, message = BAD[kind]

    with pytest.raises(ValueError, match=f"^{re.escape('waveform 1: ' + message)}$"):
        sample.predict([waveform(), bad, waveform()])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", ["ragged", "gradient", "bfloat16", "too large"])
def test_unconvertible_waveform_is_refused_and_numbered(kind: str, sample: Recognizer) -> None:
    bad = {
        "ragged": [[0.0], [0.0, 0.0]],
        "gradient": torch.zeros(16_000, requires_grad=True),
        "bfloat16": torch.zeros(16_000, dtype=torch.bfloat16),
        "too large": np.full(16_000, 1e300),
    }

    with pytest.raises(ValueError, match=r"^waveform 1: "):
        sample.predict([waveform(), bad[kind]])  # type: ignore[list-item]


@pytest.mark.parametrize("rate", [0, -16_000, 16_000.5, float("nan"), float("inf"), "16000", None])
def test_invalid_sample_rate_is_refused(rate: object, sample: Recognizer) -> None:
    message = f"sample_rate is {rate!r}; it must be a positive whole number"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sample.predict([waveform()], sample_rate=rate)  # type: ignore[arg-type]


def test_unknown_resampler_is_refused(sample: Recognizer) -> None:
    with pytest.raises(ValueError, match=r"^resampler is 'sox'; choose one of soxr, torchaudio$"):
        sample.predict([waveform()], resampler="sox")  # type: ignore[arg-type]


def test_single_waveform_without_a_list_is_refused(sample: Recognizer) -> None:
    with pytest.raises(ValueError, match=r"^waveform 0: float32 of shape \(\); it must be floats, \(samples,\)$"):
        sample.predict(waveform())  # type: ignore[arg-type]


def test_load_errors_name_the_cause(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^nonsense: no such folder, and no model of that name"):
        e2v_cli.load("nonsense")
    with pytest.raises(DeviceError, match=r"^--device tpu: unknown; choose auto, cpu, cuda or cuda:0,2$"):
        e2v_cli.load("sample", device="tpu")
    with pytest.raises(UsageError, match=r"is a folder here, and has none$"):
        e2v_cli.load(str(tiny), revision="v1")
    with pytest.raises(ModelError, match=r"config.yaml is missing"):
        e2v_cli.load(str(tmp_path))


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_gpu_precision_is_refused_on_a_cpu(precision: str) -> None:
    with pytest.raises(DeviceError, match=f"^--precision {precision} needs a GPU"):
        e2v_cli.load("sample", device="cpu", precision=precision)  # type: ignore[arg-type]


# -- the package -------------------------------------------------------------------------------------------------------


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_no_heavy_packages() -> None:
    code = "import sys, e2v_cli; print([name for name in ('torch', 'numpy', 'yaml', 'click') if name in sys.modules])"
    assert run_python(code) == "[]"


def test_public_names_are_importable() -> None:
    code = "from e2v_cli import *; print(load.__module__, Recognizer.__name__, Result.__name__)"
    assert run_python(code) == "e2v_cli.api Recognizer Result"
    assert e2v_cli.load is e2v_cli.api.load


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'e2v_cli' has no attribute 'nonsense'$"):
        e2v_cli.nonsense  # noqa: B018
