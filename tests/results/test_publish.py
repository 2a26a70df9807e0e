"""The bytes of final files, from journals made by hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from support.archives import write_archive
from support.journals import (
    COMMON,
    FAILURES,
    FIRST,
    GONE,
    IDS,
    PREDICTIONS,
    SECOND,
    SUMMARY,
    UTT2EMO,
    WHOLE,
    List,
    done,
    done_records,
    failed,
    final_files,
    header,
    is_published,
    publish_all,
    write,
    write_run,
)

from e2v_cli.commands.merge import merge
from e2v_cli.errors import OutputError
from e2v_cli.journal.journal import Elapsed, JournalFile
from e2v_cli.options import Shard
from e2v_cli.results.publish import sum_elapsed
from e2v_cli.system.process import HOST

DEAD = 1 << 22
"""A process id that is never in use."""


def test_final_files_of_a_model_with_a_head(tmp_path: Path) -> None:
    write(tmp_path, [*done_records(), *FAILURES], header())

    assert publish_all(tmp_path) == SUMMARY
    assert final_files(tmp_path) == {**COMMON, "predictions.tsv": PREDICTIONS, "utt2emo": UTT2EMO}


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
    names = ("%2E.%2Fx", "ü", "my%2520call", "z")
    records = [
        dataclasses.replace(record, label="", posteriors=())
        for record in done_records([f"embeddings/{name}.npy" for name in names])
    ]
    (tmp_path / "embeddings").mkdir()
    write(tmp_path, [*records, *FAILURES], header(embeddings="npy", labels=()))

    assert publish_all(tmp_path) == SUMMARY
    assert final_files(tmp_path) == {
        **COMMON,
        "predictions.tsv": (
            "utt_id\tduration\twindows\n"  # no label, score or class columns
            "z\t2.0000\t1\n"
            "my%20call\t3600.0000\t60\n"
            "ü\t0.0250\t1\n"
            "../x\t12.3457\t2\n"
        ),
        "embeddings.tsv": (
            f"z\t{tmp_path}/embeddings/z.npy\n"
            f"my%20call\t{tmp_path}/embeddings/my%2520call.npy\n"
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
    write(Path("out"), [done("z", (), embedding="embeddings/z.npy")], header(ids, embeddings=embeddings, labels=()))

    publish_all(Path("out"), ids)

    assert Path("out", name).read_text() == f"z{gap}{tmp_path}/real/embeddings/z.npy\n"


def test_paths_of_any_bytes_are_published(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    out.mkdir()
    ids = List(["gone", "z"])
    write_archive(out / "e.ark", 2)
    missing = failed("gone", "audio", "missing", os.fsdecode(b"caf\xe9.wav: no such file"))
    write(out, [missing, done("z", (), embedding="e.ark:2")], header(ids, embeddings="ark", labels=()))

    publish_all(out, ids)

    assert (out / "failures.tsv").read_bytes() == (
        b"utt_id\tstage\treason\tdetail\ngone\taudio\tmissing\tcaf\xe9.wav: no such file\n"
    )
    assert (out / "embeddings.scp").read_bytes() == b"z " + bytes(tmp_path) + b"/caf\xe9/e.ark:2\n"


def test_model_path_may_be_any_bytes(tmp_path: Path) -> None:
    """JSON holds only Unicode, so the byte is escaped."""
    ids = List(["z"])
    head = dataclasses.replace(header(ids), model=os.fsdecode(b"./mod\xe8le"))
    write(tmp_path, [done("z")], head)

    publish_all(tmp_path, ids)

    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["model"]["sha256"] == "abc"


def test_labels_become_words(tmp_path: Path) -> None:
    """A column of a Kaldi list has no white space, and no two labels become the same."""
    ids = List(["my%20call", "z"])
    labels = ("very%20sad", "very sad")
    records = [done("my%20call", labels=labels), done("z", (1.0, 0.0), labels=labels)]
    write(tmp_path, records, header(ids, labels=labels))

    publish_all(tmp_path, ids)

    assert (tmp_path / "utt2emo").read_text(encoding="utf-8") == "my%20call very%20sad\nz very%2520sad\n"


@pytest.mark.parametrize(
    ("frame_shift", "content"), [(0.02, "0.02\n"), (320 / 16_000, "0.02\n"), (0.01, "0.01\n"), (0.0125, "0.0125\n")]
)
def test_frame_shift_is_that_of_the_model(frame_shift: float, content: str, tmp_path: Path) -> None:
    write(tmp_path, FAILURES, header(GONE, frame_shift=frame_shift))

    publish_all(tmp_path, GONE)

    assert (tmp_path / "frame_shift").read_text() == content


def test_files_are_replaced_atomically(tmp_path: Path) -> None:
    """A reader of the old file keeps the old content."""
    write(tmp_path, [*done_records(), *FAILURES], header())
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


def test_run_json_names_the_published_list(tmp_path: Path) -> None:
    """The clock of another machine may make an older attempt the newest."""
    shorter = List(["ü", "../x", "broken"])
    write(tmp_path, [*done_records(), *FAILURES], header())

    publish_all(tmp_path, shorter)

    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["input_sha256"] == shorter.digest
    assert is_published(tmp_path, shorter.digest)


def test_run_of_only_failures_has_all_files(tmp_path: Path) -> None:
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


def test_run_json_content(tmp_path: Path) -> None:
    write(tmp_path, [*done_records(), *FAILURES], header(), elapsed=Elapsed(40.0, 36.0, 3614.37, 6))

    publish_all(tmp_path)

    journals = "".join(f"{path.name} {path.stat().st_size}\n" for path in sorted(tmp_path.glob("journal.*")))
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
    "timeline": "off",
    "mix-devices": "no"
  }},
  "versions": {{
    "e2v": "0.1.0",
    "torch": "2.13.0"
  }},
  "attempts": 1,
  "commands": [
    {{
      "command": [
        "e2v",
        "predict",
        "wav.scp"
      ],
      "variables": {{
        "E2V_MODEL": "./modèle"
      }},
      "folder": "/work",
      "inputs": [
        "wav.scp"
      ],
      "hidden": false,
      "segments_rttm": null,
      "num_shards": 1,
      "shards": "1",
      "first_started": "2026-01-31T10:00:00+01:00",
      "last_started": "2026-01-31T10:00:00+01:00",
      "attempts": 1
    }}
  ],
  "machines": [
    {{
      "device": "cpu",
      "gpus": [],
      "cpu": "a CPU",
      "versions": {{
        "e2v": "0.1.0",
        "torch": "2.13.0"
      }},
      "products": "unknown",
      "hosts": [
        "host"
      ],
      "attempts": 1
    }}
  ],
  "input_sha256": "{IDS.digest}",
  "journal_sizes_sha256": "{hashlib.sha256(journals.encode()).hexdigest()}",
  "output_dir": "{tmp_path}",
  "sources_sha256": "{hashlib.sha256(bytes(4 * 6)).hexdigest()}",
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


def test_drafts_of_dead_writers_are_removed(tmp_path: Path) -> None:
    names = [
        "predictions.tsv",
        "failures.tsv",
        "run.json",
        "utt2dur",
        "utt2num_frames",
        "embeddings.scp",
        "embeddings.tsv",
        *("utt2emo", "frame_shift", "timeline.tsv", "timeline.rttm"),
    ]
    for name in names:
        (tmp_path / f".{name}.{HOST}-{DEAD}-0123abcd.part").touch()
    theirs = {
        *(".download.part", f".notes.tsv.{HOST}-{DEAD}-0123abcd.part", "predictions.tsv.part"),
        *(f".utt2dur.{HOST}-{os.getpid()}-0123abcd.part", f".utt2dur.elsewhere-{DEAD}-0123abcd.part"),
    }
    for name in theirs:
        (tmp_path / name).touch()
    write(tmp_path, [*done_records(), *FAILURES], header())

    publish_all(tmp_path)

    assert final_files(tmp_path).keys() == {*COMMON, "predictions.tsv", "utt2emo", *theirs}


def test_failed_publication_changes_no_file(tmp_path: Path) -> None:
    """It leaves no file of the new list, and no draft."""
    write(tmp_path, [*done_records(), *FAILURES], header())
    publish_all(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    collided = List(["ü", "z"], hashed=["z", "ü"])
    message = f"{tmp_path}: expected {'ü'.encode()!r}, the journal has {b'z'!r}; run the same command again"
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        publish_all(tmp_path, collided)

    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_elapsed_takes_the_slowest_shard_and_sums_the_work() -> None:
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
