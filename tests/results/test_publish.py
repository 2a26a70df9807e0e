"""The final files, byte by byte, from journals made by hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.archives import write_archive

from e2v_cli import __version__
from e2v_cli.cluster.submissions import Submission, note_submission
from e2v_cli.commands.merge import describe_missing, merge
from e2v_cli.corpus import blocks as batching
from e2v_cli.corpus.ids import KeyIndex, digest_of, hash_keys
from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal.folder import (
    Run,
    find_ended,
    find_run,
    is_published,
    is_shown_alike,
    plan_for,
    read_headers,
    read_record,
    refuse_other_fingerprints,
)
from e2v_cli.journal.ids import save_costs, save_ids
from e2v_cli.journal.journal import Elapsed, Header, Journal, JournalFile, find_journals
from e2v_cli.journal.locks import locked
from e2v_cli.options import Fingerprint, Shard, TimelineFormat
from e2v_cli.records import DoneRecord, Failure, Prediction, Stage, Summary, Utterance
from e2v_cli.results.publish import publish, sum_elapsed
from e2v_cli.results.tables import make_entry, predictions_row
from e2v_cli.system.process import HOST

DEAD = 1 << 22
"""No process has this number."""

LABELS = ("angry", "sad")
FINGERPRINT: Fingerprint = {
    "model": "abc",
    "labels": "angry sad",
    "engine": "e2v",
    "granularity": "utterance",
    "embeddings": "none",
    "batch-seconds": 10.0,
    "timeline": "off",
}
WHOLE, FIRST, SECOND = Shard(1, 1), Shard(2, 1), Shard(2, 2)
TIME = Elapsed(2.0, 1.0, 0.0, 7)


@pytest.fixture(autouse=True)
def _fours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are cut into blocks of four, to their end."""
    monkeypatch.setattr(batching, "BLOCK_SIZES", (4, 256))
    monkeypatch.setattr(batching, "TAPER", 1)


class List:
    """The ids of a list, read a few at a time."""

    def __init__(
        self, ids: Sequence[str], hashed: Sequence[str] | None = None, recording_groups: Sequence[int] | None = None
    ) -> None:
        self._ids = [utt_id.encode() for utt_id in ids]
        self.index = KeyIndex(hash_keys(utt_id.encode() for utt_id in hashed or ids))
        self.recording_groups: NDArray[np.int64] | None = (
            None if recording_groups is None else np.array(recording_groups)
        )
        self.digest = digest_of([self._ids], self.recording_groups)

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> Iterator[list[bytes]]:
        for first in range(0, len(self), 3):
            yield self._ids[first : first + 3]


IDS = List(["z", "my call", "gone", "ü", "../x", "broken"])
GONE = List(["gone", "broken"])


def done(utt_id: str, row: str, num_frames: int, place: str = "", timeline: str = "") -> DoneRecord:
    return DoneRecord(0, 1.0, num_frames, place, timeline, f"{utt_id}\t{row}")


def failed(utt_id: str, stage: Stage, reason: str, detail: str) -> Failure:
    return Failure(Utterance(0, utt_id, "x.wav"), stage, reason, detail)


def entries(places: Sequence[str] = ("", "", "", "")) -> list[DoneRecord]:
    """What is done, in another order than that of the list."""
    return [
        done("../x", "angry\t0.500000\t12.3457\t2\t0.500000\t0.500000", 616, places[0]),
        done("ü", "sad\t1.000000\t0.0250\t1\t0.000000\t1.000000", 1, places[1]),
        done("my call", "angry\t0.654321\t3600.0000\t60\t0.654321\t0.345679", 179999, places[2]),
        done("z", "sad\t0.999999\t2.0000\t1\t0.000001\t0.999999", 99, places[3]),
    ]


FAILURES = [
    failed("broken", "model", "not finite", "NaN"),
    failed("gone", "audio", "missing", "a\tb\nc\r\nd.wav: no such file"),
]

COMMON = {
    "failures.tsv": (
        "utt_id\tstage\treason\tdetail\n"
        "gone\taudio\tmissing\ta b c  d.wav: no such file\n"
        "broken\tmodel\tnot finite\tNaN\n"
    ),
    "utt2dur": "z 2.0000\nmy%20call 3600.0000\nü 0.0250\n../x 12.3457\n",
    "utt2num_frames": "z 99\nmy%20call 179999\nü 1\n../x 616\n",
    "frame_shift": "0.02\n",
}

UTT2EMO = "z sad\nmy%20call angry\nü sad\n../x angry\n"

PREDICTIONS = (
    "utt_id\tlabel\tscore\tduration\twindows\tangry\tsad\n"
    "z\tsad\t0.999999\t2.0000\t1\t0.000001\t0.999999\n"
    "my call\tangry\t0.654321\t3600.0000\t60\t0.654321\t0.345679\n"
    "ü\tsad\t1.000000\t0.0250\t1\t0.000000\t1.000000\n"
    "../x\tangry\t0.500000\t12.3457\t2\t0.500000\t0.500000\n"
)

SUMMARY = Summary(input=6, done=4, failed=2, audio_seconds=3614.3707, wall_seconds=2.0, encode_seconds=1.0)


def header(
    ids: List = IDS,
    *,
    embeddings: str = "none",
    labels: tuple[str, ...] = LABELS,
    started: int = 0,
    model: str = "abc",
    timeline: float | str = "off",
    formats: tuple[TimelineFormat, ...] = (),
    join: bool = False,
    frame_shift: float = 0.02,
) -> Header:
    return Header(
        fingerprint={**FINGERPRINT, "embeddings": embeddings, "model": model, "timeline": timeline},
        model="./modèle",
        labels=labels,
        input_sha256=ids.digest,
        input_size=len(ids),
        frame_shift=frame_shift,
        timeline_formats=formats,
        join=join,
        host="host",
        pid=17,
        started=f"2026-01-31T10:00:{started:02}+01:00",
    )


def write(
    folder: Path,
    said: Sequence[DoneRecord | Failure],
    head: Header,
    shard: Shard = WHOLE,
    elapsed: Elapsed = TIME,
    end: bool = True,
) -> None:
    """Write the journal of an attempt."""
    with closing(Journal(folder, shard, head)) as journal:
        for item in said:
            journal.append(
                [item] if isinstance(item, DoneRecord) else [], [item] if isinstance(item, Failure) else [], elapsed
            )
        if end:
            journal.end(elapsed)


def write_run(folder: Path, embeddings: str = "none", places: Sequence[str] = ("", "", "", "")) -> None:
    """Write the journals of two shards, one of which took two attempts, and the ids."""
    done_ones = entries(places)
    write(folder, [done_ones[0], FAILURES[0]], header(embeddings=embeddings), FIRST, Elapsed(3.0, 2.0, 10.0, 2), False)
    write(folder, done_ones[1:3], header(embeddings=embeddings, started=5), FIRST, Elapsed(4.0, 1.5, 20.0, 2))
    write(
        folder, [FAILURES[1], done_ones[3]], header(embeddings=embeddings, started=1), SECOND, Elapsed(5.0, 3.0, 2.0, 2)
    )
    save_ids(folder, IDS)


def publish_all(folder: Path, ids: List = IDS) -> Summary:
    """Publish what the journals say of a list."""
    return publish(folder, ids, read_record(folder, ids), find_run(folder).header)


def final_files(folder: Path) -> dict[str, str]:
    """Read all files of a folder but journals, locks, ids, archives and run.json."""
    others = re.compile(r"journal\..*|\.lock\..*|input\.[0-9a-f]{16}|embeddings.*\.ark|run\.json")
    return {
        name: (folder / name).read_bytes().decode()
        for name in os.listdir(folder)
        if not others.fullmatch(name) and name not in ("embeddings", "slurm")
    }


def test_final_files_of_a_model_with_a_head(tmp_path: Path) -> None:
    write(tmp_path, [*entries(), *FAILURES], header())

    assert publish_all(tmp_path) == SUMMARY
    assert final_files(tmp_path) == {**COMMON, "predictions.tsv": PREDICTIONS, "utt2emo": UTT2EMO}


def test_shards_are_put_together(tmp_path: Path) -> None:
    """They are as long at work as the slowest, and attempts at the same one follow each other."""
    write_run(tmp_path)

    summary = merge(tmp_path)

    assert summary == dataclasses.replace(SUMMARY, wall_seconds=7.0, encode_seconds=3.5)
    assert final_files(tmp_path) == {**COMMON, "predictions.tsv": PREDICTIONS, "utt2emo": UTT2EMO}


def test_what_is_merged_is_left_alone(tmp_path: Path) -> None:
    """Until something of it is gone, or a journal says more."""
    write_run(tmp_path)
    merge(tmp_path)
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.glob("[a-z]*")}

    assert merge(tmp_path) is None
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.glob("[a-z]*")} == before

    (tmp_path / "utt2dur").unlink()
    assert merge(tmp_path) == dataclasses.replace(SUMMARY, wall_seconds=7.0, encode_seconds=3.5)
    assert (tmp_path / "utt2dur").read_text() == COMMON["utt2dur"]
    write(tmp_path, [], header(started=9), SECOND, Elapsed(1.0, 0.5, 1.0, 0))
    assert merge(tmp_path) == dataclasses.replace(SUMMARY, wall_seconds=7.0, encode_seconds=3.5)
    assert merge(tmp_path) is None


def test_final_files_with_archives(tmp_path: Path) -> None:
    places = ["1-of-2.1.ark:90", "1-of-2.2.ark:3", "1-of-2.2.ark:10", "2-of-2.1.ark:200"]
    for name in ("1-of-2.1", "1-of-2.2", "2-of-2.1"):
        write_archive(tmp_path / f"embeddings.{name}.ark", 10, 90, 200)
    write_run(tmp_path, "ark", [f"embeddings.{place}" for place in places])

    merge(tmp_path)

    assert final_files(tmp_path) == {
        **COMMON,
        "predictions.tsv": PREDICTIONS,
        "utt2emo": UTT2EMO,
        "embeddings.scp": (
            f"z {tmp_path}/embeddings.2-of-2.1.ark:200\n"
            f"my%20call {tmp_path}/embeddings.1-of-2.2.ark:10\n"
            f"ü {tmp_path}/embeddings.1-of-2.2.ark:3\n"
            f"../x {tmp_path}/embeddings.1-of-2.1.ark:90\n"
        ),
    }


def test_final_files_of_a_model_without_a_head(tmp_path: Path) -> None:
    rows = {"../x": ("%2E.%2Fx", 616), "ü": ("ü", 1), "my call": ("my call", 179999), "z": ("z", 99)}
    durations = ("12.3457\t2", "0.0250\t1", "3600.0000\t60", "2.0000\t1")
    said = [
        done(utt_id, row, num_frames, f"embeddings/{name}.npy")
        for (utt_id, (name, num_frames)), row in zip(rows.items(), durations, strict=True)
    ]
    (tmp_path / "embeddings").mkdir()
    write(tmp_path, [*said, *FAILURES], header(embeddings="npy", labels=()))

    assert publish_all(tmp_path) == SUMMARY
    assert final_files(tmp_path) == {
        **COMMON,
        "predictions.tsv": (
            "utt_id\tduration\twindows\n"  # no label, score or class columns
            "z\t2.0000\t1\n"
            "my call\t3600.0000\t60\n"
            "ü\t0.0250\t1\n"
            "../x\t12.3457\t2\n"
        ),
        "embeddings.tsv": (
            f"z\t{tmp_path}/embeddings/z.npy\n"
            f"my call\t{tmp_path}/embeddings/my call.npy\n"
            f"ü\t{tmp_path}/embeddings/ü.npy\n"
            f"../x\t{tmp_path}/embeddings/%2E.%2Fx.npy\n"
        ),
    }


@pytest.mark.parametrize(
    ("embeddings", "name", "gap"),
    [("ark", "embeddings.scp", " "), ("ark,t", "embeddings.scp", " "), ("npy", "embeddings.tsv", "\t")],
)
def test_paths_of_embeddings_are_absolute(
    embeddings: str, name: str, gap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    Path("out").symlink_to("real")
    Path("real/embeddings").mkdir()
    ids = List(["z"])
    write(Path("out"), [done("z", "2.0000\t1", 99, "embeddings/z.npy")], header(ids, embeddings=embeddings, labels=()))

    publish_all(Path("out"), ids)

    assert Path("out", name).read_text() == f"z{gap}{tmp_path}/real/embeddings/z.npy\n"


def test_paths_of_any_bytes_are_given_back(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    out.mkdir()
    ids = List(["gone", "z"])
    write_archive(out / "e.ark", 2)
    missing = failed("gone", "audio", "missing", os.fsdecode(b"caf\xe9.wav: no such file"))
    write(out, [missing, done("z", "2.0000\t1", 99, "e.ark:2")], header(ids, embeddings="ark", labels=()))

    publish_all(out, ids)

    assert (out / "failures.tsv").read_bytes() == (
        b"utt_id\tstage\treason\tdetail\ngone\taudio\tmissing\tcaf\xe9.wav: no such file\n"
    )
    assert (out / "embeddings.scp").read_bytes() == b"z " + bytes(tmp_path) + b"/caf\xe9/e.ark:2\n"


def test_the_path_of_the_model_may_be_any_bytes(tmp_path: Path) -> None:
    """JSON has none but those of Unicode; here the byte is spelt out."""
    ids = List(["z"])
    head = dataclasses.replace(header(ids), model=os.fsdecode(b"./mod\xe8le"))
    write(tmp_path, [done("z", "sad\t1.000000\t2.0000\t1\t0.000000\t1.000000", 99)], head)

    publish_all(tmp_path, ids)

    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["model"]["sha256"] == "abc"


def test_labels_become_keys_of_kaldi(tmp_path: Path) -> None:
    """Which have no white space."""
    ids = List(["my call", "z"])
    said = [
        done("my call", "very sad\t1.000000\t2.0000\t1\t0.000000\t1.000000", 99),
        done("z", "难过\t1.000000\t2.0000\t1\t0.000000\t1.000000", 99),
    ]
    write(tmp_path, said, header(ids, labels=("难过", "very sad")))

    publish_all(tmp_path, ids)

    assert (tmp_path / "utt2emo").read_text(encoding="utf-8") == "my%20call very%20sad\nz 难过\n"


@pytest.mark.parametrize(
    ("frame_shift", "content"), [(0.02, "0.02\n"), (320 / 16_000, "0.02\n"), (0.01, "0.01\n"), (0.0125, "0.0125\n")]
)
def test_the_shift_of_frames_is_that_of_the_model(frame_shift: float, content: str, tmp_path: Path) -> None:
    write(tmp_path, FAILURES, header(GONE, frame_shift=frame_shift))

    publish_all(tmp_path, GONE)

    assert (tmp_path / "frame_shift").read_text() == content


TIMELINE_HEADER = "utt_id\tstart\tend\tlabel\tscore\tangry\tsad\n"
ROWS = {
    "../x": (
        "../x\t0.0000\t1.0000\tangry\t0.750000\t0.750000\t0.250000\n"
        "../x\t1.0000\t2.0000\tangry\t0.250000\t0.250000\t0.750000\n"
        "../x\t2.0000\t2.5000\tsad\t1.000000\t0.000000\t1.000000\n"
    ),
    "my call": "my call\t0.0000\t0.9000\tsad\t0.500000\t0.500000\t0.500000\n",
    "ü": "",
}
"""Rows of the timeline; of the last one there are none."""


def write_timeline(
    folder: Path, formats: tuple[TimelineFormat, ...] = (), join: bool = False
) -> tuple[List, dict[str, tuple[int, int]]]:
    """Leave what a run with a timeline does: its list, and where the rows of each are and how many bytes they have."""
    ids = List(["ü", "my call", "gone", "../x"])
    durations = {"../x": "2.5000", "my call": "0.9000", "ü": "0.0300"}
    content, places = b"", {}
    for utt_id in ("../x", "my call", "ü"):
        rows = ROWS[utt_id].encode()
        places[utt_id] = (len(content), len(rows))
        content += rows
    (folder / "timeline.1-of-1.1").write_bytes(content)
    said = [
        done(
            utt_id,
            f"sad\t1.000000\t{durations[utt_id]}\t1\t0.000000\t1.000000",
            99,
            timeline="timeline.1-of-1.1:{}:{}".format(*places[utt_id]),
        )
        for utt_id in ("my call", "../x", "ü")
    ]
    write(folder, [*said, FAILURES[1]], header(ids, timeline=1.0, formats=formats, join=join))
    save_ids(folder, ids)
    return ids, places


def test_the_timeline_is_in_the_order_of_the_list(tmp_path: Path) -> None:
    write_timeline(tmp_path)

    merge(tmp_path)

    files = final_files(tmp_path)
    assert files["timeline.tsv"] == TIMELINE_HEADER + ROWS["my call"] + ROWS["../x"]
    assert {name for name in files if name.startswith("timeline")} == {"timeline.tsv", "timeline.1-of-1.1"}


def test_the_timeline_is_joined_where_that_was_asked_for(tmp_path: Path) -> None:
    write_timeline(tmp_path, join=True)

    merge(tmp_path)

    assert final_files(tmp_path)["timeline.tsv"] == (
        TIMELINE_HEADER + ROWS["my call"] + "../x\t0.0000\t2.0000\tangry\t0.500000\t0.500000\t0.500000\n"
        "../x\t2.0000\t2.5000\tsad\t1.000000\t0.000000\t1.000000\n"
    )


def test_the_timeline_in_other_formats(tmp_path: Path) -> None:
    write_timeline(tmp_path, formats=("audacity", "ctm", "rttm", "textgrid"))

    merge(tmp_path)

    assert (tmp_path / "timeline.rttm").read_text() == (
        "SPEAKER my%20call 1 0.0000 0.9000 <NA> <NA> sad 0.500000 <NA>\n"
        "SPEAKER ../x 1 0.0000 1.0000 <NA> <NA> angry 0.750000 <NA>\n"
        "SPEAKER ../x 1 1.0000 1.0000 <NA> <NA> angry 0.250000 <NA>\n"
        "SPEAKER ../x 1 2.0000 0.5000 <NA> <NA> sad 1.000000 <NA>\n"
    )
    assert (tmp_path / "timeline.ctm").read_text().splitlines()[0] == "my%20call 1 0.0000 0.9000 sad 0.500000"
    assert sorted(os.listdir(tmp_path / "audacity")) == ["%2E.%2Fx.txt", "my call.txt", "ü.txt"]
    assert (tmp_path / "audacity/my call.txt").read_text() == "0.000000\t0.900000\tsad\n"
    assert sorted(os.listdir(tmp_path / "textgrid")) == ["%2E.%2Fx.TextGrid", "my call.TextGrid", "ü.TextGrid"]
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["files"] == [
        *("failures.tsv", "frame_shift", "predictions.tsv", "timeline.ctm", "timeline.rttm", "timeline.tsv"),
        *("utt2dur", "utt2emo", "utt2num_frames"),
    ]


def test_formats_that_nobody_asks_for_any_more_are_removed(tmp_path: Path) -> None:
    """They would show another timeline than the table."""
    write_timeline(tmp_path, formats=("audacity", "ctm", "rttm", "textgrid"))
    merge(tmp_path)
    (tmp_path / "audacity/readme").touch()
    write_timeline(tmp_path, formats=("ctm",), join=True)

    merge(tmp_path)

    assert sorted(path.name for path in tmp_path.glob("timeline.*")) == [
        "timeline.1-of-1.1",
        "timeline.ctm",
        "timeline.tsv",
    ]
    assert os.listdir(tmp_path / "audacity") == ["readme"]
    assert os.listdir(tmp_path / "textgrid") == []


def test_folders_that_no_run_wrote_to_are_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "textgrid").mkdir()
    (tmp_path / "textgrid/mine.TextGrid").touch()
    write_timeline(tmp_path)

    merge(tmp_path)

    assert os.listdir(tmp_path / "textgrid") == ["mine.TextGrid"]


def test_rows_of_the_timeline_that_are_gone_are_named(tmp_path: Path) -> None:
    ids, _ = write_timeline(tmp_path)
    path = tmp_path / "timeline.1-of-1.1"
    size = path.stat().st_size
    os.truncate(path, size - 1)

    message = (
        f"{path} is gone, or ends before byte {size}, but the journal speaks of it: bring it back, or use --overwrite"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
    assert not is_published(tmp_path, ids.digest)
    assert final_files(tmp_path).keys() == {"timeline.1-of-1.1"}


@pytest.mark.parametrize(
    ("formats", "join", "alike"),
    [
        (("rttm",), False, True),
        ((), False, False),
        (("rttm",), True, False),
        (("ctm", "rttm"), False, False),
        (("ctm",), False, False),
    ],
)
def test_how_a_timeline_was_to_be_shown_is_known(
    formats: tuple[TimelineFormat, ...], join: bool, alike: bool, tmp_path: Path
) -> None:
    """By the newest attempt; nothing is computed again for another format."""
    write(tmp_path, [], header(timeline=1.0, formats=formats, join=not join))
    write(tmp_path, [], header(timeline=1.0, formats=formats, join=join, started=5))

    assert is_shown_alike(tmp_path, WHOLE, header(timeline=1.0, formats=("rttm",), started=9)) == alike
    assert not is_shown_alike(tmp_path, FIRST, header(timeline=1.0, formats=("rttm",)))


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    """Who has the old file open goes on reading the old one."""
    write(tmp_path, [*entries(), *FAILURES], header())
    publish_all(tmp_path)
    shorter = List(["ü", "../x", "broken"])
    with (tmp_path / "predictions.tsv").open(encoding="utf-8") as old:
        publish_all(tmp_path, shorter)

        assert old.read() == PREDICTIONS
    head, *rows = PREDICTIONS.splitlines(keepends=True)
    assert (tmp_path / "predictions.tsv").read_text(encoding="utf-8") == head + "".join(rows[2:])
    assert (tmp_path / "failures.tsv").read_text() == (
        "utt_id\tstage\treason\tdetail\nbroken\tmodel\tnot finite\tNaN\n"
    )


def test_run_json_speaks_of_the_list_that_was_published(tmp_path: Path) -> None:
    """Also where the clock of another machine makes an older attempt the newest."""
    shorter = List(["ü", "../x", "broken"])
    write(tmp_path, [*entries(), *FAILURES], header())

    publish_all(tmp_path, shorter)

    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["input_sha256"] == shorter.digest
    assert is_published(tmp_path, shorter.digest)


def test_a_run_of_failures_alone_has_all_its_files(tmp_path: Path) -> None:
    ids = List(["gone"])
    write(tmp_path, FAILURES[1:], header(ids, embeddings="ark"))

    summary = publish_all(tmp_path, ids)

    assert (summary.done, summary.failed, summary.audio_seconds, summary.speed) == (0, 1, 0.0, 0.0)
    assert final_files(tmp_path) == {
        "predictions.tsv": "utt_id\tlabel\tscore\tduration\twindows\tangry\tsad\n",
        "failures.tsv": "utt_id\tstage\treason\tdetail\ngone\taudio\tmissing\ta b c  d.wav: no such file\n",
        "utt2dur": "",
        "utt2num_frames": "",
        "utt2emo": "",
        "frame_shift": "0.02\n",
        "embeddings.scp": "",
    }


def test_run_json_says_what_was_run_and_how_it_went(tmp_path: Path) -> None:
    write(tmp_path, [*entries(), *FAILURES], header(), elapsed=Elapsed(40.0, 36.0, 3614.37, 6))

    publish_all(tmp_path)

    journals = "".join(f"{path.name} {path.stat().st_size}\n" for path in sorted(tmp_path.glob("journal.*")))
    sources = f"{tmp_path}\n{journals}"
    assert (
        (tmp_path / "run.json").read_bytes().decode()
        == f"""{{
  "model": {{
    "name": "./modèle",
    "sha256": "abc",
    "labels": [
      "angry",
      "sad"
    ]
  }},
  "options": {{
    "engine": "e2v",
    "granularity": "utterance",
    "embeddings": "none",
    "batch-seconds": 10.0,
    "timeline": "off"
  }},
  "versions": {{
    "e2v": "{__version__}",
    "python": "{platform.python_version()}",
    "torch": "{version("torch")}",
    "numpy": "{version("numpy")}",
    "soundfile": "{version("soundfile")}",
    "soxr": "{version("soxr")}",
    "kaldiio": "{version("kaldiio")}"
  }},
  "input_sha256": "{IDS.digest}",
  "sources_sha256": "{hashlib.sha256(sources.encode()).hexdigest()}",
  "counts": {{
    "input": 6,
    "done": 4,
    "failed": 2
  }},
  "audio_seconds": 3614.371,
  "wall_seconds": 40.0,
  "encode_seconds": 36.0,
  "speed": 100.399,
  "files": [
    "failures.tsv",
    "frame_shift",
    "predictions.tsv",
    "utt2dur",
    "utt2emo",
    "utt2num_frames"
  ]
}}
"""
    )


def test_it_is_published_when_run_json_speaks_of_the_list(tmp_path: Path) -> None:
    write(tmp_path, [*entries(), *FAILURES], header())
    assert not is_published(tmp_path, IDS.digest)

    publish_all(tmp_path)

    assert is_published(tmp_path, IDS.digest)
    assert not is_published(tmp_path, "of another list")


@pytest.mark.parametrize(
    "name", [*COMMON, "predictions.tsv", "utt2emo", "embeddings.scp", "timeline.tsv", "timeline.rttm"]
)
def test_it_is_not_published_where_a_file_is_gone(name: str, tmp_path: Path) -> None:
    """And whoever publishes it again has the file again."""
    write(tmp_path, FAILURES, header(GONE, embeddings="ark", timeline=1.0, formats=("rttm",)))
    publish_all(tmp_path, GONE)
    assert is_published(tmp_path, GONE.digest)

    (tmp_path / name).unlink()

    assert not is_published(tmp_path, GONE.digest)
    publish_all(tmp_path, GONE)
    assert is_published(tmp_path, GONE.digest)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("more", [b"00000000\ttorn", b""])
def test_what_an_attempt_has_written_since_is_not_published(more: bytes, tmp_path: Path) -> None:
    """Neither at the end of a journal nor in one more."""
    write(tmp_path, [*entries(), *FAILURES], header())
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
def test_a_run_json_without_a_digest_speaks_of_no_list(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "predictions.tsv").touch()
    (tmp_path / "run.json").write_bytes(content)

    assert not is_published(tmp_path, IDS.digest)


def test_drafts_of_writers_that_were_killed_are_removed(tmp_path: Path) -> None:
    names = [
        "predictions.tsv",
        "failures.tsv",
        "run.json",
        "utt2dur",
        "utt2num_frames",
        "embeddings.scp",
        "embeddings.tsv",
        *("utt2emo", "frame_shift", "timeline.tsv", "timeline.rttm", "timeline.ctm"),
    ]
    for name in names:
        (tmp_path / f".{name}.{HOST}-{DEAD}-0123abcd.part").touch()
    theirs = {
        *(".download.part", f".notes.tsv.{HOST}-{DEAD}-0123abcd.part", "predictions.tsv.part"),
        *(f".utt2dur.{HOST}-{os.getpid()}-0123abcd.part", f".utt2dur.elsewhere-{DEAD}-0123abcd.part"),
    }
    for name in theirs:
        (tmp_path / name).touch()
    write(tmp_path, [*entries(), *FAILURES], header())

    publish_all(tmp_path)

    assert final_files(tmp_path).keys() == {*COMMON, "predictions.tsv", "utt2emo", *theirs}


def test_what_cannot_be_published_leaves_what_there_is(tmp_path: Path) -> None:
    """Neither a file of the new list, nor a draft."""
    write(tmp_path, [*entries(), *FAILURES], header())
    publish_all(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    collided = List(["ü", "z"], hashed=["z", "ü"])
    message = f"{tmp_path}: {'ü'.encode()!r} was taken for {b'z'!r}; run the same command again"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        publish_all(tmp_path, collided)

    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_only_the_ids_of_the_list_that_was_published_stay(tmp_path: Path) -> None:
    """And whatever users call their own lists."""
    save_ids(tmp_path, List(["another", "list"]))
    (tmp_path / "input.scp").write_text("z z.wav\n")
    (tmp_path / "input.deadbeef").touch()
    write_run(tmp_path)

    merge(tmp_path)

    assert sorted(path.name for path in tmp_path.glob("input.*")) == sorted(
        [f"input.{IDS.digest[:16]}", "input.deadbeef", "input.scp"]
    )


def test_without_a_run_there_is_nothing_to_merge(tmp_path: Path) -> None:
    """A journal that was killed before it could say anything is none."""
    (tmp_path / "journal.1-of-1.1").write_bytes(b"0123")

    message = f"{tmp_path} holds no run: name the folder that was e2v predict's -o"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


LONG_LIST = List([f"utt{number}" for number in range(18)])
"""In blocks of four: the first of three shards has 0 to 3 and 12 to 15, the second 4 to 7 and 16 to 17."""


def some(numbers: Sequence[int]) -> list[DoneRecord]:
    return [done(f"utt{number}", "sad\t1.000000\t1.0000\t1\t0.000000\t1.000000", 49) for number in numbers]


def test_shards_that_are_missing_are_named(tmp_path: Path) -> None:
    write(tmp_path, some([0, 1, 2, 3, 12, 13, 14, 15]), header(LONG_LIST), Shard(3, 1))
    write(tmp_path, some([4, 5, 16, 17]), header(LONG_LIST), Shard(3, 2), end=False)
    save_ids(tmp_path, LONG_LIST)

    message = (
        f"{tmp_path} is not complete: 6 of 18 utterances are left; "
        "run e2v predict again with --shard 2/3 (2 left), 3/3 (4 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
    assert final_files(tmp_path) == {}

    write(tmp_path, some([6, 7]), header(LONG_LIST), Shard(3, 2))
    write(tmp_path, some([8, 9, 10, 11]), header(LONG_LIST), Shard(3, 3))

    summary = merge(tmp_path)
    assert summary is not None
    assert summary.done == 18


def test_shards_are_those_of_what_was_not_done_with_another_list(tmp_path: Path) -> None:
    """The blocks are of utt4 and what follows: the second shard has 8 to 11 and 16 to 17."""
    write(tmp_path, some(range(4)), header(List(["utt0", "utt1", "utt2", "utt3"])))
    write(tmp_path, some([4, 5, 6, 7, 12, 13, 14, 15]), header(LONG_LIST, started=1), FIRST)
    save_ids(tmp_path, LONG_LIST)

    message = (
        f"{tmp_path} is not complete: 6 of 18 utterances are left; run e2v predict again with --shard 2/2 (6 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
    assert plan_for(read_record(tmp_path, LONG_LIST), LONG_LIST, None).members.tolist() == list(range(4, 18))


def test_shards_of_segments_are_those_of_their_recordings(tmp_path: Path) -> None:
    """Of five recordings in turn, the first of two shards has all of 0, 1 and 4, which no block cuts."""
    segments = List([f"utt{number}" for number in range(15)], recording_groups=[number % 5 for number in range(15)])
    write(tmp_path, some([0, 5, 10, 1, 6, 11, 3]), header(segments), FIRST)
    save_ids(tmp_path, segments)

    message = (
        f"{tmp_path} is not complete: 8 of 15 utterances are left; "
        "run e2v predict again with --shard 1/2 (3 left), 2/2 (5 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


def test_shards_are_those_of_the_costs_that_all_agreed_on(tmp_path: Path) -> None:
    """The last block, of two utterances, is the dearest: the first of three shards has it alone."""
    write(tmp_path, some([16, 17, 0]), header(LONG_LIST), Shard(3, 1))
    save_ids(tmp_path, LONG_LIST)
    save_costs(tmp_path, LONG_LIST.digest, np.array([1] * 16 + [50, 50], np.float32))

    message = (
        f"{tmp_path} is not complete: 15 of 18 utterances are left; "
        "run e2v predict again with --shard 2/3 (7 left), 3/3 (8 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


def submit(folder: Path, array: str, shards: Sequence[int], count: int, started: int = 0) -> None:
    """Note a submission as ``e2v submit`` does."""
    (folder / "slurm").mkdir(exist_ok=True)
    when = f"2026-01-31T09:00:{started:02}+01:00"
    note_submission(folder, Submission(array, tuple(shards), count, "99", LONG_LIST.digest, when))


def test_shards_that_a_job_lost_are_named_with_its_log(tmp_path: Path) -> None:
    """With that of its newest job; of one that was none's there is no log."""
    write(tmp_path, some([0, 1, 2, 3, 12, 13, 14]), header(LONG_LIST), Shard(3, 1), end=False)
    write(tmp_path, some([4, 5, 16, 17]), header(LONG_LIST), Shard(3, 2), end=False)
    save_ids(tmp_path, LONG_LIST)
    submit(tmp_path, "12", [1, 2], 3)
    submit(tmp_path, "14", [2], 3, started=5)
    submit(tmp_path, "16", [1, 2], 2, started=9)

    log = tmp_path / "log"
    message = (
        f"{tmp_path} is not complete: 7 of 18 utterances are left, of shards 1/3 (1 left, see {log}/slurm-12_1.log), "
        f"2/3 (2 left, see {log}/slurm-14_2.log), 3/3 (4 left); run the same e2v submit command again"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)
    assert final_files(tmp_path) == {}


def test_shards_of_which_no_job_was_submitted_are_named_as_without_jobs(tmp_path: Path) -> None:
    """Those that were are of another number of shards."""
    write(tmp_path, some([0, 1, 2, 3, 12, 13, 14, 15]), header(LONG_LIST), Shard(3, 1))
    save_ids(tmp_path, LONG_LIST)
    submit(tmp_path, "12", [1, 2], 2)

    message = (
        f"{tmp_path} is not complete: 10 of 18 utterances are left; "
        "run e2v predict again with --shard 2/3 (6 left), 3/3 (4 left)"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


def test_of_what_is_complete_nothing_is_missing(tmp_path: Path) -> None:
    """Whatever jobs there were."""
    write(tmp_path, some(range(18)), header(LONG_LIST), FIRST)
    submit(tmp_path, "12", [1, 2], 2)

    assert describe_missing(tmp_path, read_record(tmp_path, LONG_LIST), 2, LONG_LIST) == ""


def test_a_single_run_that_is_not_complete_is_to_be_gone_on_with(tmp_path: Path) -> None:
    write(tmp_path, some([3, 4]), header(LONG_LIST), end=False)
    save_ids(tmp_path, LONG_LIST)

    message = f"{tmp_path} is not complete: 16 of 18 utterances are left; run the same e2v predict command again"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        merge(tmp_path)


@pytest.mark.parametrize(
    ("embeddings", "place", "content", "message"),
    [
        (
            "ark",
            "e.ark:10",
            None,
            "{out}/e.ark is gone, but the journal speaks of it: bring it back, or use --overwrite",
        ),
        (
            "ark",
            "e.ark:10",
            bytes(10),
            "{out}/e.ark ends before what the journal speaks of at 10: restore it, or use --overwrite",
        ),
        (
            "npy",
            "embeddings/z.npy",
            None,
            "{out}/embeddings is gone, but the journal speaks of it: bring it back, or use --overwrite",
        ),
    ],
)
def test_embeddings_that_are_gone_are_named(
    embeddings: str, place: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    ids = List(["z"])
    write(
        tmp_path,
        [done("z", "sad\t1.000000\t1.0000\t1\t0.000000\t1.000000", 49, place)],
        header(ids, embeddings=embeddings),
    )
    save_ids(tmp_path, ids)
    if content is not None:
        (tmp_path / "e.ark").write_bytes(content)

    with pytest.raises(OutputError, match=f"^{re.escape(message.format(out=tmp_path))}$"):
        merge(tmp_path)
    assert final_files(tmp_path).keys() <= {"e.ark"}


def test_parts_of_different_runs_are_not_put_together(tmp_path: Path) -> None:
    write(tmp_path, entries(), header(), FIRST)
    write(tmp_path, FAILURES, header(embeddings="ark", model="def", started=1), SECOND)
    save_ids(tmp_path, IDS)

    message = (
        f"{tmp_path} holds a different run: model was abc, is def; embeddings was none, is ark. "
        "Choose another -o, or throw away what is there with --overwrite"
    )
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$") as caught:
        merge(tmp_path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"granularity": "frame"}, "granularity was utterance, is frame"),
        ({"batch-seconds": "auto"}, "batch-seconds was 10.0, is auto"),
        ({"model": "def", "engine": "funasr"}, "model was abc, is def; engine was e2v, is funasr"),
        ({"window": 60}, "window was None, is 60"),
    ],
)
def test_what_differs_between_runs_is_named(changes: dict[str, str | float], differences: str, tmp_path: Path) -> None:
    write(tmp_path, [], header())
    message = (
        f"{tmp_path} holds a different run: {differences}. "
        "Choose another -o, or throw away what is there with --overwrite"
    )
    with pytest.raises(OutputConflictError, match=f"^{re.escape(message)}$"):
        refuse_other_fingerprints(tmp_path, {**FINGERPRINT, **changes})


def test_the_same_fingerprint_in_another_order_is_the_same_run(tmp_path: Path) -> None:
    write(tmp_path, [], header())
    refuse_other_fingerprints(tmp_path, {name: FINGERPRINT[name] for name in reversed(list(FINGERPRINT))})


def test_one_merge_at_a_time(tmp_path: Path) -> None:
    write_run(tmp_path)
    message = (
        f"{re.escape(str(tmp_path))}: another e2v is running there \\(process {os.getpid()} on .*\\); wait for it, "
    )
    with locked(tmp_path, "merge"):
        with pytest.raises(OutputConflictError, match=f"^{message}or choose another -o$"):
            merge(tmp_path)

    summary = merge(tmp_path)
    assert summary is not None
    assert summary.done == 4


def test_a_run_is_what_its_newest_attempt_says(tmp_path: Path) -> None:
    longer = List([*(f"utt{number}" for number in range(4)), "utt99"])
    newest = header(longer, started=30)
    write(tmp_path, [], header(started=10), SECOND)
    write(tmp_path, [], header(started=20), SECOND)
    write(tmp_path, [], newest)
    write(tmp_path, [], header(started=5), FIRST)

    assert find_run(tmp_path) == Run(newest, 1)


def test_the_newest_is_known_across_time_zones(tmp_path: Path) -> None:
    """An attempt at ten in Berlin comes behind one at nine thirty there, which is half past eight in London."""
    early = dataclasses.replace(header(), started="2026-01-31T08:30:00+00:00")
    late = dataclasses.replace(header(), started="2026-01-31T10:00:00+01:00", host="other")
    write(tmp_path, [], early, SECOND)
    write(tmp_path, [], late, FIRST)

    assert find_run(tmp_path).header.host == "other"


def test_of_attempts_of_the_same_second_the_later_one_counts(tmp_path: Path) -> None:
    longer = List(["z", "and more"])
    write(tmp_path, [], header())
    write(tmp_path, [], header(longer))

    assert find_run(tmp_path).header.input_sha256 == longer.digest


def test_shards_have_ended_when_their_newest_attempt_has(tmp_path: Path) -> None:
    write(tmp_path, entries(), header(), FIRST)
    write(tmp_path, FAILURES, header(), SECOND, end=False)
    assert find_ended(tmp_path, IDS.digest) == {FIRST}
    assert find_ended(tmp_path, "of another list") == set()

    write(tmp_path, [], header(), SECOND)
    write(tmp_path, [], header(), FIRST, end=False)
    assert find_ended(tmp_path, IDS.digest) == {SECOND}

    write(tmp_path, [], header(List(["another"])), SECOND)
    assert find_ended(tmp_path, IDS.digest) == set()


def test_headers_are_those_of_journals_that_could_say_who_they_are(tmp_path: Path) -> None:
    write(tmp_path, [], header(), SECOND)
    (tmp_path / "journal.1-of-2.1").write_bytes(b"torn")

    assert list(read_headers(tmp_path)) == [(find_journals(tmp_path)[1], header())]


def test_a_list_that_has_grown_is_merged_from_both(tmp_path: Path) -> None:
    """Also what the shorter one alone had is there still, but not shown."""
    shorter, longer = List(["z", "not any more"]), List(["z", "my call", "gone"])
    write(tmp_path, [entries()[3], done("not any more", "1.0000\t1", 49)], header(shorter))
    write(tmp_path, [entries()[2], FAILURES[1]], header(longer, started=9))
    for ids in (shorter, longer):
        save_ids(tmp_path, ids)

    summary = merge(tmp_path)
    assert summary is not None
    assert summary.done == 2

    head, *rows = PREDICTIONS.splitlines(keepends=True)
    assert final_files(tmp_path)["predictions.tsv"] == head + "".join(rows[:2])
    assert not (tmp_path / f"input.{shorter.digest[:16]}").exists()


def test_times_of_shards_are_those_of_the_slowest_and_what_they_did_adds_up() -> None:
    def file(shard: Shard, attempt: int) -> JournalFile:
        return JournalFile(shard, attempt, Path(f"journal.{shard.name}.{attempt}"))

    assert sum_elapsed({}) == Elapsed()
    assert sum_elapsed(
        {
            file(WHOLE, 1): Elapsed(100.0, 90.0, 1000.0, 10),
            file(FIRST, 1): Elapsed(10.0, 1.0, 5.0, 1),
            file(FIRST, 2): Elapsed(10.0, 9.0, 6.0, 2),
            file(SECOND, 1): Elapsed(15.0, 14.0, 7.0, 3),
        }
    ) == Elapsed(120.0, 104.0, 1018.0, 16)


UTTERANCE = Utterance(3, "z", "z.wav")


def test_an_entry_says_of_a_prediction_what_the_table_shows() -> None:
    posteriors = np.array([0.24999963, 0.75000037], np.float32)
    prediction = Prediction(UTTERANCE, 1.23456789, 61, 1, posteriors, np.zeros(8, np.float32))

    entry = make_entry(prediction, LABELS, "embeddings.1-of-1.1.ark:2", "timeline.1-of-1.1:0:512")

    row = "z\tsad\t0.750000\t1.2346\t1\t0.250000\t0.750000"
    assert entry == DoneRecord(3, 1.23456789, 61, "embeddings.1-of-1.1.ark:2", "timeline.1-of-1.1:0:512", row)


def test_of_equal_probabilities_the_first_counts() -> None:
    prediction = Prediction(UTTERANCE, 1.0, 49, 1, np.array([0.5, 0.5], np.float32), np.zeros(8, np.float32))

    assert predictions_row(prediction, LABELS)[:3] == ("z", "angry", "0.500000")


def test_an_entry_of_a_model_without_a_head() -> None:
    prediction = Prediction(UTTERANCE, 1.0, 49, 1, None, np.zeros(8, np.float32))

    entry = make_entry(prediction, (), "embeddings/z.npy", "")

    assert entry == DoneRecord(3, 1.0, 49, "embeddings/z.npy", "", "z\t1.0000\t1")
