"""Ids are found by their hashes, and equal hashes are listed."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from e2v_cli.corpus.ids import KeyIndex, digest_of, hash_keys


def hashes(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def test_find_returns_positions_of_keys() -> None:
    keys = [b"z", b"my%20call", "ü".encode(), b"a", b""]
    index = KeyIndex(hash_keys(keys))

    assert len(index) == 5
    assert index.find(hash_keys(keys)).tolist() == [0, 1, 2, 3, 4]
    assert index.find(hash_keys([b"a", b"z", b"a"])).tolist() == [3, 0, 3]


def test_absent_keys_have_position_minus_one() -> None:
    index = KeyIndex(hashes(5, -7, 11))

    below, between, above = -8, 6, 12
    assert index.find(hashes(below, 5, between, 11, above, -7)).tolist() == [-1, 0, -1, 2, -1, 1]


@pytest.mark.parametrize("value", [-(2**63), -1, 0, 2**63 - 1])
def test_hashes_use_all_64_bits(value: int) -> None:
    index = KeyIndex(hashes(3, value, 4))

    assert index.find(hashes(value, 3, 4)).tolist() == [1, 0, 2]


def test_no_keys_give_no_positions() -> None:
    assert KeyIndex(hashes(1, 2)).find(hash_keys([])).tolist() == []


def test_empty_index_finds_no_keys() -> None:
    assert KeyIndex(hashes()).find(hashes(1, 2)).tolist() == [-1, -1]
    assert len(KeyIndex(hashes())) == 0


def test_all_of_100_000_keys_are_found() -> None:
    keys = [f"speaker{number % 97}-utt{number}".encode() for number in range(100_000)]
    shuffled = np.random.default_rng(0).permutation(len(keys))

    index = KeyIndex(hash_keys(keys))

    assert index.duplicates() == []
    np.testing.assert_array_equal(index.find(hash_keys(keys[position] for position in shuffled)), shuffled)
    assert (index.find(hash_keys(key + b"x" for key in keys)) == -1).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([1], []),
        ([3, 1, 2], []),
        ([7, 1, 7], [(0, 2)]),
        ([1, 9, 9, 1], [(1, 2), (0, 3)]),
        ([5, 5, 1, 5], [(0, 1), (1, 3)]),
        ([0, 0], [(0, 1)]),
    ],
)
def test_duplicates_are_pairs_ordered_by_the_later_position(values: list[int], expected: list[tuple[int, int]]) -> None:
    assert KeyIndex(hashes(*values)).duplicates() == expected


def test_many_duplicates_stay_in_order() -> None:
    same = [number for number in range(2000) if number % 3]
    index = KeyIndex(hashes(*(number if number % 3 == 0 else -1 for number in range(2000))))

    assert index.duplicates() == list(itertools.pairwise(same))
    assert index.find(hashes(-1)).tolist() == [1]


def test_first_of_duplicates_is_found() -> None:
    """The caller compares the ids themselves."""
    assert KeyIndex(hashes(4, 8, 8)).find(hashes(8, 4)).tolist() == [1, 0]


IDS = [b"a", b"my%20call", "ü".encode()]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_digest_is_that_of_ids_as_lines(size: int) -> None:
    """The size of chunks makes no difference."""
    chunks = [IDS[first : first + size] for first in range(0, 3, size)]

    assert digest_of(chunks, None) == hashlib.sha256("a\nmy%20call\nü\n".encode()).hexdigest()


def test_digest_includes_recording_groups() -> None:
    """As little-endian 64-bit integers, on every machine."""
    content = "a\nmy%20call\nü\n".encode() + b"\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"

    digest = digest_of([IDS], hashes(0, 1, 0))

    assert digest == digest_of([IDS], hashes(0, 1, 0).astype(">i8")) == hashlib.sha256(content).hexdigest()
    assert len({digest, digest_of([IDS], None), digest_of([IDS], hashes(0, 1, 1))}) == 3
