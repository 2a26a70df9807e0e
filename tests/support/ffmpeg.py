"""The ffmpeg program, as another encoder and as the reference of decoders."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray


def run_ffmpeg(*args: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run ffmpeg, which may fail."""
    return subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", *map(str, args)],
        capture_output=True,
        timeout=100,
        check=False,
    )


def encode_by_ffmpeg(content: bytes, suffix: str, *options: str) -> bytes:
    """Convert an audio file by ffmpeg to the container of a suffix."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, f"target{suffix}")
        source.write_bytes(content)
        done = run_ffmpeg("-i", source, *options, target)
        assert done.returncode == 0, done.stderr.decode()
        return target.read_bytes()


def encode_each_by_ffmpeg(contents: Sequence[bytes], suffix: str, *options: str) -> list[bytes]:
    """Convert audio files by one ffmpeg to the container of a suffix."""
    with tempfile.TemporaryDirectory() as folder:
        inputs: list[str | Path] = []
        outputs: list[str | Path] = []
        targets = [Path(folder, f"{number}{suffix}") for number in range(len(contents))]
        for number, content in enumerate(contents):
            source = Path(folder, f"source{number}")
            source.write_bytes(content)
            inputs += ["-i", source]
            outputs += ["-map", f"{number}:a", *options, targets[number]]
        done = run_ffmpeg(*inputs, *outputs)
        assert done.returncode == 0, done.stderr.decode()
        return [target.read_bytes() for target in targets]


def decode_by_ffmpeg(path: Path, num_channels: int = 1) -> NDArray[np.float32]:
    """Decode the first audio stream of a file as far as ffmpeg can: (samples, channels)."""
    output = run_ffmpeg("-i", path, "-map", "0:a:0", "-f", "f32le", "-c:a", "pcm_f32le", "-").stdout
    return np.frombuffer(output[: len(output) // (4 * num_channels) * (4 * num_channels)], "<f4").reshape(
        -1, num_channels
    )
