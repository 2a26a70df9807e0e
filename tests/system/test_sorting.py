"""Sorting on disk, and folders that are published whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random

import pytest

from e2v_cli.system.files import draft_of, published_folder
from e2v_cli.system.sorting import sort_lines


@pytest.mark.parametrize("count", [0, 1, 6, 7, 50])
def test_lines_are_sorted_by_their_bytes(count: int) -> None:
    """Also if they are more than fit in memory, and some are equal."""
    lines = [f"{Random(seed).choice('aZü笑')}{seed % 20}\n".encode() for seed in range(count)]

    assert list(sort_lines(iter(lines), run_lines=6)) == sorted(lines)


def test_folder_is_published_whole(tmp_path: Path) -> None:
    with published_folder(tmp_path / "deep" / "data") as folder:
        (folder / "a").write_text("a")
        assert os.listdir(tmp_path / "deep") == [folder.name]

    assert os.listdir(tmp_path / "deep") == ["data"]
    assert (tmp_path / "deep" / "data" / "a").read_text() == "a"


def test_failed_folder_is_removed(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        with published_folder(path) as folder:
            (folder / "a").write_text("a")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fill(tmp_path / "data")

    assert os.listdir(tmp_path) == []


def test_folder_does_not_replace_a_folder_made_meanwhile(tmp_path: Path) -> None:
    """Not even an empty one, which a rename would replace."""
    with pytest.raises(FileExistsError), published_folder(tmp_path / "data"):
        (tmp_path / "data").mkdir()

    assert os.listdir(tmp_path) == ["data"]


def test_drafts_of_killed_writers_are_removed(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        draft = draft_of(tmp_path / "data")
        draft.mkdir()
        (draft / "wav.scp").touch()
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(os.listdir(tmp_path)) == 1

    with published_folder(tmp_path / "data"):
        pass

    assert os.listdir(tmp_path) == ["data"]
