"""The template: a process that loads the engine once, computes nothing with it, and forks into the workers of CPUs.

Workers share what they don't change: PyTorch, the model and its packed weights. A forked one is ready at once. The
launcher is the parent of the workers as well as of the template: how each of them ends is known to the launcher, and
the end of the template ends no worker. The standard library's fork server has neither of these properties, imports
modules but takes no arguments, and keeps its client waiting, deaf to signals, until it has done so.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from e2v_cli.errors import OutputError
from e2v_cli.system.process import fork_sibling
from e2v_cli.system.signals import STOP_SIGNALS
from e2v_cli.workers.messages import Fatal, Started
from e2v_cli.workers.worker import WorkerSetup, follow_launcher, load_for_worker, run_worker

if TYPE_CHECKING:
    from e2v_cli.inference.engine import Engine


class Template:
    """The template process, as the launcher sees it."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Start it; it loads the engine while this process goes on."""
        self._requests, requests = socket.socketpair()
        with requests:
            self.process = spawn(run_template, requests, setup)

    def fork(self, number: int, connection: Connection) -> BaseProcess:
        """Request a worker, which talks through ``connection``; return the process that it begins in."""
        with suppress(OSError):  # if that has ended, no process holds the connection any more
            socket.send_fds(self._requests, [b"%d" % number], [connection.fileno()])
        return self.process

    def close(self) -> None:
        """Kill the process."""
        self._requests.close()
        self.process.kill()
        self.process.join()


def spawn(target: Callable[..., None], *args: object) -> BaseProcess:
    """Start a process with an interpreter of its own; STOP_SIGNALS are blocked in it."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    # Until it can ignore them, a signal to the whole group would kill it. Starting the tracker unblocks them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def run_template(requests: socket.socket, setup: WorkerSetup) -> None:
    """Run the template process, and in its forks the workers, each of which returns from here when it ends.

    If the engine can't be loaded, the template itself becomes the first worker, and reports why.
    """
    follow_launcher()
    engine: Engine | Exception
    try:
        engine = load_for_worker(setup, "cpu")
    except Exception as error:
        engine = error
    gc.freeze()  # a collection would write to what is shared

    def load() -> Engine:
        if isinstance(engine, Exception):
            raise engine
        return engine

    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, 16, 1)
        if not request:
            return
        with Connection(descriptors[0]) as connection:
            if isinstance(engine, Exception) or _become_worker(connection):
                requests.close()
                run_worker(connection, setup, int(request), load)
                return


def _become_worker(connection: Connection) -> bool:
    """Fork a worker; return True in its process, after it has reported its pid."""
    try:
        forked = fork_sibling()
    except OSError as error:
        with suppress(OSError):
            connection.send(Fatal(OutputError.of(error)))
        return False
    if forked:
        with suppress(OSError):  # the launcher has ended, which the worker finds out
            connection.send(Started(os.getpid()))
    return forked
