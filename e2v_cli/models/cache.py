"""e2v's own cache: its folder, and the state of a file, which tells whether it has changed."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of the cache: ``$E2V_CACHE``, else ``e2v`` in the user's cache; it may not exist yet."""
    if own := os.environ.get("E2V_CACHE"):
        return Path(own).absolute()
    from platformdirs import user_cache_path  # six modules that few starts need

    with suppress(RuntimeError):  # of newer versions for a user without a home; older ones leave the ~ as it is
        folder = user_cache_path("e2v", appauthor=False)
        if folder.parts[0] != "~":
            return folder.absolute()
    return Path(os.devnull, "e2v")  # in a container perhaps: nothing can be kept there


@dataclass(frozen=True)
class FileState:
    """The state of a file, which changes whenever its content does.

    ``changed`` (ctime) is the kernel's own clock: unlike the time of modification, it can't be set back.
    """

    size: int
    modified: int
    """Time of modification in nanoseconds; ``changed`` has the same unit."""
    changed: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Read the state of a file.

        Raises:
            OSError: the file can't be found or reached.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: the file can't be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
