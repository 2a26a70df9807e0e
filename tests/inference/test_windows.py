"""Windows cover an utterance, and each of its frames is kept once."""

from __future__ import annotations

import itertools

import pytest
from support.checkpoints import make_config

from e2v_cli.inference.windows import Window, cut_windows, window_frames
from e2v_cli.models.config import parse_config
from e2v_cli.network.config import NetworkConfig


@pytest.fixture(scope="module")
def config() -> NetworkConfig:
    """The local encoder as published: frames of 400 samples, every 320."""
    return parse_config(make_config())


def cut(num_frames: int, size: int, context: int) -> list[tuple[int, int, int, int]]:
    return [(*window,) for window in cut_windows(num_frames, size, context)]


@pytest.mark.parametrize(
    ("num_frames", "size", "context", "windows"),
    [
        (11, 10, 2, [(0, 7, 0, 5), (3, 11, 5, 11)]),
        (12, 10, 2, [(0, 8, 0, 6), (4, 12, 6, 12)]),
        (13, 10, 2, [(0, 6, 0, 4), (2, 10, 4, 8), (6, 13, 8, 13)]),
        (18, 10, 2, [(0, 8, 0, 6), (4, 14, 6, 12), (10, 18, 12, 18)]),
        (11, 10, 0, [(0, 5, 0, 5), (5, 11, 5, 11)]),
        (3, 1, 0, [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]),
        (6, 10, 2, [(0, 6, 0, 6)]),
    ],
)
def test_windows_match_manual_calculation(
    num_frames: int, size: int, context: int, windows: list[tuple[int, int, int, int]]
) -> None:
    assert cut(num_frames, size, context) == windows


@pytest.mark.parametrize("context", [0, 1, 7, 49, 100])
@pytest.mark.parametrize("size", [201, 250, 2999])
@pytest.mark.parametrize("more", [0, 1, 2, 100, 2801, 12_345, 180_000])
def test_windows_keep_every_frame_once_with_context(more: int, size: int, context: int) -> None:
    num_frames = size + more

    windows = list(cut_windows(num_frames, size, context))

    # every frame is kept once, in order
    assert windows[0].first_kept == 0
    assert windows[-1].end_kept == num_frames
    assert all(one.end_kept == other.first_kept for one, other in itertools.pairwise(windows))
    for window in windows:
        assert 0 <= window.first <= window.first_kept < window.end_kept <= window.end <= num_frames
        # none is larger than a window may be
        assert window.end - window.first <= size
        # every frame that is kept has its context, except where the utterance ends
        assert window.first == max(0, window.first_kept - context)
        assert window.end == min(num_frames, window.end_kept + context)
    # lengths are about equal, and there are no more windows than needed
    kept = [window.end_kept - window.first_kept for window in windows]
    assert max(kept) - min(kept) <= 1
    assert (len(windows) - 1) * (size - 2 * context) < num_frames


@pytest.mark.parametrize(
    ("window", "samples"),
    [
        (Window(0, 1, 0, 1), slice(0, 400)),
        (Window(0, 10, 0, 8), slice(0, 3280)),
        (Window(7, 9, 8, 9), slice(2240, 2960)),
    ],
)
def test_window_has_the_samples_of_its_frames(window: Window, samples: slice, config: NetworkConfig) -> None:
    assert window.samples(config) == samples
    assert config.num_frames(samples.stop - samples.start) == window.end - window.first


@pytest.mark.parametrize(
    ("seconds", "frames", "context"),
    [
        (60.0, 2999, 100),  # two seconds on either side
        (30.0, 1499, 100),
        (20.0, 999, 99),  # a tenth of the window, where that is less
        (10.0, 499, 49),
        (1.0, 49, 4),
        (1800.0, 89_999, 100),
        (0.01, 1, 0),
    ],
)
def test_window_has_the_frames_of_an_utterance_of_its_length(
    seconds: float, frames: int, context: int, config: NetworkConfig
) -> None:
    assert window_frames(config, seconds) == (frames, context)


@pytest.mark.parametrize("seconds", [1.0, 1.7, 20.0, 60.0, 61.3])
@pytest.mark.parametrize("more", [1, 319, 320, 400, 16_000, 10_000_000])
def test_utterance_longer_than_a_window_is_cut(more: int, seconds: float, config: NetworkConfig) -> None:
    """Even by one sample, with as many frames as the window."""
    num_samples = int(seconds * 16_000) + more
    num_frames = config.num_frames(num_samples)

    windows = list(cut_windows(num_frames, *window_frames(config, seconds)))

    assert len(windows) >= 2
    assert windows[-1].samples(config).stop <= num_samples
    assert max(window.samples(config).stop - window.samples(config).start for window in windows) <= seconds * 16_000


def test_window_frames_depend_on_the_frame_shift() -> None:
    """At a shift of 10 ms, two seconds have twice as many frames."""
    config = parse_config(make_config(audio={"feature_encoder_spec": "[(64, 10, 5)] + [(64, 3, 2)] * 5"}))

    assert config.hop == 160
    frames, context = window_frames(config, 60.0)
    assert (frames, context) == (config.num_frames(960_000), 200)
