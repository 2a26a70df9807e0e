"""The likely cause where most utterances failed for one reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpora import read_corpus

from e2v_cli.commands.causes import find_cause
from e2v_cli.records import FailureReason, Summary


def cause_of(folder: Path, source: str, *reasons: FailureReason, done: int = 0) -> str:
    scp = folder / "wav.scp"
    scp.write_text(f"a {source}\n")
    failed = sum(reason.count for reason in reasons)
    summary = Summary(10, done, failed, 0.0, 0.0, 0.0, reasons=reasons)
    return find_cause(summary, read_corpus((str(scp),), allow_pipes=True))


def test_missing_files_are_explained_by_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    relative = f"like wavs/a.wav: looked in / and {tmp_path}; run e2v in the folder where the paths begin"
    assert cause_of(tmp_path, "wavs/a.wav", FailureReason("missing", 10, 0)) == f"all are 'missing', {relative}"
    assert cause_of(tmp_path, "wavs/a.wav", FailureReason("missing", 6, 0), done=4) == f"most are 'missing', {relative}"
    assert cause_of(tmp_path, "wavs/a.wav", FailureReason("missing", 5, 0), done=5) == ""
    assert cause_of(tmp_path, "/data/a.wav", FailureReason("missing", 10, 0)) == (
        "all are 'missing', like /data/a.wav: are they on another machine, or on a disk that is not mounted?"
    )


def test_other_causes_have_a_line_where_one_is_likely(tmp_path: Path) -> None:
    failed = FailureReason("pipe failed", 3, 0)
    assert cause_of(tmp_path, "sph2pipe x.sph |", failed, FailureReason("too short", 2, 0)) == (
        "most are 'pipe failed', like sph2pipe x.sph |: is their program installed here? Try one of them by hand"
    )
    assert cause_of(tmp_path, "https://me:secret@x.org/a?key=1", FailureReason("download failed", 10, 0)) == (
        "all are 'download failed', like https://***@x.org/a?***: is there a network, and does it need a proxy?"
    )
    assert cause_of(tmp_path, "a.wav", FailureReason("too short", 10, 0)) == ""
