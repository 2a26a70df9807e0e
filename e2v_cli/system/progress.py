"""Progress on standard error: a bar on a terminal, a plain line every half minute elsewhere."""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TextIO

from tqdm import tqdm

ProgressStyle = Literal["bar", "lines", "none"]

LINE_SECONDS = 30.0
"""Seconds between two lines."""

INTERRUPTED = "^C"
"""Characters that a terminal shows for Ctrl-C at the cursor; a bar leaves room for them."""

_BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} utterances{postfix}, {elapsed} gone, {remaining} left"


class Progress:
    """A count of utterances and seconds of audio, which is shown as it grows."""

    def __init__(
        self, total: int, style: ProgressStyle, line_seconds: float = LINE_SECONDS, *, finished: int = 0
    ) -> None:
        """Start counting, up to ``total`` utterances, of which some were finished before."""
        self.total, self.style = total, style
        self.count, self.seconds = finished, 0.0
        self._finished = finished
        self.started = time.monotonic()
        self._line_seconds = line_seconds
        self._next_line = self.started + line_seconds
        columns = _count_columns() - len(INTERRUPTED) - 1
        self._bar = tqdm(
            total=total, initial=finished, bar_format=_BAR, disable=style != "bar", leave=False, ncols=columns
        )

    def advance(self, count: int, seconds: float) -> None:
        """Add utterances that are finished, and the seconds of audio of those that are done."""
        self.count += count
        self.seconds += seconds
        now = time.monotonic()
        speed = f"{self.seconds / max(now - self.started, 1e-9):.1f}× real time"
        self._bar.set_postfix_str(speed, refresh=False)
        self._bar.update(count)
        if self.style == "lines" and now >= self._next_line:
            self._next_line = now + self._line_seconds
            seconds_each = (now - self.started) / (self.count - self._finished)
            left = tqdm.format_interval(seconds_each * (self.total - self.count))
            percent = 100 * self.count // self.total
            sys.stderr.write(f"e2v: {self.count}/{self.total} utterances ({percent}%), {speed}, {left} left\n")

    def keep(self) -> None:
        """Leave the bar on the terminal, as it is, when it is closed."""
        self._bar.leave = True

    def close(self) -> None:
        """Remove the bar, unless it is to be kept."""
        self._bar.close()


def between_bars(stream: TextIO) -> AbstractContextManager[None]:
    """Take the bar off the terminal until the block ends, if the stream that is written to goes to one."""
    return tqdm.external_write_mode(file=stream) if stream.isatty() else nullcontext()


def choose_style(progress: bool | None, quiet: bool, rows: TextIO | None = None) -> ProgressStyle:
    """Choose how progress is shown on standard error.

    Args:
        progress: whether the user wants a bar; None: as it fits.
        quiet: whether only errors are shown.
        rows: the stream that results go to. On a terminal they are the progress. A program that reads them from a pipe
            may print them on the terminal where the bar is, so only whole lines are shown.
    """
    if progress is not None or quiet:
        return "bar" if progress else "none"
    if rows is not None and rows.isatty():
        return "none"
    return "bar" if sys.stderr.isatty() and not (rows is not None and _is_pipe(rows)) else "lines"


def _is_pipe(stream: TextIO) -> bool:
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _count_columns() -> int:
    """Return the width of the terminal on standard error; 80 without a terminal, or if the width is unknown."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
