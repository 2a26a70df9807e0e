"""Shell commands on a terminal of some width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from support.forkserver import shared_server
from support.processes import ROOT


class Terminal:
    """A shell command on a terminal, which may be still running."""

    def __init__(self, command: str, folder: Path, columns: int = 80, real: bool = False) -> None:
        """Start it in the root of the repository.

        Args:
            command: of bash.
            folder: where the command ``e2v`` is written.
            columns: of the terminal.
            real: whether ``e2v`` is a process of its own, which Ctrl-C reaches, instead of a fork.
        """
        own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        program = folder / "bin" / "e2v"
        shared_server().write_command(program)
        if real:
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -m e2v_cli "$@"\n')
        variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        variables |= {"PATH": f"{folder / 'bin'}:{variables['PATH']}", "PYTHONPATH": str(ROOT)}
        self._own = own
        self._shown = b""
        self._process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=ROOT,
            env=variables,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def wait_for(self, text: str) -> None:
        """Read until the terminal has shown a text."""
        while text not in self._shown.decode(errors="replace"):
            part = self._read()
            assert part, f"it ended: {self._shown!r}"

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._own, b"\x03")

    def finish(self) -> tuple[int, str]:
        """Read to the end: the exit code of the command, and all that the terminal was sent, without its CR LF."""
        while self._read():
            pass
        os.close(self._own)
        return self._process.wait(timeout=60), self._shown.decode().replace("\r\n", "\n")

    def _read(self) -> bytes:
        try:
            part = os.read(self._own, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            return b""
        self._shown += part
        return part


def screen(shown: str) -> list[str]:
    """Return the lines that a terminal is left with: after a carriage return, a line is written over."""
    lines = []
    for line in shown.split("\n"):
        cells: list[str] = []
        for part in re.split(r"\r", line):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines
