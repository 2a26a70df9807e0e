"""Who a process is, among those of several machines that see the same files, and what memory it keeps."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress
from datetime import datetime

HOST = socket.gethostname()

_HEAP_BYTES = 1 << 30
"""Memory that a process keeps at most: more than it ever uses at once for a batch."""


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


def keep_heap() -> None:
    """Let the C library keep memory that is freed, for the next one who asks; only glibc does.

    It gives large blocks back to the kernel, which fills them with zeros, page by page, each time they are used again.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(m_mmap_threshold, _HEAP_BYTES) == 1:  # not all versions take so large a one
            mallopt(m_trim_threshold, _HEAP_BYTES)
