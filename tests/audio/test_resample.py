"""Resampling as FunASR does: known numbers, an independent reference, and the same bits for any chunks."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import soxr
import torch
from numpy.typing import NDArray
from support.resampling import convolve

from e2v_cli.audio.resample import Resampler, predict_length
from e2v_cli.options import ResamplerName

RATES = (
    *(8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 37_800, 44_056, 44_100, 47_250, 48_000),
    *(88_200, 96_000, 192_000),
)
"""Telephones, CDs, video, and all that recorders offer."""

GOLDEN = {
    8_000: (0.0100837, 0.4717258, 0.2520404, -0.6516733, -1.1831437, -0.4717258),
    22_050: (0.0475690, 0.6304414, 0.2452377, -0.6465590, -1.1947404, -0.6304432),
    44_100: (0.0768095, 0.6284245, 0.2451923, -0.6465709, -1.1947190, -0.6284261),
    48_000: (0.0781951, 0.6283987, 0.2451947, -0.6465700, -1.1947176, -0.6283986),
}
"""Output samples 0, 1, 50, 100, 101 and 1599 of two tones, by torchaudio 2.11.0."""

BOTH: tuple[ResamplerName, ...] = ("soxr", "torchaudio")


def noise(num_samples: int) -> NDArray[np.float32]:
    return np.random.default_rng(num_samples).uniform(-1, 1, num_samples).astype(np.float32)


def resample(
    name: ResamplerName, rate: int, samples: NDArray[np.float32], cuts: Sequence[int] = ()
) -> NDArray[np.float32]:
    """Resample (samples,), cut into chunks."""
    resampler = Resampler(name, rate)
    chunks = [resampler.resample_chunk(chunk) for chunk in np.split(samples, cuts)]
    return np.concatenate([*chunks, resampler.resample_chunk(samples[:0], last=True)])


@pytest.mark.parametrize("rate", GOLDEN)
def test_samples_are_those_of_torchaudio(rate: int) -> None:
    times = np.arange(rate // 10) / rate
    tones = np.sin(2 * np.pi * 440 * times) + 0.5 * np.sin(2 * np.pi * 3100 * times)

    resampled = resample("torchaudio", rate, tones.astype(np.float32))

    assert resampled.shape == (1600,)
    np.testing.assert_allclose(resampled[[0, 1, 50, 100, 101, 1599]], GOLDEN[rate], rtol=0, atol=2e-6)


@pytest.mark.parametrize("rate", RATES)
def test_any_rate_is_resampled_as_torchaudio_documents(rate: int) -> None:
    for num_samples in (1, 2, 7, 440, 441, 442, rate // 3, rate + 17):
        samples = noise(num_samples)

        resampled, expected = resample("torchaudio", rate, samples), convolve(samples, rate)

        assert (resampled.shape, resampled.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(resampled, expected, rtol=0, atol=1e-6)


def test_samples_are_those_of_torchaudio_where_it_is_installed() -> None:
    transforms = pytest.importorskip("torchaudio.transforms", exc_type=ImportError)
    for rate in RATES:
        samples = noise(rate + 17)
        expected = transforms.Resample(rate, 16_000)(torch.from_numpy(samples)[None])[0].numpy()
        np.testing.assert_allclose(resample("torchaudio", rate, samples), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_samples_are_those_of_soxr_filled_up_with_silence(rate: int) -> None:
    """SoX rounds the length to the nearest, librosa and torchaudio up."""
    lengths = (440, 441, 442, rate // 3, *range(rate, rate + 30, 7))
    for samples in map(noise, lengths):
        by_sox = soxr.resample(samples, rate, 16_000, quality="HQ")
        expected = np.zeros(math.ceil(len(samples) * 16_000 / rate), np.float32)
        expected[: len(by_sox)] = by_sox
        np.testing.assert_array_equal(resample("soxr", rate, samples), expected)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_056, 44_100, 48_000])
def test_chunks_change_no_bit(name: ResamplerName, rate: int) -> None:
    samples = noise(3 * rate + 5)
    whole = resample(name, rate, samples)
    random = np.random.default_rng(0)

    for cuts in ([1], [len(samples) - 1], range(0, len(samples), 997), *np.sort(random.integers(0, rate, (5, 9)))):
        assert resample(name, rate, samples, list(cuts)).tobytes() == whole.tobytes()


def test_single_samples_change_no_bit() -> None:
    samples = noise(2_000)
    assert np.array_equal(resample("torchaudio", 8_000, samples, range(2_000)), resample("torchaudio", 8_000, samples))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("rate", RATES)
def test_predicted_length_is_that_of_the_samples(name: ResamplerName, rate: int) -> None:
    for num_samples in (1, 2, 3, 99, 440, 441, 1_101, rate - 1, rate, rate + 1):
        assert predict_length(name, rate, num_samples) == len(resample(name, rate, noise(num_samples)))


def test_length_is_rounded_as_torchaudio_does() -> None:
    """To float32, from a minute on: 1000000 + 1/441 is then no more than 1000000."""
    num_samples = next(count for count in range(2_756_250, 2_756_691) if 160 * count % 441 == 1)
    assert num_samples * 160 / 441 > predict_length("torchaudio", 44_100, num_samples) > num_samples * 160 / 441 - 1
    assert predict_length("soxr", 44_100, num_samples) == predict_length("torchaudio", 44_100, num_samples) + 1


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("rate", [8_000, 44_100, 44_099])
def test_memory_does_not_grow_with_the_length(name: ResamplerName, rate: int) -> None:
    """Nor with the period of the filters: 44,099 and 16,000 have no common divisor."""
    chunk = noise(1 << 16)
    resampler = Resampler(name, rate)
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(3):
            tracemalloc.reset_peak()
            for _ in range(2 * rate * 60 // len(chunk)):
                resampler.resample_chunk(chunk)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()

    assert max(peaks) < 30e6
    assert peaks[2] < peaks[1] + 1e6


def test_rate_without_a_common_divisor_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 1_000 * np.arange(44_099) / 44_099).astype(np.float32)

    resampled = resample("torchaudio", 44_099, tone)

    expected = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(resampled[100:-100], expected[100:-100], rtol=0, atol=2e-2)
