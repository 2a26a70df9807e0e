"""Arrays on disk are read back as written, in any parts; no file remains."""

from __future__ import annotations

import os
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from e2v_cli.system.spool import BLOCK_BYTES, DiskArray, DiskWaveform


def noise(*shape: int) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = np.random.default_rng(0).normal(0.1, 0.3, shape).astype(np.float32)
    return numbers


def filled(rows: NDArray[np.float32], *sizes: int, block_bytes: int = BLOCK_BYTES) -> DiskArray:
    """Make an array of rows, appended in parts of these sizes, then the rest."""
    array = DiskArray(rows.shape[1:], block_bytes=block_bytes)
    first = 0
    for size in (*sizes, len(rows)):
        array.append(rows[first : first + size])
        first += size
    return array


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Limit the size of files, like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("shape", [(0,), (1,), (1000,), (0, 4), (1, 1), (50, 96), (7, 2, 3)])
@pytest.mark.parametrize("sizes", [(), (1,), (3, 0, 2), (1, 1, 1, 1)])
def test_rows_are_read_as_they_were_appended(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    rows = noise(*shape)

    array = filled(rows, *sizes)

    assert (len(array), array.shape) == (len(rows), shape)
    assert array.read().dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(array.read(), rows)


@pytest.mark.parametrize("part", [slice(0, 3), slice(2, 2), slice(17, 30), slice(29, 99), slice(-5, None), slice(None)])
@pytest.mark.parametrize("shape", [(30,), (30, 5)])
def test_slices_match_those_of_an_array(part: slice, shape: tuple[int, ...]) -> None:
    rows = noise(*shape)

    np.testing.assert_array_equal(filled(rows, 11).read(part), rows[part])


def test_rows_may_be_read_between_appends() -> None:
    array = DiskArray((2,))
    rows = noise(6, 2)
    for number in range(6):
        np.testing.assert_array_equal(array.read(), rows[:number])
        array.append(rows[number : number + 1])

    np.testing.assert_array_equal(array.read(slice(1, 3)), rows[1:3])


@pytest.mark.parametrize(
    "rows", [noise(8, 6).T, noise(12, 8)[::2, ::2], noise(6, 4).astype(np.float64)], ids=["turned", "every other", "64"]
)
def test_rows_of_any_memory_layout_are_stored(rows: NDArray[np.float32]) -> None:
    array = DiskArray((rows.shape[1],))
    array.append(rows)

    np.testing.assert_array_equal(array.read(), rows.astype(np.float32))


@pytest.mark.parametrize(
    ("size", "lengths"), [(1, [1] * 7), (4 * 5, [1] * 7), (4 * 5 * 3, [3, 3, 1]), (4 * 5 * 7, [7]), (1 << 24, [7])]
)
def test_blocks_split_all_rows_by_size(size: int, lengths: list[int]) -> None:
    """A block has as many rows as fit its bytes, at least one."""
    rows = noise(7, 5)

    blocks = list(filled(rows, block_bytes=size).blocks())

    assert [len(block) for block in blocks] == lengths
    np.testing.assert_array_equal(np.concatenate(blocks), rows)


def test_empty_array_has_no_blocks() -> None:
    assert list(DiskArray((5,)).blocks()) == []


@pytest.mark.parametrize("sizes", [(), (1,), (10_000, 7, 5_000)])
def test_waveform_has_mean_and_variance_of_its_samples(sizes: tuple[int, ...]) -> None:
    samples = noise(40_000)
    waveform, first = DiskWaveform(), 0
    for size in (*sizes, len(samples)):
        waveform.append(samples[first : first + size])
        first += size

    assert len(waveform) == 40_000
    assert waveform.mean == pytest.approx(samples.mean(dtype=np.float64), abs=1e-12)
    assert waveform.variance == pytest.approx(samples.var(dtype=np.float64), abs=1e-12)
    np.testing.assert_array_equal(waveform.read(slice(9_999, 10_002)), samples[9_999:10_002])


@pytest.mark.parametrize("value", [0.0, 0.1, -1.0, 1e-30, 3e4])
def test_the_variance_of_silence_is_not_below_zero(value: float) -> None:
    waveform = DiskWaveform()
    for _ in range(3):
        waveform.append(np.full(1000, value, np.float32))

    assert waveform.mean == pytest.approx(np.float32(value))
    assert 0 <= waveform.variance <= 1e-9 * value**2


def test_file_has_no_name_and_is_closed_with_its_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it is in use."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.listdir("/dev/fd")
    array = filled(noise(100, 4))

    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/dev/fd")) == len(before) + 1
    assert len(array.read()) == 100
    del array
    assert os.listdir("/dev/fd") == before


@pytest.mark.parametrize("make", [lambda: DiskArray((4,)), DiskWaveform])
def test_a_full_disk_is_named(make: type[DiskArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the folder for temporary files: the file has no name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    array = make()

    message = f"[Errno 27] File too large: {str(tmp_path)!r}"
    with room_for(1000), pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        array.append(noise(1000, *array.shape[1:]))


def test_missing_folder_for_temporary_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    with pytest.raises(FileNotFoundError):
        DiskArray()
