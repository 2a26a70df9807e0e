"""The speed of a run, and a note in e2v's cache of this user's newest one: what ``e2v plan`` expects of the next."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2v_cli._version import __version__
from e2v_cli.models.cache import cache_folder
from e2v_cli.options import ComputeOptions
from e2v_cli.system.files import published, remove_drafts

NEWEST_RUN = "newest-run"
"""Name of the file in the cache with one line: the absolute path of a ``run.json``."""


def note_run(path: Path) -> None:
    """Note the ``run.json`` of a run that was published, unless the cache can't be written."""
    note = cache_folder() / NEWEST_RUN
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(note)
        with published(note) as file:
            file.write(bytes(path.absolute()) + b"\n")


def find_newest_run() -> Path | None:
    """Return the path of the newest ``run.json``, which may be gone by now; None if no run was noted."""
    try:
        path = Path(os.fsdecode((cache_folder() / NEWEST_RUN).read_bytes().rstrip(b"\n")))
    except OSError:
        return None
    return path if path.is_absolute() else None


@dataclass(frozen=True)
class MeasuredSpeed:
    """The speed of a run, and what it depends on, from its ``run.json``."""

    path: Path
    of_shard: float
    """Speed of each shard, × real time; the shards of a run are computed at the same time."""
    encode_seconds: float
    """Seconds over which the speed was measured."""
    version: str
    """Version of e2v."""
    options: Mapping[str, str]
    """Name of the model, engine, precision and kind of device, by option."""
    machines: str
    """Names of the GPUs, or of the CPU of a machine without, separated by commas."""

    def describe_difference(self, model: str, compute: ComputeOptions) -> str | None:
        """Describe why a run with these options would have another speed; None if it would not."""
        wanted = {"model": model, "engine": compute.engine, "precision": compute.precision}
        if compute.device != "auto":
            wanted["device"] = compute.device.partition(":")[0]
        different = (name for name, value in wanted.items() if self.options[name] != value)
        name = next(different, None)
        return None if name is None else f"its {name} is {self.options[name]}, not {wanted[name]}"


def find_newest_speed(model: str, compute: ComputeOptions) -> MeasuredSpeed | None:
    """Find the speed of the newest run; None if that was unlike these options, or of another version of e2v."""
    path = find_newest_run()
    speed = None if path is None else read_speed(path)
    if speed is None or speed.version != __version__ or speed.describe_difference(model, compute):
        return None
    return speed


def read_speed(path: Path) -> MeasuredSpeed | None:
    """Read the speed of a run from its ``run.json``; None if that is missing or damaged, or nothing was computed."""
    try:
        run = json.loads(path.read_bytes())
        options, devices = run["options"], run["options"]["device"]
        speed = MeasuredSpeed(
            path=path,
            of_shard=round(float(run["speed"]) / int(run["commands"][-1]["num_shards"]), 3),
            encode_seconds=float(run["encode_seconds"]),
            version=run["versions"]["e2v"],
            options={
                "model": run["model"]["name"],
                "engine": options["engine"],
                "precision": options["precision"],
                "device": devices if isinstance(devices, str) else " and ".join(devices),
            },
            machines=", ".join(dict.fromkeys(name for machine in run["machines"] for name in _name_machine(machine))),
        )
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        return None
    return speed if speed.machines and 0 < speed.of_shard < math.inf else None


def _name_machine(machine: Mapping[str, Any]) -> Sequence[str]:
    return machine["gpus"] or [machine["cpu"]]
