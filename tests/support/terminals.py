"""Shell commands on a terminal of some width, in which ``e2v`` is forked."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

from support.forkserver import shared_server
from support.processes import ROOT


class Terminal:
    """A shell command on a terminal, which may be still running."""

    def __init__(self, command: str, folder: Path, columns: int = 80, **environment: str) -> None:
        """Start it in the root of the repository.

        Args:
            command: of bash; ``e2v`` is forked.
            folder: where the command ``e2v`` is written.
            columns: of the terminal.
            environment: more variables.
        """
        own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        shared_server().write_command(folder / "bin" / "e2v")
        variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        variables |= {"PATH": f"{folder / 'bin'}:{variables['PATH']}", "PYTHONPATH": str(ROOT), **environment}
        self._own = own
        self._shown = b""
        self._process = subprocess.Popen(
            ["bash", "-c", command], cwd=ROOT, env=variables, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)

    def wait_for(self, text: str) -> None:
        """Read until the terminal has shown a text."""
        while text not in self._shown.decode(errors="replace"):
            part = self._read()
            assert part, f"it ended: {self._shown!r}"

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
