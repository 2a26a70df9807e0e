"""e2v's own cache: where it is, and whether a file is still the one that it was."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


def cache_folder() -> Path:
    """Say where the cache is: ``$E2V_CACHE``, else ``e2v`` in the user's cache; it need not exist."""
    if own := os.environ.get("E2V_CACHE"):
        return Path(own).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "e2v").absolute()
    except RuntimeError:  # a user without a home, in a container perhaps: nothing can be kept there
        return Path(os.devnull, "e2v")


@dataclass(frozen=True)
class FileState:
    """What changes when a file does.

    ``changed`` (ctime) is the kernel's own clock: unlike the time of modification, nobody can set it back.
    """

    size: int
    modified: int
    """Nanoseconds, as ``changed`` is."""
    changed: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Look at a file.

        Raises:
            OSError: it can't be looked at.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it can't be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
