"""A long utterance that is not finished: the state after its windows so far, in OUT. A stopped run continues there.

``e2v --help`` reads the names of the files, so nothing here imports NumPy before it is needed.
"""

from __future__ import annotations

import hashlib
import logging
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from e2v_cli.system.files import exists, naming, published

if TYPE_CHECKING:
    from e2v_cli.inference.pooling import State
    from e2v_cli.system.spool import DiskArray

logger = logging.getLogger(__name__)

KEPT_FILES = ".windows.*"
"""The pattern of the files in OUT. They are removed when their utterance is done, or the run complete."""

KEEP_SECONDS = 10.0
"""Time of computing that a stopped run may lose, besides a window."""


class KeptWindows:
    """The state of one utterance."""

    def __init__(self, output_dir: Path, utt_id: str, made_of: str) -> None:
        """Read nothing yet.

        Args:
            output_dir: OUT, whose results all have the same options, but for lengths of spans.
            utt_id: the utterance.
            made_of: text that identifies the samples and the lengths of spans; a state of others is ignored.
        """
        self._output_dir = output_dir
        self._state_path = _state_path(output_dir, utt_id)
        self._utt_id, self._made_of = utt_id, made_of
        self._kept_at = time.monotonic()

    def frames_path(self, number: int) -> Path:
        """Return the file of the frames of one of the layers that are embedded, by its number from 0."""
        return _frames_path(self._output_dir, self._utt_id, number)

    def load(self, frames: Sequence[DiskArray]) -> tuple[int, State]:
        """Return how many windows are done, and the state after them; 0 and nothing without a usable state.

        Args:
            frames: all frames of these windows, from each ``frames_path``, which are cut to those of the state.
        """
        import numpy as np

        num_windows, state = 0, {}
        try:
            with self._state_path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                state = dict(arrays)
            num_windows, made_of = int(state.pop("windows")), str(state.pop("made_of"))
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            logger.debug("no state of earlier windows: %s", error)
            made_of = ""
        if made_of != self._made_of or any(len(rows) < state["count"] for rows in frames):
            num_windows, state = 0, {}
        for rows in frames:
            rows.truncate(int(state["count"]) if state else 0)
        if num_windows:
            logger.info("%s continues after window %d", self._utt_id, num_windows)
        return num_windows, state

    def is_due(self) -> bool:
        """Whether the time has come to keep a state."""
        return time.monotonic() - self._kept_at >= KEEP_SECONDS

    def keep(self, num_windows: int, state: State, frames: Sequence[DiskArray]) -> None:
        """Write the state after ``num_windows`` windows durably, after their frames.

        Raises:
            OSError: it can't be written.
        """
        import numpy as np

        for number, rows in enumerate(frames):
            with naming(self.frames_path(number)):
                rows.sync()
        arrays = {**state, "windows": np.array(num_windows), "made_of": np.array(self._made_of)}
        with published(self._state_path) as file:
            np.savez(file, allow_pickle=False, **arrays)
        self._kept_at = time.monotonic()


def forget_windows(output_dir: Path, utt_id: str, num_embeddings: int) -> None:
    """Remove the state of an utterance whose results, with embeddings of so many layers, are on disk."""
    _state_path(output_dir, utt_id).unlink(missing_ok=True)
    for number in range(num_embeddings):
        _frames_path(output_dir, utt_id, number).unlink(missing_ok=True)


def has_kept_windows(output_dir: Path, utt_id: str, since: Path) -> bool:
    """Whether windows of an utterance were kept since a file of OUT was last written."""
    path = _state_path(output_dir, utt_id)
    return exists(path) and path.stat().st_mtime_ns > since.stat().st_mtime_ns


def _state_path(output_dir: Path, utt_id: str) -> Path:
    return output_dir / f".windows.{_digest_id(utt_id)}.npz"


def _frames_path(output_dir: Path, utt_id: str, number: int) -> Path:
    return output_dir / f".windows.{_digest_id(utt_id)}.{number}.frames"


def _digest_id(utt_id: str) -> str:
    return hashlib.sha256(utt_id.encode(errors="surrogateescape")).hexdigest()[:16]
