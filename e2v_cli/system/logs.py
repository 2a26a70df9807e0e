"""Logging set-up: standard error, and a file for each process in OUT."""

from __future__ import annotations

import logging
from pathlib import Path

_PACKAGE = logging.getLogger("e2v_cli")


def log_to_stderr(level: int) -> None:
    """Log to standard error what is at least at this level."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("e2v: %(message)s"))
    _add(handler, level)


def log_to_file(path: Path) -> None:
    """Append the log, from level INFO, to a file."""
    path.parent.mkdir(exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _add(handler, logging.INFO)


def _add(handler: logging.Handler, level: int) -> None:
    handler.setLevel(level)
    _PACKAGE.setLevel(logging.INFO)
    _PACKAGE.addHandler(handler)
    _PACKAGE.propagate = False  # upstream gives the root logger a handler of its own
    logging.raiseExceptions = False  # a full disk is reported for results, not for every line of a log
