"""Progress on standard error: a bar on a terminal, a plain line every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Literal

from tqdm import tqdm

ProgressStyle = Literal["bar", "lines", "none"]

LINE_SECONDS = 30.0
"""Seconds between two lines."""

_BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} utterances{postfix}, {elapsed} gone, {remaining} left"


class Progress:
    """A count of utterances and seconds of audio, which is shown as it grows."""

    def __init__(self, total: int, style: ProgressStyle, line_seconds: float = LINE_SECONDS) -> None:
        """Start counting, up to ``total`` utterances."""
        self.total, self.style = total, style
        self.count, self.seconds = 0, 0.0
        self.started = time.monotonic()
        self._line_seconds = line_seconds
        self._next_line = self.started + line_seconds
        self._bar = tqdm(total=total, bar_format=_BAR, disable=style != "bar", leave=False)

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
            left = tqdm.format_interval((now - self.started) / self.count * (self.total - self.count))
            percent = 100 * self.count // self.total
            sys.stderr.write(f"e2v: {self.count}/{self.total} utterances ({percent}%), {speed}, {left} left\n")

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def choose_style(progress: bool | None, quiet: bool, rows_on_terminal: bool) -> ProgressStyle:
    """Choose how progress is shown on standard error.

    Args:
        progress: whether the user wants a bar; None: as it fits.
        quiet: whether only errors are shown.
        rows_on_terminal: whether results go to a terminal, where a bar would stand between them.
    """
    if progress is None and not quiet and not rows_on_terminal:
        return "bar" if sys.stderr.isatty() else "lines"
    return "bar" if progress else "none"
