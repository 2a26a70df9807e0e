"""What is at a path, and what is written there."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from e2v_cli.system.files import exists, is_directory, is_regular_file, published, published_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file and links."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("name", ["gone", "gone/file", "file/gone", "dangling", "loop", "a\0b", "\ud800"])
def test_missing_path_is_neither_file_nor_folder(name: str, folder: Path) -> None:
    assert not exists(folder / name)
    assert not is_directory(folder / name)
    assert not is_regular_file(folder / name)


@pytest.mark.parametrize(("name", "is_file"), [("file", True), ("link", True), (".", False)])
def test_something_is_at_a_path(name: str, is_file: bool, folder: Path) -> None:
    assert exists(folder / name)
    assert is_regular_file(folder / name) == is_file
    assert is_directory(folder / name) == (not is_file)


def test_unknown_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    for question in (exists, is_directory, is_regular_file):
        with pytest.raises(OSError, match=re.escape("File name too long")):
            question(path)


@pytest.mark.parametrize("publish", [published, published_folder])
def test_errors_name_the_final_file_not_its_draft(publish: Callable[[Path], AbstractContextManager[object]]) -> None:
    path = Path("/proc/nothing")
    with pytest.raises(FileNotFoundError) as caught, publish(path):
        pass
    assert caught.value.filename == str(path)
