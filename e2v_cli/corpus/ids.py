"""Ids by the ten million: 64-bit hashes in NumPy arrays instead of strings in dictionaries.

Hashes are Python's own of bytes, keyed at random in each process, so no list can be made to collide. By chance two of
ten million collide in one run of 400,000; so a look-up is confirmed by comparing the ids themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def hash_keys(keys: Iterable[bytes]) -> NDArray[np.int64]:
    """Hash keys: (keys,)."""
    return np.fromiter(map(hash, keys), dtype=np.int64)


def digest_of(ids: Iterable[Sequence[bytes]], recording_groups: NDArray[np.int64] | None) -> str:
    """Return the SHA-256 of a list: of its ids in order, and of its recording groups."""
    digest = hashlib.sha256()
    for keys in ids:
        digest.update(b"\n".join(keys) + b"\n")
    if recording_groups is not None:
        digest.update(recording_groups.astype("<i8").tobytes())
    return digest.hexdigest()


class KeyIndex:
    """The index of each key in a list: a sorted array of hashes, 12 bytes a key."""

    def __init__(self, hashes: NDArray[np.int64]) -> None:
        """Index (keys,) hashes."""
        order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[order]
        self._order = order.astype(np.int32 if len(hashes) < 2**31 else np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def find(self, hashes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find keys: (keys,) indices in the list, -1 where it has none."""
        if not len(self):
            return np.full(len(hashes), -1)
        positions = np.searchsorted(self._sorted, hashes)
        positions[positions == len(self._sorted)] = 0
        return np.where(self._sorted[positions] == hashes, self._order[positions], -1)

    def duplicates(self) -> list[tuple[int, int]]:
        """List pairs of indices with the same hash, the earlier one first, ordered by the later one."""
        same = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        pairs = zip(self._order[same].tolist(), self._order[same + 1].tolist(), strict=True)
        return sorted(pairs, key=lambda pair: pair[1])
