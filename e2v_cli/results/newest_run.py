"""A note in e2v's cache of this user's newest run, whose speed is what ``e2v plan`` expects of the next one."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path

from e2v_cli._version import __version__
from e2v_cli.models.cache import cache_folder
from e2v_cli.system.files import published, remove_drafts

NEWEST_RUN = "newest-run"
"""The file in the cache with one line: the absolute path of a ``run.json``."""


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


def read_speed(path: Path, model: str) -> float | None:
    """Read the speed of a run, × real time, from its ``run.json``.

    None if the file is missing, damaged or of another version of e2v, or if the run had a model of another name, or
    computed nothing.
    """
    try:
        run = json.loads(path.read_bytes())
        is_alike = run["model"]["name"] == model and run["versions"]["e2v"] == __version__
        speed = round(float(run["speed"]), 3)
    except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None
    return speed if is_alike and 0 < speed < math.inf else None
