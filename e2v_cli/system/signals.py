"""The signals that ask e2v to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopInterrupt(KeyboardInterrupt):
    """The first signal.

    After a plain KeyboardInterrupt out of ``exec``, by which dataclasses are made, Python ends by SIGINT although it
    was caught.
    """


class StopSignals:
    """The stop signals, and whether one has arrived.

    The first signal raises StopInterrupt, or is only recorded while workers are at work. Further signals have no
    effect.
    """

    def __init__(self) -> None:
        self.received = False
        """Whether a signal has arrived."""
        self.warned = False
        """Whether the last one was SIGUSR1, with which Slurm warns of a time limit a minute before."""
        self._interrupts = True

    def heed(self) -> None:
        """Handle the signals from now on."""
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._receive)

    def ignore(self) -> None:
        """Ignore them from now on."""
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Record signals in ``received`` without interrupting, until the block ends."""
        self._interrupts = False
        try:
            yield
        finally:
            self._interrupts = True

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        first, self.received = not self.received, True
        self.warned = signum == signal.SIGUSR1
        if first and self._interrupts:
            raise StopInterrupt
