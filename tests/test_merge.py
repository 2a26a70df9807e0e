"""The final files, byte by byte, from a record made by hand."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from e2v_cli.journal import Elapsed, Record
from e2v_cli.merge import publish, publish_summary, read_input_digest
from e2v_cli.records import Entry, FailureEntry, Prediction, Summary, Utterance
from e2v_cli.settings import EmbeddingFormat
from e2v_cli.tables import make_entry, predictions_row

LABELS = ("angry", "sad")

UTTERANCES = [
    Utterance(index, utt_id, f"{index}.wav")
    for index, utt_id in enumerate(["z", "my call", "gone", "ü", "../x", "broken", "undone"])
]

RECORD = Record(
    {
        "../x": Entry("../x", 12.34567, 616, 2, "angry", (0.5, 0.5), "embeddings.1.ark:90"),
        "ü": Entry("ü", 0.025, 1, 1, "sad", (0.0, 1.0), "embeddings.2.ark:3"),
        "my call": Entry("my call", 3600.0, 179999, 60, "angry", (0.654321, 0.345679), "embeddings.1.ark:10"),
        "z": Entry("z", 1.99996, 99, 1, "sad", (1e-6, 0.999999), "embeddings.1.ark:200"),
        "of a longer list": Entry("of a longer list", 1.0, 49, 1, "sad", (0.0, 1.0), "embeddings.1.ark:300"),
    },
    {
        "broken": FailureEntry("broken", "model", "not finite", "NaN"),
        "gone": FailureEntry("gone", "audio", "missing", "a\tb\nc\r\nd.wav: no such file"),
        "of a longer list too": FailureEntry("of a longer list too", "audio", "missing", "x.wav: no such file"),
    },
    {1: Elapsed(1, 2.0, 1.0)},
)

COMMON = {
    "failures.tsv": (
        "utt_id\tstage\treason\tdetail\n"
        "gone\taudio\tmissing\ta b c  d.wav: no such file\n"
        "broken\tmodel\tnot finite\tNaN\n"
    ),
    "utt2dur": "z 2.0000\nmy%20call 3600.0000\nü 0.0250\n../x 12.3457\n",
    "utt2num_frames": "z 99\nmy%20call 179999\nü 1\n../x 616\n",
}

PREDICTIONS = (
    "utt_id\tlabel\tscore\tduration\twindows\tangry\tsad\n"
    "z\tsad\t0.999999\t2.0000\t1\t0.000001\t0.999999\n"
    "my call\tangry\t0.654321\t3600.0000\t60\t0.654321\t0.345679\n"
    "ü\tsad\t1.000000\t0.0250\t1\t0.000000\t1.000000\n"
    "../x\tangry\t0.500000\t12.3457\t2\t0.500000\t0.500000\n"
)

PREDICTIONS_WITHOUT_LABELS = (
    "utt_id\tduration\twindows\n"  # no label, score or class columns
    "z\t2.0000\t1\n"
    "my call\t3600.0000\t60\n"
    "ü\t0.0250\t1\n"
    "../x\t12.3457\t2\n"
)


def without_labels(record: Record) -> Record:
    entries = {
        utt_id: dataclasses.replace(entry, label=None, posteriors=()) for utt_id, entry in record.entries.items()
    }
    return dataclasses.replace(record, entries=entries)


def files(folder: Path) -> dict[str, str]:
    """Read all files of a folder, hidden ones too."""
    return {name: (folder / name).read_bytes().decode() for name in os.listdir(folder)}


def test_final_files_of_a_model_with_a_head(tmp_path: Path) -> None:
    publish(tmp_path, UTTERANCES, LABELS, "none", RECORD)

    assert files(tmp_path) == {**COMMON, "predictions.tsv": PREDICTIONS}


def test_final_files_with_archives(tmp_path: Path) -> None:
    publish(tmp_path, UTTERANCES, LABELS, "ark", RECORD)

    assert files(tmp_path) == {
        **COMMON,
        "predictions.tsv": PREDICTIONS,
        "embeddings.scp": (
            f"z {tmp_path}/embeddings.1.ark:200\n"
            f"my%20call {tmp_path}/embeddings.1.ark:10\n"
            f"ü {tmp_path}/embeddings.2.ark:3\n"
            f"../x {tmp_path}/embeddings.1.ark:90\n"
        ),
    }


def test_final_files_of_a_model_without_a_head(tmp_path: Path) -> None:
    places = {"z": "z", "my call": "my call", "ü": "ü", "../x": "%2E.%2Fx"}
    record = without_labels(RECORD)
    for utt_id, name in places.items():
        record.entries[utt_id] = dataclasses.replace(record.entries[utt_id], embedding=f"embeddings/{name}.npy")

    publish(tmp_path, UTTERANCES, (), "npy", record)

    assert files(tmp_path) == {
        **COMMON,
        "predictions.tsv": PREDICTIONS_WITHOUT_LABELS,
        "embeddings.tsv": (
            f"z\t{tmp_path}/embeddings/z.npy\n"
            f"my call\t{tmp_path}/embeddings/my call.npy\n"
            f"ü\t{tmp_path}/embeddings/ü.npy\n"
            f"../x\t{tmp_path}/embeddings/%2E.%2Fx.npy\n"
        ),
    }


@pytest.mark.parametrize("embeddings", ["ark", "npy"])
def test_paths_of_embeddings_are_absolute(
    embeddings: EmbeddingFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    Path("out").symlink_to("real")

    publish(Path("out"), UTTERANCES[:1], LABELS, embeddings, RECORD)

    name, gap = ("embeddings.scp", " ") if embeddings == "ark" else ("embeddings.tsv", "\t")
    assert Path("out", name).read_text() == f"z{gap}{tmp_path}/real/embeddings.1.ark:200\n"


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    """Who has the old file open goes on reading the old one."""
    publish(tmp_path, UTTERANCES, LABELS, "none", RECORD)
    with (tmp_path / "predictions.tsv").open(encoding="utf-8") as old:
        publish(tmp_path, UTTERANCES[3:], LABELS, "none", RECORD)

        assert old.read() == PREDICTIONS
    header, *rows = PREDICTIONS.splitlines(keepends=True)
    assert (tmp_path / "predictions.tsv").read_text(encoding="utf-8") == header + "".join(rows[2:])
    assert (tmp_path / "failures.tsv").read_text() == (
        "utt_id\tstage\treason\tdetail\nbroken\tmodel\tnot finite\tNaN\n"
    )


def test_a_run_of_failures_alone_has_all_its_files(tmp_path: Path) -> None:
    publish(tmp_path, UTTERANCES[2:3], LABELS, "ark", RECORD)

    assert files(tmp_path) == {
        "predictions.tsv": "utt_id\tlabel\tscore\tduration\twindows\tangry\tsad\n",
        "failures.tsv": "utt_id\tstage\treason\tdetail\ngone\taudio\tmissing\ta b c  d.wav: no such file\n",
        "utt2dur": "",
        "utt2num_frames": "",
        "embeddings.scp": "",
    }


def test_paths_of_any_bytes_are_given_back(tmp_path: Path) -> None:
    detail = os.fsdecode(b"caf\xe9.wav: no such file")
    record = Record({}, {"gone": FailureEntry("gone", "audio", "missing", detail)})

    publish(tmp_path, UTTERANCES, LABELS, "none", record)

    assert (tmp_path / "failures.tsv").read_bytes() == (
        b"utt_id\tstage\treason\tdetail\ngone\taudio\tmissing\tcaf\xe9.wav: no such file\n"
    )


def test_an_entry_says_of_a_prediction_what_the_table_shows() -> None:
    prediction = Prediction(
        UTTERANCES[0], 1.23456789, 61, 1, np.array([0.24999963, 0.75000037], np.float32), np.zeros(8, np.float32)
    )

    entry = make_entry(prediction, LABELS, "embeddings.1.ark:2")

    assert entry == Entry("z", 1.234568, 61, 1, "sad", (0.25, 0.75), "embeddings.1.ark:2")
    assert predictions_row(entry) == ("z", "sad", "0.750000", "1.2346", "1", "0.250000", "0.750000")


def test_of_equal_probabilities_the_first_counts() -> None:
    prediction = Prediction(UTTERANCES[0], 1.0, 49, 1, np.array([0.5, 0.5], np.float32), np.zeros(8, np.float32))

    assert make_entry(prediction, LABELS, None).label == "angry"


def test_an_entry_of_a_model_without_a_head() -> None:
    entry = make_entry(Prediction(UTTERANCES[0], 1.0, 49, 1, None, np.zeros(8, np.float32)), (), "embeddings/z.npy")

    assert entry == Entry("z", 1.0, 49, 1, None, (), "embeddings/z.npy")
    assert predictions_row(entry) == ("z", "1.0000", "1")


def test_run_json_says_what_was_run_and_how_it_went(tmp_path: Path) -> None:
    summary = Summary(input=7, done=4, failed=2, audio_seconds=3600.12345, wall_seconds=40.0, encode_seconds=36.0)

    publish_summary(tmp_path, {"model": {"name": "ü"}, "input_sha256": "abc"}, summary)

    assert files(tmp_path) == {
        "run.json": """{
  "model": {
    "name": "ü"
  },
  "input_sha256": "abc",
  "counts": {
    "input": 7,
    "done": 4,
    "failed": 2
  },
  "audio_seconds": 3600.123,
  "wall_seconds": 40.0,
  "encode_seconds": 36.0,
  "speed": 100.003
}
"""
    }
    assert read_input_digest(tmp_path) == "abc"


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"input_sha256": 1}'])
def test_a_run_json_without_a_digest_speaks_of_no_input(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)

    assert read_input_digest(tmp_path) is None
