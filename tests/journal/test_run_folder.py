"""The run folder: its run, whether it is published, and its ended shards."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from support.journals import (
    COMMON,
    FAILURES,
    FINGERPRINT,
    FIRST,
    GONE,
    IDS,
    SECOND,
    WHOLE,
    List,
    done_records,
    header,
    is_published,
    open_folder,
    publish_all,
    write,
)

from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal.folder import Run
from e2v_cli.options import ResultOptions, Shard


def test_run_is_published_when_run_json_names_the_list(tmp_path: Path) -> None:
    write(tmp_path, [*done_records(), *FAILURES], header())
    assert not is_published(tmp_path, IDS.digest)

    publish_all(tmp_path)

    assert is_published(tmp_path, IDS.digest)
    assert not is_published(tmp_path, "of another list")


@pytest.mark.parametrize(
    "name", [*COMMON, "predictions.tsv", "utt2emo", "embeddings.scp", "timeline.tsv", "timeline.rttm"]
)
def test_run_with_a_missing_file_is_not_published(name: str, tmp_path: Path) -> None:
    """Publishing again restores the file."""
    write(tmp_path, FAILURES, header(GONE, embeddings="ark", timeline=1.0, formats=("rttm",)))
    publish_all(tmp_path, GONE)
    assert is_published(tmp_path, GONE.digest)

    (tmp_path / name).unlink()

    assert not is_published(tmp_path, GONE.digest)
    publish_all(tmp_path, GONE)
    assert is_published(tmp_path, GONE.digest)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("more", [b"00000000\ttorn", b""])
def test_run_with_newer_journal_content_is_not_published(more: bytes, tmp_path: Path) -> None:
    """The newer content is at the end of a journal, or in one more journal."""
    write(tmp_path, [*done_records(), *FAILURES], header())
    publish_all(tmp_path)
    if more:
        with next(tmp_path.glob("journal.*")).open("ab") as file:
            file.write(more)
    else:
        write(tmp_path, [], header())

    assert not is_published(tmp_path, IDS.digest)
    publish_all(tmp_path)
    assert is_published(tmp_path, IDS.digest)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"null", b'{"input_sha256": 1}', b"\xff"])
def test_run_json_without_a_digest_is_not_published(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "predictions.tsv").touch()
    (tmp_path / "run.json").write_bytes(content)

    assert not is_published(tmp_path, IDS.digest)


@pytest.mark.parametrize(
    ("formats", "join", "alike"),
    [
        (("rttm",), False, True),
        ((), False, False),
        (("rttm",), True, False),
        (("audacity", "rttm"), False, False),
        (("audacity",), False, False),
    ],
)
def test_newest_attempt_decides_the_timeline_formats(
    formats: tuple[str, ...], join: bool, alike: bool, tmp_path: Path
) -> None:
    """Another format needs no new computation."""
    write(tmp_path, [], header(timeline=1.0, formats=formats, join=not join))
    write(tmp_path, [], header(timeline=1.0, formats=formats, join=join, started=5))

    folder = open_folder(tmp_path)
    wanted = ResultOptions(tmp_path, timelines=(1.0,), timeline_formats=("rttm",))
    assert folder.has_same_timelines(WHOLE, wanted) == alike
    assert not folder.has_same_timelines(FIRST, wanted)


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"granularity": "frame"}, "granularity was utterance, is frame"),
        ({"batch-seconds": "auto"}, "batch-seconds was 10.0, is auto"),
        ({"model": "def", "engine": "funasr"}, "model was abc, is def; engine was e2v, is funasr"),
        ({"window": 60}, "window was None, is 60"),
    ],
)
def test_differences_between_runs_are_named(changes: dict[str, str | float], differences: str, tmp_path: Path) -> None:
    write(tmp_path, [], header())
    message = f"{tmp_path} holds a different run: {differences}. Choose another -o, or delete that run with --overwrite"
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
        open_folder(tmp_path).refuse_other_fingerprints({**FINGERPRINT, **changes})


def test_fingerprint_order_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path, [], header())
    open_folder(tmp_path).refuse_other_fingerprints({name: FINGERPRINT[name] for name in reversed(list(FINGERPRINT))})


def test_newest_attempt_describes_the_run(tmp_path: Path) -> None:
    longer = List([*(f"utt{number}" for number in range(4)), "utt99"])
    newest = header(longer, started=30)
    write(tmp_path, [], header(started=10), SECOND)
    write(tmp_path, [], header(started=20), SECOND)
    write(tmp_path, [], newest)
    write(tmp_path, [], header(started=5), FIRST)

    assert open_folder(tmp_path).find_run() == Run(newest, 1)


def test_newest_attempt_is_found_across_time_zones(tmp_path: Path) -> None:
    """10:00 in Berlin is later than 8:30 in London, which is 9:30 in Berlin."""
    early = dataclasses.replace(header(), started="2026-01-31T08:30:00+00:00")
    late = dataclasses.replace(header(), started="2026-01-31T10:00:00+01:00", host="other")
    write(tmp_path, [], early, SECOND)
    write(tmp_path, [], late, FIRST)

    assert open_folder(tmp_path).find_run().header.host == "other"


def test_later_attempt_of_the_same_second_is_newest(tmp_path: Path) -> None:
    longer = List(["z", "and more"])
    write(tmp_path, [], header())
    write(tmp_path, [], header(longer))

    assert open_folder(tmp_path).find_run().header.input_sha256 == longer.digest


def find_ended(path: Path, ids: List) -> set[Shard]:
    folder = open_folder(path)
    return folder.find_ended(folder.read_history(ids))


def test_shard_has_ended_when_its_newest_attempt_has(tmp_path: Path) -> None:
    write(tmp_path, done_records(), header(), FIRST)
    write(tmp_path, FAILURES, header(), SECOND, end=False)
    assert find_ended(tmp_path, IDS) == {FIRST}
    assert find_ended(tmp_path, GONE) == set()

    write(tmp_path, [], header(), SECOND)
    write(tmp_path, [], header(), FIRST, end=False)
    assert find_ended(tmp_path, IDS) == {SECOND}

    write(tmp_path, [], header(List(["another"])), SECOND)
    assert find_ended(tmp_path, IDS) == set()


def test_journal_with_a_torn_header_describes_no_run(tmp_path: Path) -> None:
    """The file still counts as a journal."""
    (tmp_path / "journal.1-of-2.1").write_bytes(b"torn")
    folder = open_folder(tmp_path)
    assert folder.has_journals
    with pytest.raises(OutputError, match="holds no run"):
        folder.find_run()

    write(tmp_path, [], header(), SECOND)

    assert open_folder(tmp_path).find_run() == Run(header(), 2)
