"""The start of worker processes: on CPUs forked from the template, if the system has what that needs, else spawned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from e2v_cli.system.process import adopt_orphans
from e2v_cli.workers.template import Template, WorkerRequest, spawn
from e2v_cli.workers.worker import WorkerSetup, load_for_worker, run_worker


class Starter:
    """Starts the workers of a run, one for each device."""

    def __init__(self, setup: WorkerSetup, devices: Sequence[str], template: Template | None) -> None:
        """Use a template that was started before, or start one when it is needed."""
        self._setup = setup
        self.devices = devices
        self._template = template
        # A GPU can't be used in a fork of a process that has used one.
        self._forks = devices[0] == "cpu" and adopt_orphans()

    @property
    def num_at_once(self) -> int:
        """Workers to be started before any is ready: more forked ones would only wait for the engine of the first."""
        return 1 if self._forks else len(self.devices)

    def start(self, number: int) -> tuple[BaseProcess, Connection]:
        """Start the worker on a device, counted from 1; return the process that it begins in, and the pipe to it."""
        template = self._find_template() if self._forks else None
        here, there = Pipe()
        with there:
            if template is not None:
                return template.fork(WorkerRequest(self._setup, number, len(self.devices) == 1), there), here
            load = partial(load_for_worker, self._setup, self.devices[number - 1])
            return spawn(run_worker, there, self._setup, number, load), here

    def close(self) -> None:
        """Kill the template."""
        if self._template is not None:
            self._template.close()

    def _find_template(self) -> Template:
        """Return the template, or start one if there is none, or the last one has ended."""
        if self._template is not None and not self._template.process.is_alive():
            self.close()
            self._template = None
        self._template = self._template or Template()
        return self._template
