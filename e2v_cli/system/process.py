"""Processes: this machine's name, the time, e2v's own command, parents and children, death of others, freed memory."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType

from e2v_cli.system.signals import STOP_SIGNALS

HOST = socket.gethostname()

_HEAP_BYTES = 1 << 30
"""The most freed memory that a process keeps: more than any batch uses."""


def now(timespec: str = "seconds") -> str:
    """Return the local time with its offset: ``2026-05-01T09:30:00+02:00``; to the microsecond where order counts."""
    return datetime.now().astimezone().isoformat(timespec=timespec)


def own_command() -> tuple[str, ...]:
    """Return the words that run this e2v from any folder."""
    script = Path(sys.argv[0])
    if script.name == "e2v" and os.access(script, os.X_OK):
        return (str(script.absolute()),)
    return (sys.executable, "-m", "e2v_cli")


def is_dead(host: str, pid: int) -> bool:
    """Whether a process is certainly dead; False for processes of other machines, which can't be known."""
    if host != HOST:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def follow_parent() -> None:
    """Leave signals to the process that started this one by ``multiprocessing``, and die with it."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, _do_nothing)  # commands of a list would inherit an ignored signal
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)


def _do_nothing(_signum: int, _frame: FrameType | None) -> None:
    """Handle a signal without any effect."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, which has this pid, dies; without effect except on Linux."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)


def adopt_orphans() -> bool:
    """Have the kernel make this process the parent of its descendants whose parents end; False if it can't."""
    pr_set_child_subreaper = 36
    return sys.platform == "linux" and not ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def fork_sibling() -> bool:
    """Fork a process whose parent is that of this one, which adopts orphans; return True in the new process.

    Raises:
        OSError: there is no room for another process.
    """
    between = os.fork()
    if between:
        error = os.waitstatus_to_exitcode(os.waitpid(between, 0)[1])
        if error > 0:
            raise OSError(error, os.strerror(error))
        return False
    between = os.getpid()
    try:
        if os.fork():
            os._exit(0)
    except OSError as error:
        os._exit(error.errno or 1)
    while os.getppid() == between:
        time.sleep(0.0005)
    return True


class AdoptedProcess:
    """A child that another process forked for this one, with what is needed of ``multiprocessing.Process``."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.exitcode: int | None = None
        """Exit code, as in ``subprocess``; None until the process has been waited for."""

    def kill(self) -> None:
        """Kill the process, unless it was waited for."""
        if self.exitcode is None:
            os.kill(self._pid, signal.SIGKILL)

    def join(self, timeout: float = math.inf) -> None:
        """Wait for the end of the process, ``timeout`` seconds at most."""
        deadline = time.monotonic() + timeout
        while self.exitcode is None and time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.exitcode = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)


def keep_heap() -> None:
    """Have the C library keep freed memory for later allocations; without effect except with glibc.

    By default it returns large blocks to the kernel, which fills them with zeros, page by page, whenever they are used
    again.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(m_mmap_threshold, _HEAP_BYTES) == 1:  # not all versions take so large a one
            mallopt(m_trim_threshold, _HEAP_BYTES)


def trim_heap() -> None:
    """Return the pages of freed memory to the kernel; without effect except with glibc.

    Blocks that are kept for long, between large ones that come and go, make a heap grow to several times what is used.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
