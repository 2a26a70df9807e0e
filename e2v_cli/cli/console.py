"""Standard streams that may be closed, full, or left by their reader."""

from __future__ import annotations

import io
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from e2v_cli.errors import EXIT_TOO_MANY_FAILURES
from e2v_cli.system.text import counted, describe_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from e2v_cli.options import MaxFailures
    from e2v_cli.records import Summary


class _StandardError(io.TextIOWrapper):
    """Standard error that may have lost its reader or its disk: messages are dropped then."""

    def write(self, text: str) -> int:
        try:  # noqa: SIM105 — contextlib's suppress may be gone when the interpreter ends
            super().write(text)
        except OSError:
            pass
        return len(text)

    def flush(self) -> None:
        try:  # noqa: SIM105
            super().flush()
        except OSError:
            pass


def open_standard_streams() -> None:
    """Open closed standard streams on /dev/null, before another file gets their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    raw = open(2, "wb", closefd=False)  # noqa: SIM115 — for as long as the process lives
    sys.stderr = _StandardError(raw, errors="backslashreplace", line_buffering=True)


def print_result(text: str) -> None:
    """Write a command's result to standard output, file names byte by byte; its reader may be gone."""
    try:
        click.echo(text.encode(errors="surrogateescape"), nl=False)
    except BrokenPipeError:
        drop_standard_output()


@contextmanager
def printing_rows(file: Path | None = None) -> Iterator[None]:
    """Print rows to a file, or standard output, in the block, which ends when their reader has closed the pipe.

    Raises:
        UsageError: standard output is closed.
    """
    if sys.stdout is None and file is None:
        raise click.UsageError("Standard output is closed: rows have nowhere to go.")
    try:
        yield
    except BrokenPipeError:
        drop_standard_output()


def show_message(*messages: str) -> None:
    """Write messages to standard error, a line each."""
    for message in messages:
        click.echo(f"e2v: {message}", err=True)


def drop_standard_output() -> None:
    """Send standard output to /dev/null: Python would report an error when it flushes it at the end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_summary(summary: Summary) -> None:
    """Show how a run ended, in lines of at most 80 characters: counts, speed and time, and reasons of failures."""
    left = f", {summary.left} left" if summary.left else ""
    show_message(f"{counted(summary.input, 'utterance')}: {summary.done} done, {summary.failed} failed{left}")
    if summary.speed:
        audio, whole = describe_seconds(summary.audio_seconds), describe_seconds(summary.wall_seconds)
        show_message(f"{audio} of audio at {summary.speed:.1f}× real time; {whole} in all with the start")
    reasons = ", ".join(f"{reason.count} {reason.reason}" for reason in summary.reasons)
    for line in textwrap.wrap(f"failed: {reasons}" if reasons else "", 75):
        show_message(line)
    if summary.cause:
        show_message(summary.cause)


def judge_failures(summary: Summary, allowed: MaxFailures, reasons: str) -> int:
    """Return the exit code for the failures of a run; if they are too many, show where the reasons are."""
    if allowed.allows(summary.failed, summary.input):
        return 0
    show_message(f"{summary.failed} failed, more than --max-failures {allowed} allows: {reasons}")
    return EXIT_TOO_MANY_FAILURES
