"""The real command in a process group of its own, and the processes that belong to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

E2v = Callable[..., "subprocess.CompletedProcess[str]"]
"""The type of the fixture ``e2v``, which runs the command."""


def start_e2v(*args: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start e2v; its standard error can be read."""
    return subprocess.Popen(
        [sys.executable, "-m", "e2v_cli", *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def hook(folder: Path, code: str) -> dict[str, str]:
    """Return an environment in which Python runs some code when it starts."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


ON_OPENING = """
import os, signal, time
from e2v_cli.audio import decode
real = decode.open_audio
def opened(path, *args, **kwargs):
    if "{name}" in path:
        {action}
    return real(path, *args, **kwargs)
decode.open_audio = opened
"""


def on_opening(folder: Path, name: str, action: str) -> dict[str, str]:
    """Return an environment in which opening audio of a name runs an action."""
    return hook(folder, ON_OPENING.format(name=name, action=action))


class Hold:
    """A hold on audio of a name: nothing opens it until the hold is released."""

    def __init__(self, folder: Path, name: str) -> None:
        """Write the hook that holds the audio, and its environment, into a folder."""
        self._released = folder / "released"
        wait = f"while not os.path.exists({str(self._released)!r}): time.sleep(0.02)"
        self.environment = on_opening(folder, name, wait)

    def release(self) -> None:
        """End the hold."""
        self._released.touch()


def wait_until(condition: Callable[[], object], seconds: float = 60.0, pause: float = 0.02) -> None:
    """Wait until a condition holds; ``pause`` is the time between two checks, in seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(pause)


def find_workers(pid: int) -> list[int]:
    """Find the template and the workers of an e2v, in the order in which they were started: the template is first."""
    return [child for child in find_children(pid) if b"resource_tracker" not in _read_command(child)]


def find_children(pid: int) -> list[int]:
    """Find the processes that another one started; none if it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def has_ended(pid: int) -> bool:
    """Whether a process has ended, so that its parent can reap it, or has."""
    return _find_living_group(pid) is None


def find_group(group: int) -> list[int]:
    """Find all processes of a group that have not ended."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [pid for pid in pids if _find_living_group(pid) == group]


def kill(pid: int) -> None:
    """Kill a process, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _find_living_group(pid: int) -> int | None:
    """Find the group of a process, None if it has ended; a zombie has not, and has files open, with other threads."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, group, num_threads = fields[0], int(fields[2]), int(fields[17])
    return group if state not in "ZX" or num_threads > 1 else None


def _read_command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
