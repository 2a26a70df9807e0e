"""The template: a process that loads the engine once, computes nothing with it, and forks into the workers of CPUs.

Workers share what they don't change: PyTorch, the model and its packed weights. A forked one is ready at once. The
launcher is the parent of the workers as well as of the template: how each of them ends is known to the launcher, and
the end of the template ends no worker. The standard library's fork server has neither of these properties, imports
modules but takes no arguments, and keeps its client waiting, deaf to signals, until it has done so.

This module imports nothing that takes long, so that the template can be started first, and imports PyTorch while the
launcher imports its own modules and reads its lists.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe, reduction, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from e2v_cli.errors import OutputError
from e2v_cli.system.drivers import is_certainly_cpu
from e2v_cli.system.process import adopt_orphans, follow_parent, fork_sibling
from e2v_cli.system.signals import STOP_SIGNALS, StopInterrupt, StopSignals

if TYPE_CHECKING:
    from e2v_cli.inference.engine import Engine
    from e2v_cli.workers.worker import WorkerSetup


@dataclass(frozen=True)
class WorkerRequest:
    """A request for a worker."""

    setup: WorkerSetup
    """Set-up of the worker; the engine is loaded by the set-up of the first request."""
    number: int
    alone: bool
    """Whether the worker is the only one: then the template itself becomes the worker."""


class Template:
    """The template process, as the launcher sees it."""

    def __init__(self) -> None:
        """Start the process."""
        self._requests, there = Pipe()
        with there:
            self.process = spawn(run_template, there)

    def fork(self, request: WorkerRequest, connection: Connection) -> BaseProcess:
        """Request a worker, which talks through ``connection``; return the process that it begins in."""
        with suppress(OSError):  # if the process has ended, none holds the connection any more
            self._requests.send(request)
            reduction.send_handle(self._requests, connection.fileno(), self.process.pid)
        return self.process

    def close(self) -> None:
        """Kill the process, without waiting for its end."""
        self._requests.close()
        self.process.kill()


@contextmanager
def started_template(device: str, stop: StopSignals) -> Iterator[Template | None]:
    """Start a template, and kill it when the block ends; None unless ``--device`` means the CPU for certain.

    Args:
        device: the option.
        stop: the signals.

    Raises:
        StopInterrupt: a signal arrived meanwhile.
    """
    template = None
    try:
        with stop.noted():
            if is_certainly_cpu(device) and adopt_orphans():
                template = Template()
        if stop.received:
            raise StopInterrupt
        yield template
    finally:
        if template is not None:
            template.close()
            template.process.join()


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


def run_template(requests: Connection) -> None:
    """Run the template process, and in its forks the workers, each of which returns from here when it ends.

    The template itself becomes the worker if that is alone, or the engine can't be loaded, which the worker reports.
    """
    follow_parent()
    engine: Engine | Exception | None = None
    try:
        from e2v_cli.inference.load import prepare_process

        prepare_process("cpu")
    except Exception as error:
        engine = error
    for request, connection in _receive(requests):
        from e2v_cli.workers.worker import run_worker

        engine = engine or _load(request.setup)
        if request.alone or isinstance(engine, Exception) or _become_worker(connection):
            requests.close()
            run_worker(connection, request.setup, request.number, partial(_hand_over, engine))
            return


def _receive(requests: Connection) -> Iterator[tuple[WorkerRequest, Connection]]:
    """Receive requests until there are no more, and close the connection of each after its use."""
    with suppress(EOFError, OSError):  # the launcher needs no more workers, or has ended
        while True:
            request = requests.recv()
            with Connection(reduction.recv_handle(requests)) as connection:
                yield request, connection


def _load(setup: WorkerSetup) -> Engine | Exception:
    """Load the engine, for forks; return the error if it can't be loaded."""
    from e2v_cli.workers.worker import load_for_worker

    try:
        return load_for_worker(setup, "cpu")
    except Exception as error:
        return error
    finally:
        gc.freeze()  # a collection would write to what is shared


def _hand_over(engine: Engine | Exception) -> Engine:
    """Return the engine, or raise the error of loading it."""
    if isinstance(engine, Exception):
        raise engine
    return engine


def _become_worker(connection: Connection) -> bool:
    """Fork a worker; return True in its process, after it has reported its pid."""
    from e2v_cli.workers.messages import Fatal, Started

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
