"""Kaldi archives with vectors at given offsets."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import kaldiio
import numpy as np


def write_archive(path: Path, *offsets: int) -> None:
    """Write an archive with a vector at each offset."""
    record = BytesIO()
    kaldiio.save_ark(record, {"k": np.ones(4, np.float32)})
    with path.open("wb") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(record.getvalue()[2:])  # the offset of a vector is behind its key
