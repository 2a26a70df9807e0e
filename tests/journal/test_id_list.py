"""The ids and costs of a list, kept in a run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from e2v_cli.corpus.ids import KeyIndex, digest_of, hash_keys
from e2v_cli.errors import OutputError
from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.ids import IdList, read_costs, save_costs, save_ids, save_sources


class List:
    """The ids of a list, read a few at a time; with ``breaks`` the read fails in the middle."""

    def __init__(
        self, ids: Sequence[bytes], breaks: bool = False, recording_groups: Sequence[int] | None = None
    ) -> None:
        self._ids, self._breaks = ids, breaks
        self.index = KeyIndex(hash_keys(ids))
        self.recording_groups: NDArray[np.int64] | None = (
            None if recording_groups is None else np.array(recording_groups)
        )
        self.checksums: NDArray[np.uint32] | None = None
        self.digest = digest_of([ids], self.recording_groups)

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> Iterator[list[bytes]]:
        for first in range(0, len(self), 3):
            yield list(self._ids[first : first + 3])
            if self._breaks:
                raise OSError(5, "Input/output error")


IDS = List([b"z", b"my%20call", "ü\u2028".encode(), b"a", b"../x"])

SEGMENTS = List([b"a", b"b", b"c"], recording_groups=[0, 1, 0])
"""A list whose first and last utterances share a recording."""


def remove_other_ids(path: Path, digest: str) -> None:
    folder = RunFolder(path, (), ())
    folder.refresh()
    folder.remove_other_results((), (), digest)


def test_saved_ids_are_read_back(tmp_path: Path) -> None:
    save_ids(tmp_path, IDS)

    assert os.listdir(tmp_path) == [f"input.{IDS.digest[:16]}"]
    assert (tmp_path / f"input.{IDS.digest[:16]}").read_bytes() == "z\nmy%20call\nü\u2028\na\n../x\n".encode()
    found = IdList(tmp_path, IDS.digest)
    assert len(found) == 5
    assert found.digest == IDS.digest
    assert [utt_id for keys in found.ids() for utt_id in keys] == [utt_id for keys in IDS.ids() for utt_id in keys]
    assert found.index.find(hash_keys([b"a", b"nothing", b"z"])).tolist() == [3, -1, 0]


def test_ids_are_read_in_chunks(tmp_path: Path) -> None:
    ids = List([f"speaker{number % 97}-utt{number}".encode() for number in range(20_000)])
    save_ids(tmp_path, ids)

    found = IdList(tmp_path, ids.digest)

    chunks = list(found.ids())
    assert len(chunks) > 1
    assert max(map(len, chunks)) < 10_000
    assert [utt_id for keys in chunks for utt_id in keys] == [utt_id for keys in ids.ids() for utt_id in keys]


def test_recording_groups_are_saved_beside_the_ids(tmp_path: Path) -> None:
    save_ids(tmp_path, SEGMENTS)

    name = f"input.{SEGMENTS.digest[:16]}"
    assert sorted(os.listdir(tmp_path)) == [name, f"{name}.groups"]
    assert (tmp_path / name).read_bytes() == b"a\nb\nc\n"
    assert (tmp_path / f"{name}.groups").read_bytes() == b"\0" * 8 + b"\1" + b"\0" * 15
    found = IdList(tmp_path, SEGMENTS.digest)
    assert found.digest == SEGMENTS.digest
    assert found.recording_groups is not None
    assert found.recording_groups.tolist() == [0, 1, 0]


def test_list_of_whole_files_has_no_recording_groups(tmp_path: Path) -> None:
    """The same ids in segments are another list."""
    whole = List([b"a", b"b", b"c"])
    for ids in (SEGMENTS, whole):
        save_ids(tmp_path, ids)

    assert whole.digest != SEGMENTS.digest
    assert IdList(tmp_path, whole.digest).recording_groups is None
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("content", [None, b"", b"\0" * 8 + b"\1" + b"\0" * 14, b"\1" + b"\0" * 23, b"\0" * 32])
def test_damaged_or_missing_recording_groups_name_the_id_file(content: bytes | None, tmp_path: Path) -> None:
    """Removing the ids, as the message says, restores both."""
    save_ids(tmp_path, SEGMENTS)
    path = tmp_path / f"input.{SEGMENTS.digest[:16]}"
    recording_groups = path.with_name(f"{path.name}.groups")
    if content is None:
        recording_groups.unlink()
    else:
        recording_groups.write_bytes(content)

    message = f"{path}: damaged; remove it, and run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        IdList(tmp_path, SEGMENTS.digest)

    path.unlink()
    save_ids(tmp_path, SEGMENTS)
    assert IdList(tmp_path, SEGMENTS.digest).digest == SEGMENTS.digest


def test_recording_groups_are_saved_before_the_ids(tmp_path: Path) -> None:
    """A file of ids implies a file of recording groups."""
    name = f"input.{SEGMENTS.digest[:16]}"
    (tmp_path / f"{name}.groups").mkdir()

    with pytest.raises(IsADirectoryError):
        save_ids(tmp_path, SEGMENTS)

    assert os.listdir(tmp_path) == [f"{name}.groups"]


def test_existing_ids_are_not_rewritten(tmp_path: Path) -> None:
    """Concurrent readers are not disturbed."""
    save_ids(tmp_path, IDS)
    before = (tmp_path / f"input.{IDS.digest[:16]}").stat()
    save_ids(tmp_path, IDS)
    save_ids(tmp_path, List([b"another"]))

    assert (tmp_path / f"input.{IDS.digest[:16]}").stat() == before
    assert len(os.listdir(tmp_path)) == 2


def test_failed_write_leaves_no_ids(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error: "):
        save_ids(tmp_path, List([b"a", b"b", b"c", b"d"], breaks=True))

    assert os.listdir(tmp_path) == []


def test_missing_ids_are_named(tmp_path: Path) -> None:
    message = f"{tmp_path}/input.{IDS.digest[:16]}: No such file or directory; run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        IdList(tmp_path, IDS.digest)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"z\nmy%20call\n",
        "z\nmy%20call\nü\u2028\na\n../x".encode(),
        "z\nmy%20call\nü\u2028\na\n../y\n".encode(),
        "z\nmy%20call\nü\u2028\na\n../x\n\n".encode(),
        "my%20call\nz\nü\u2028\na\n../x\n".encode(),
        "z\r\nmy%20call\r\nü\u2028\r\na\r\n../x\r\n".encode(),
    ],
)
def test_damaged_ids_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"input.{IDS.digest[:16]}"
    path.write_bytes(content)

    message = f"{path}: damaged; remove it, and run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        IdList(tmp_path, IDS.digest)


def test_ids_of_other_lists_are_removed(tmp_path: Path) -> None:
    """Files with similar names stay."""
    for ids in (IDS, List([b"another"])):
        save_ids(tmp_path, ids)
    theirs = ["input.scp", "input.txt", "input.0123456789abcdef.bak", "input.0123456789ABCDEF", "inputs"]
    for name in theirs:
        (tmp_path / name).touch()

    remove_other_ids(tmp_path, IDS.digest)

    assert sorted(os.listdir(tmp_path)) == sorted([f"input.{IDS.digest[:16]}", *theirs])


def test_recording_groups_of_other_lists_are_removed(tmp_path: Path) -> None:
    for ids in (IDS, SEGMENTS):
        save_ids(tmp_path, ids)
    own = f"input.{SEGMENTS.digest[:16]}"

    remove_other_ids(tmp_path, SEGMENTS.digest)
    assert sorted(os.listdir(tmp_path)) == [own, f"{own}.groups"]
    save_ids(tmp_path, IDS)
    remove_other_ids(tmp_path, IDS.digest)
    assert os.listdir(tmp_path) == [f"input.{IDS.digest[:16]}"]


def test_saved_costs_are_read_back(tmp_path: Path) -> None:
    costs = np.array([1.5, 0.0, 3.25, 1e9, 7.0], np.float32)
    save_costs(tmp_path, IDS.digest, costs)

    assert os.listdir(tmp_path) == [f"input.{IDS.digest[:16]}.costs"]
    assert (tmp_path / f"input.{IDS.digest[:16]}.costs").read_bytes() == costs.astype("<f4").tobytes()
    found = read_costs(tmp_path, IDS)
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == [1.5, 0.0, 3.25, 1e9, 7.0]


def test_costs_of_another_list_are_ignored(tmp_path: Path) -> None:
    save_costs(tmp_path, SEGMENTS.digest, np.ones(3, np.float32))

    assert read_costs(tmp_path, IDS) is None


def test_costs_are_replaced_atomically(tmp_path: Path) -> None:
    """Shards that begin at the same time may all write them."""
    path = tmp_path / f"input.{IDS.digest[:16]}.costs"
    save_costs(tmp_path, IDS.digest, np.zeros(5, np.float32))
    with path.open("rb") as old:
        save_costs(tmp_path, IDS.digest, np.ones(5, np.float32))

        assert old.read() == bytes(20)
    found = read_costs(tmp_path, IDS)
    assert found is not None
    assert found.tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("costs", [[], [1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, np.nan, 1, 1], [1, 1, 1, 1, np.inf]])
def test_damaged_costs_are_named(costs: list[float], tmp_path: Path) -> None:
    path = tmp_path / f"input.{IDS.digest[:16]}.costs"
    np.array(costs, "<f4").tofile(path)

    message = f"{path}: damaged; remove it, and run all shards again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        read_costs(tmp_path, IDS)


def test_unreadable_costs_are_named(tmp_path: Path) -> None:
    path = tmp_path / f"input.{IDS.digest[:16]}.costs"
    path.mkdir()

    message = f"{path}: Is a directory; what is done is safe, run the same command again"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        read_costs(tmp_path, IDS)


def test_costs_of_other_lists_are_removed(tmp_path: Path) -> None:
    for ids in (IDS, SEGMENTS):
        save_ids(tmp_path, ids)
        save_costs(tmp_path, ids.digest, np.ones(len(ids), np.float32))
    own = f"input.{SEGMENTS.digest[:16]}"

    remove_other_ids(tmp_path, SEGMENTS.digest)

    assert sorted(os.listdir(tmp_path)) == [own, f"{own}.costs", f"{own}.groups"]


def test_checksums_of_sources_are_read_with_the_ids(tmp_path: Path) -> None:
    """Without them, results of all sources count."""
    save_ids(tmp_path, IDS)
    assert IdList(tmp_path, IDS.digest).checksums is None
    checksums = np.array([0, 1, 2**32 - 1, 7, 7], np.uint32)

    save_sources(tmp_path, IDS.digest, checksums)
    path = tmp_path / f"input.{IDS.digest[:16]}.sources"
    assert path.stat().st_size == 20
    saved = IdList(tmp_path, IDS.digest).checksums
    assert saved is not None
    assert saved.tolist() == checksums.tolist()
    before = path.stat().st_ino
    save_sources(tmp_path, IDS.digest, checksums)
    assert path.stat().st_ino == before
    save_sources(tmp_path, IDS.digest, checksums[::-1])
    assert path.stat().st_ino != before

    save_sources(tmp_path, IDS.digest, None)
    save_sources(tmp_path, IDS.digest, None)
    assert IdList(tmp_path, IDS.digest).checksums is None


def test_damaged_checksums_of_sources_are_refused(tmp_path: Path) -> None:
    save_ids(tmp_path, IDS)
    save_sources(tmp_path, IDS.digest, np.zeros(4, np.uint32))

    path = tmp_path / f"input.{IDS.digest[:16]}.sources"
    message = f"{path}: damaged; remove it, and run e2v predict again to go on"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        IdList(tmp_path, IDS.digest)
