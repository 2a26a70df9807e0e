"""The note of the newest run, and the speed that is read from its ``run.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from e2v_cli._version import __version__
from e2v_cli.results.newest_run import find_newest_run, note_run, read_speed


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet."""
    monkeypatch.setenv("E2V_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_newest_run_is_the_one_noted_last(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_newest_run() is None
    note_run(tmp_path / "first/run.json")
    monkeypatch.chdir(tmp_path)
    note_run(Path("second", "run.json"))

    assert find_newest_run() == tmp_path / "second/run.json"
    assert (cache / "newest-run").read_text() == f"{tmp_path}/second/run.json\n"
    assert os.listdir(cache) == ["newest-run"]


def test_path_may_be_any_bytes(cache: Path) -> None:
    path = Path(os.fsdecode(b"/caf\xe9/it's mine/run.json"))
    note_run(path)
    assert find_newest_run() == path
    assert (cache / "newest-run").read_bytes() == b"/caf\xe9/it's mine/run.json\n"


@pytest.mark.parametrize("content", [b"", b"\n", b"out/run.json\n"])
def test_damaged_note_is_none(content: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "newest-run").write_bytes(content)
    assert find_newest_run() is None


def test_cache_that_cannot_be_written_is_no_error(cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file")
    note_run(tmp_path / "run.json")
    assert find_newest_run() is None


DAMAGED: tuple[object, ...] = (None, [], {}, "sample")

RUN = {"model": {"name": "sample"}, "versions": {"e2v": __version__}, "speed": 17.25}


def test_speed_is_read_from_run_json(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    assert read_speed(tmp_path / "run.json", "sample") == 17.25


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({**RUN, "model": {"name": "emotion2vec_base"}}),
        json.dumps({**RUN, "versions": {"e2v": "0.0.1"}}),
        *(json.dumps({**RUN, "speed": speed}) for speed in (0, -1, 1e-9, 10**400, float("nan"), float("inf"), None)),
        *(json.dumps({**RUN, name: value}) for name in ("model", "versions") for value in DAMAGED),
        *("", "{", "[]", "5", "null", '"run"', "[" * 100_000),
    ],
)
def test_run_json_of_another_kind_has_no_speed(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    assert read_speed(tmp_path / "run.json", "sample") is None


@pytest.mark.parametrize("path", ["/gone/run.json", "/", "/a\0b"])
def test_run_json_that_is_gone_has_no_speed(path: str) -> None:
    assert read_speed(Path(path), "sample") is None
