"""Our samples of files against those that FunASR reads and resamples, and its numbers from the paths of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.audio_files import encode, noisy_tone
from support.resampling import TORCHAUDIO

from e2v_cli.audio.decode import AudioOptions, load_waveforms
from e2v_cli.inference.load import load_upstream
from e2v_cli.models.folder import read_model
from e2v_cli.models.weights import prepare_weights
from e2v_cli.options import ComputeOptions, InputOptions, ResamplerName, ResultOptions
from e2v_cli.records import Prediction, Utterance, Waveform
from e2v_cli.system.spool import whole

pytestmark = pytest.mark.parity

RATES = (8_000, 11_025, 16_000, 22_050, 32_000, 44_056, 44_100, 48_000, 96_000)


def load(path: Path, resampler: ResamplerName) -> Waveform:
    options = AudioOptions(InputOptions((), resampler=resampler), ComputeOptions(), min_samples=1)
    (waveform,) = load_waveforms([Utterance(0, "utt", str(path))], options, lambda: False)
    assert isinstance(waveform, Waveform)
    return waveform


@pytest.fixture
def load_utils() -> Any:
    """Import FunASR's reader."""
    from funasr.utils import load_utils as module

    return module


def read_by_funasr(load_utils: Any, path: Path) -> NDArray[np.float32]:
    (samples,) = load_utils.load_audio_text_image_video([str(path)], fs=16_000)
    return np.asarray(samples)


@pytest.mark.parametrize("rate", RATES)
def test_samples_are_those_of_funasr_without_torchaudio(
    rate: int, load_utils: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, at any length: librosa rounds it up."""
    monkeypatch.setattr(load_utils, "torchaudio", None)
    for num_samples in (999, 1_000, 1_001, rate, rate + 7):
        path = tmp_path / f"{num_samples}.flac"
        path.write_bytes(encode(noisy_tone(num_samples, rate=rate), "FLAC", rate=rate))

        np.testing.assert_array_equal(load(path, "soxr").whole, read_by_funasr(load_utils, path))


@pytest.mark.parametrize("rate", RATES)
def test_samples_are_those_of_funasr_with_torchaudio(
    rate: int, load_utils: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_utils, "torchaudio", TORCHAUDIO)
    for num_samples in (999, rate + 7):
        path = tmp_path / f"{num_samples}.wav"
        path.write_bytes(encode(noisy_tone(num_samples, 2, rate), rate=rate))

        np.testing.assert_allclose(load(path, "torchaudio").whole, read_by_funasr(load_utils, path), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_funasr_engine_takes_paths_as_funasr_does(rate: int, tiny: Path, tmp_path: Path) -> None:
    from funasr import AutoModel

    path = tmp_path / "a.wav"
    path.write_bytes(encode(noisy_tone(rate, 2, rate), rate=rate))
    upstream = AutoModel(model=str(tiny), device="cpu", ncpu=torch.get_num_threads(), disable_update=True)
    (expected,) = upstream.generate(str(path), granularity="frame", disable_pbar=True)
    model = read_model("tiny", tiny)
    engine = load_upstream(model, prepare_weights(model), "cpu", ResultOptions(granularity="frame"))

    prediction = engine.predict_file(load(path, engine.resampler), str(path))

    assert isinstance(prediction, Prediction)
    assert prediction.posteriors is not None
    np.testing.assert_allclose(whole(prediction.embedding), expected["feats"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(prediction.posteriors, expected["scores"], rtol=0, atol=1e-6)
