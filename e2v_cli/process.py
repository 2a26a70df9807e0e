"""Who a process is, among those of several machines that see the same files."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from datetime import datetime

HOST = socket.gethostname()


def now() -> str:
    """Say when it is, here: ``2026-05-01T09:30:00+02:00``."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def is_dead(host: str, pid: int) -> bool:
    """Say whether a process is certain to be dead; of another machine's nothing is."""
    if host != HOST:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent, of this pid, is dead; only Linux does."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be said
            os._exit(1)
