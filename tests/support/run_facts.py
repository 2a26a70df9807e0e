"""What ``e2v plan`` reads of a ``run.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from e2v_cli._version import __version__


def make_run_facts(
    model: str = "sample", speed: object = 17.25, num_shards: int = 1, gpus: Sequence[str] = (), precision: str = "fp32"
) -> dict[str, Any]:
    """Make the facts of a run on one machine."""
    device = "cuda" if gpus else "cpu"
    return {
        "model": {"name": model},
        "options": {"engine": "e2v", "device": device, "precision": precision},
        "versions": {"e2v": __version__},
        "commands": [{"num_shards": 7}, {"num_shards": num_shards}],
        "machines": [{"device": device, "gpus": list(gpus), "cpu": "a CPU"}],
        "encode_seconds": 600.0,
        "speed": speed,
    }
