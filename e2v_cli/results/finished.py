"""The results of a run, finished or not, from its journals, in input order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.journal.history import DoneLine, parse_done
from e2v_cli.journal.ids import IdList
from e2v_cli.journal.journal import DONE, LEFT
from e2v_cli.results.publish import open_run_folder


class FinishedRows:
    """The results of a run that are done at the moment."""

    def __init__(self, output_dir: Path) -> None:
        """Read the journals.

        Raises:
            OutputError: there is no run, or it can't be read.
        """
        folder = open_run_folder(output_dir)
        folder.refresh()
        self.output_dir = output_dir
        self.header = folder.find_run().header
        self.ids = IdList(output_dir, self.header.input_sha256)
        self.history = folder.read_history(self.ids)
        self.is_done = self.history.status == DONE
        """(utterances,): whether each is done."""
        self.left = int((self.history.status == LEFT).sum())
        self.failed = len(self.ids) - int(self.is_done.sum()) - self.left

    def lines(self, chosen: NDArray[np.bool_] | None = None) -> Iterator[list[DoneLine]]:
        """Read the done lines, some thousand at a time.

        Args:
            chosen: (utterances,) whether to read the line of each that is done; None: all.
        """
        chosen = self.is_done if chosen is None else self.is_done & chosen
        with self.history.reading():
            first = 0
            for keys in self.ids.ids():
                end = first + len(keys)
                lines = zip(self.history.read_lines(first, end), chosen[first:end].tolist(), strict=True)
                yield [parse_done(line) for line, is_chosen in lines if is_chosen]
                first = end

    def describe_missing(self) -> str:
        """Describe the utterances that have no row; empty if all have one."""
        if not self.failed and not self.left:
            return ""
        done, total = int(self.is_done.sum()), len(self.ids)
        return f"{self.output_dir}: {done} of {total} utterances are done, {self.failed} failed, {self.left} left"
