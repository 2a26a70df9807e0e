"""Files in OUT about the list of a run, for merging, status and dealing: ids, checksums of sources, costs, tiers."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.ids import KeyIndex, digest_of
from e2v_cli.errors import OutputError
from e2v_cli.options import Fingerprint
from e2v_cli.records import Tier
from e2v_cli.system.files import exists, published

IDS_PATTERNS = tuple("input." + "[0-9a-f]" * 16 + suffix for suffix in ("", ".groups", ".costs", ".sources", ".tiers"))
"""Patterns of the names of files that keep ids, recording groups, costs, sources and tiers of a list."""


DIARISATION_FILES = ("segments", "utt2spk")
"""Lists in Kaldi's form that a run with a diarisation writes; in other runs, files of these names are the user's."""

PROBE_FILES = ("folds.tsv", "probe.json")
"""Files that ``e2v probe eval`` writes beside its results; in other runs, files of these names are the user's."""


def names_beside(fingerprint: Fingerprint) -> tuple[str, ...]:
    """Return the names of the files that a run has beside its results."""
    if "probe" in fingerprint:  # which has the diarisation of its embeddings, not its lists
        return PROBE_FILES
    return DIARISATION_FILES if fingerprint.get("segments-rttm") == "yes" else ()


class Ids(Protocol):
    """The ids of a list, in order."""

    index: KeyIndex

    @property
    def recording_groups(self) -> NDArray[np.int64] | None:
        """(utterances,) numbers of recording groups, which are decoded together; None: each utterance is a group."""

    @property
    def digest(self) -> str:
        """The SHA-256 of ids and recording groups."""

    @property
    def checksums(self) -> NDArray[np.uint32] | None:
        """(utterances,): checksums of the sources; None if unknown."""

    def __len__(self) -> int: ...

    def ids(self) -> Iterator[list[bytes]]:
        """Read the ids, some thousand at a time."""


class IdList:
    """The ids of a list and the checksums of its sources, as they are in OUT, for processes without the list."""

    def __init__(self, output_dir: Path, digest: str) -> None:
        """Open and check the files of a list.

        Raises:
            OutputError: the files are missing or damaged.
        """
        self.digest = digest
        self.recording_groups: NDArray[np.int64] | None = None
        self._path = _ids_path(output_dir, digest)
        hashes = array("q")
        try:
            with suppress(FileNotFoundError):
                self.recording_groups = np.fromfile(_groups_path(self._path), dtype="<i8")
            self.checksums = read_sources(output_dir, digest)
            found = digest_of(self._hashed_ids(hashes), self.recording_groups)
        except OSError as error:
            raise OutputError(f"{self._path}: {error.strerror}; run e2v predict again to go on") from None
        if found != digest:
            raise OutputError(f"{self._path}: damaged; remove it, and run e2v predict again to go on")
        if self.checksums is not None and len(self.checksums) != len(hashes):
            path = _sources_path(self._path)
            raise OutputError(f"{path}: damaged; remove it, and run e2v predict again to go on")
        self.index = KeyIndex(np.frombuffer(hashes, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.index)

    def _hashed_ids(self, hashes: array[int]) -> Iterator[list[bytes]]:
        """Read the ids, and collect their hashes."""
        for keys in self.ids():
            hashes.extend(map(hash, keys))
            yield keys

    def ids(self) -> Iterator[list[bytes]]:
        """Read the ids, some thousand at a time."""
        return _read_lines(self._path)


def read_ids(output_dir: Path, digest: str) -> Iterator[list[bytes]]:
    """Read the ids of a list, some thousand at a time, without a check that they are whole.

    Raises:
        OSError: they can't be read.
    """
    return _read_lines(_ids_path(output_dir, digest))


def _read_lines(path: Path) -> Iterator[list[bytes]]:
    with path.open("rb") as file:
        while lines := file.readlines(1 << 16):
            yield [line[:-1] for line in lines]


def save_ids(output_dir: Path, ids: Ids) -> None:
    """Write the ids of a list to OUT, under a name made of their digest."""
    path = _ids_path(output_dir, ids.digest)
    if exists(path):
        return
    if ids.recording_groups is not None:
        with published(_groups_path(path)) as file:
            file.write(ids.recording_groups.astype("<i8").tobytes())
    with published(path) as file:
        file.writelines(b"\n".join(keys) + b"\n" for keys in ids.ids())


def read_sources(output_dir: Path, digest: str) -> NDArray[np.uint32] | None:
    """Read the checksums of a list's sources: (utterances,); None if results of all sources count."""
    try:
        return np.fromfile(_sources_path(_ids_path(output_dir, digest)), dtype="<u4")
    except FileNotFoundError:
        return None


def save_sources(output_dir: Path, digest: str, checksums: NDArray[np.uint32] | None) -> None:
    """Write the checksums of a list's sources to OUT, so that all processes count the same results; None: all count."""
    path = _sources_path(_ids_path(output_dir, digest))
    if checksums is None:
        path.unlink(missing_ok=True)
        return
    saved = read_sources(output_dir, digest)
    if saved is None or not np.array_equal(saved, checksums):
        with published(path) as file:
            file.write(np.ascontiguousarray(checksums, "<u4").data)


def digest_sources(checksums: NDArray[np.uint32]) -> str:
    """Return the SHA-256 of the checksums of a list's sources, in order."""
    return hashlib.sha256(np.ascontiguousarray(checksums, "<u4").data).hexdigest()


def save_costs(output_dir: Path, digest: str, costs: NDArray[np.float32]) -> None:
    """Write the costs for dealing a list to shards to OUT, so that all processes deal it alike."""
    with published(_costs_path(_ids_path(output_dir, digest))) as file:
        file.write(costs.astype("<f4").tobytes())


def read_costs(output_dir: Path, ids: Ids) -> NDArray[np.float32] | None:
    """Read the costs for dealing a list to shards: (utterances,); None if all are equal.

    Raises:
        OutputError: they can't be read.
    """
    path = _costs_path(_ids_path(output_dir, ids.digest))
    try:
        costs = np.fromfile(path, dtype="<f4").astype(np.float32)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError.of(error) from None
    if len(costs) != len(ids) or not np.isfinite(costs).all():
        raise OutputError(f"{path}: damaged; remove it, and run all shards again to go on")
    return costs


def save_tiers(output_dir: Path, digest: str, tiers: Iterable[Tier | None]) -> None:
    """Write the tier of each utterance of a list in the timeline of its recording to OUT; None: a recording itself."""
    with published(_tiers_path(_ids_path(output_dir, digest))) as file:
        for tier in tiers:
            channel = "" if tier is None or tier.channel is None else str(tier.channel)
            file.write(b"\n" if tier is None else f"{channel}\t{tier.speaker}\n".encode())


def read_tiers(output_dir: Path, digest: str) -> Iterator[Tier | None]:
    """Read the tiers of a list's utterances, in order; each is None if none were saved."""
    try:
        file = _tiers_path(_ids_path(output_dir, digest)).open("rb")
    except FileNotFoundError:
        yield from repeat(None)
        return
    with file:
        for line in file:
            channel, tab, speaker = line.decode().removesuffix("\n").partition("\t")
            yield Tier(int(channel) if channel else None, speaker) if tab else None


def digest_tiers(output_dir: Path, digest: str) -> str | None:
    """Return the SHA-256 of the tiers of a list's utterances; None if none were saved."""
    try:
        return hashlib.sha256(_tiers_path(_ids_path(output_dir, digest)).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def names_of_ids(digest: str) -> frozenset[str]:
    """Return the names of the files of a list in a run folder."""
    name = _ids_path(Path(), digest).name
    return frozenset((name, f"{name}.costs", f"{name}.groups", f"{name}.sources", f"{name}.tiers"))


def _ids_path(output_dir: Path, digest: str) -> Path:
    return output_dir / f"input.{digest[:16]}"


def _groups_path(ids_path: Path) -> Path:
    return ids_path.with_name(f"{ids_path.name}.groups")


def _sources_path(ids_path: Path) -> Path:
    return ids_path.with_name(f"{ids_path.name}.sources")


def _costs_path(ids_path: Path) -> Path:
    return ids_path.with_name(f"{ids_path.name}.costs")


def _tiers_path(ids_path: Path) -> Path:
    return ids_path.with_name(f"{ids_path.name}.tiers")
