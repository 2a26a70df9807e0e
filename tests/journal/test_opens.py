"""The openings of journals and listings of OUT: each is a request to a file server."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from support.processes import ROOT, E2v, hook

pytestmark = pytest.mark.e2e

NOTING_HOOK = """
import os, sys
PID, OUT, NOTES = os.getpid(), os.fsencode({out!r}), {notes!r}
busy = False
def note(event, arguments):
    global busy
    if busy or event not in ("open", "os.listdir", "os.scandir") or os.getpid() != PID:
        return
    if not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    path = os.path.join(os.getcwdb(), os.fsencode(arguments[0]))
    is_journal = os.path.dirname(path) == OUT and os.path.basename(path).startswith(b"journal.")
    if is_journal if event == "open" else os.path.normpath(path) == OUT:
        busy = True
        with open(NOTES + "." + str(PID), "a") as file:
            file.write(event + " " + os.path.basename(path).decode() + chr(10))
        busy = False
sys.addaudithook(note)
"""
"""A hook that notes openings of journals and listings of OUT by the command's own process, not by its workers."""


class CountedRun:
    """A run of e2v with counts of its openings and listings."""

    def __init__(self, e2v: E2v, folder: Path, out: Path) -> None:
        self.folder, self._e2v, self._out = folder, e2v, out
        self._notes = folder / "notes"

    def predict(self, shard: int, *options: str) -> tuple[str, Counter[str], int]:
        """Run a shard of three; return its messages, the openings of each journal, and the listings of OUT."""
        for path in self.folder.glob("notes.*"):
            path.unlink()
        code = NOTING_HOOK.format(out=str(self._out), notes=str(self._notes))
        arguments = ["-m", "sample", "--embeddings", "ark", "-j", "1", "--shard", f"{shard}/3", *options]
        done = self._e2v(
            "predict", self.folder / "wav.scp", "-o", self._out, *arguments, **hook(self.folder / "site", code)
        )
        assert done.returncode == 0, done.stderr
        (notes,) = self.folder.glob("notes.*")
        lines = notes.read_text().splitlines()
        opened = Counter(line.removeprefix("open ") for line in lines if line.startswith("open "))
        return done.stderr, opened, sum(not line.startswith("open ") for line in lines)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Six utterances of the sample corpus."""
    return (ROOT / "sample_data" / "wav.scp").read_text().splitlines(keepends=True)[::7]


def assert_few(opened: Counter[str], listings: int, limit: int) -> None:
    """Check that each journal was opened at most ``limit`` times, and OUT listed at most three times."""
    assert opened == {name: min(times, limit) for name, times in opened.items()}
    assert sorted(opened) == ["journal.1-of-3.1", "journal.2-of-3.1", "journal.3-of-3.1"]
    assert 0 < listings <= 3


@pytest.mark.parametrize(
    ("order", "options"),
    [
        ((1, 2, 3), ()),
        ((3, 2, 1), ()),
        ((2, 1, 3), ("--timeline", "1", "--timeline-format", "rttm", "--timeline-format", "textgrid")),
    ],
)
def test_start_opens_journals_and_lists_out_only_a_few_times(
    order: tuple[int, int, int], options: tuple[str, ...], lines: list[str], tmp_path: Path, e2v: E2v
) -> None:
    (tmp_path / "wav.scp").write_text("".join(lines))
    out = tmp_path / "out"
    run = CountedRun(e2v, tmp_path, out)
    run.predict(order[0], *options)
    run.predict(order[1], *options)

    said, opened, listings = run.predict(order[2], *options)  # computes the rest, and publishes
    assert said.startswith(f"e2v: all 3 shards are complete: {out} is merged\n")
    assert_few(opened, listings, limit=3)
    published = json.loads((out / "run.json").read_text())
    assert published["counts"] == {"input": len(lines), "done": len(lines), "failed": 0}

    for shard in (order[2], order[0]):
        said, opened, listings = run.predict(shard, *options)  # finds nothing to do
        assert said.startswith(f"e2v: {out} is complete: nothing to do\n")
        assert_few(opened, listings, limit=2)
    assert json.loads((out / "run.json").read_text()) == published

    before = (out / "predictions.tsv").read_bytes()
    (out / "predictions.tsv").unlink()
    said, opened, listings = run.predict(order[0], *options)  # publishes again
    assert said.startswith(f"e2v: all 3 shards are complete: {out} is merged\n")
    assert (out / "predictions.tsv").read_bytes() == before
    assert_few(opened, listings, limit=3)
    assert json.loads((out / "run.json").read_text()) == published
