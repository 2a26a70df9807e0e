"""Stand-ins for commands, which record their arguments."""

from __future__ import annotations

import os
from pathlib import Path


def write_command(commands: Path, name: str, script: str = "") -> None:
    """Make a command that records its arguments, each ended by a zero byte, and then runs some lines of sh."""
    path = commands / name
    path.write_text(f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >> "$0.words"\n{script}\n')
    path.chmod(0o755)


def words_of(commands: Path, name: str) -> list[str]:
    """Read the arguments of all calls of a command together; none if there was no call."""
    try:
        return os.fsdecode((commands / f"{name}.words").read_bytes()).split("\0")[:-1]
    except FileNotFoundError:
        return []
