"""Predictions become done records after their embeddings and timelines are on disk."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest
from support.predictions import make_predictions

from e2v_cli.options import ResultOptions, Shard
from e2v_cli.records import DoneRecord, Place, Prediction, Utterance
from e2v_cli.results.writer import ResultWriter, TimelineWriter, make_done_record

WHOLE = Shard(1, 1)
LABELS = ("happy", "sad")


def make_timelines(*spans: int | None) -> list[Prediction]:
    """Make predictions with timelines of these numbers of one-second spans; None: no timeline."""
    return [
        dataclasses.replace(
            prediction,
            duration=float(number or 1),
            posteriors=np.array([0.25, 0.75], np.float32),
            timelines=() if number is None else (np.array([[0.25, 0.75]] * number, np.float32).reshape(-1, 2),),
        )
        for prediction, number in zip(
            make_predictions([f"utt{n}" for n in range(len(spans))], (8,)), spans, strict=True
        )
    ]


def test_timeline_places_match_the_rows(tmp_path: Path) -> None:
    """A place has an offset and a size in bytes."""
    writer = TimelineWriter(tmp_path, (1.0,), LABELS, WHOLE)
    predictions = make_timelines(2, 1, 3)

    places = [*writer.write(predictions[:2]), *writer.write(predictions[2:])]

    row = "utt0\t0.0000\t1.0000\tsad\t0.750000\t0.250000\t0.750000\tutt0\t0.0000\t1.0000\n"
    assert places == [
        (Place("timeline.1-of-1.1", 0, 2 * len(row)),),
        (Place("timeline.1-of-1.1", 2 * len(row), len(row)),),
        (Place("timeline.1-of-1.1", 3 * len(row), 3 * len(row)),),
    ]
    lines = (tmp_path / "timeline.1-of-1.1").read_text().splitlines(keepends=True)
    assert lines[0] == row
    assert [line.split("\t")[:3] for line in lines] == [
        ["utt0", "0.0000", "1.0000"],
        ["utt0", "1.0000", "2.0000"],
        ["utt1", "0.0000", "1.0000"],
        *(["utt2", f"{start}.0000", f"{start + 1}.0000"] for start in range(3)),
    ]


def test_several_timelines_have_a_place_each(tmp_path: Path) -> None:
    (one,), (two,) = (make_timelines(number) for number in (1, 2))
    both = dataclasses.replace(two, timelines=(*two.timelines, *one.timelines))

    (places,) = TimelineWriter(tmp_path, (1.0, 60.0), LABELS, WHOLE).write([both])

    content = (tmp_path / "timeline.1-of-1.1").read_bytes()
    parts = [content[place.offset : (place.offset or 0) + (place.size or 0)].decode() for place in places]
    assert "".join(parts).encode() == content
    times = [[line.split("\t")[1:3] for line in part.splitlines()] for part in parts]
    assert times == [[["0.0000", "1.0000"], ["1.0000", "2.0000"]], [["0.0000", "2.0000"]]]


def test_every_worker_writes_its_own_timeline(tmp_path: Path) -> None:
    places = []
    for shard in (WHOLE, WHOLE, Shard(3, 2)):
        writer = TimelineWriter(tmp_path, (1.0,), LABELS, shard)
        assert writer.write([]) == []
        places += [place for (place,) in writer.write(make_timelines(1))]

    assert [place.file for place in places] == [
        "timeline.1-of-1.1",
        "timeline.1-of-1.2",
        "timeline.2-of-3.1",
    ]


def test_empty_timeline_is_not_created(tmp_path: Path) -> None:
    assert TimelineWriter(tmp_path, (1.0,), LABELS, WHOLE).write([]) == []

    assert os.listdir(tmp_path) == []


def test_timeline_write_error_names_the_file(tmp_path: Path) -> None:
    writer = TimelineWriter(tmp_path, (1.0,), LABELS, WHOLE)
    writer.write(make_timelines(1))
    path = tmp_path / "timeline.1-of-1.1"
    path.unlink()
    path.symlink_to("/dev/full")

    with pytest.raises(OSError, match=f"^{re.escape(f'[Errno 28] No space left on device: {str(path)!r}')}$"):
        writer.write(make_timelines(1))


@pytest.mark.parametrize(
    ("kind", "place", "left"),
    [
        ("none", None, []),
        ("npy", Place("embeddings/utt0.npy"), ["embeddings"]),
        ("ark", Place("embeddings.1-of-1.1.ark", 5), ["embeddings.1-of-1.1.ark"]),
        ("ark,t", Place("embeddings.1-of-1.1.ark", 5), ["embeddings.1-of-1.1.ark"]),
    ],
)
@pytest.mark.parametrize("span", [None, 1.0])
def test_options_decide_the_written_results(
    span: float | None, kind: str, place: Place | None, left: list[str], tmp_path: Path
) -> None:
    writer = ResultWriter(LABELS, ResultOptions(tmp_path, embeddings=kind, timelines=(span,) if span else ()), WHOLE)

    (record,) = writer.write(make_timelines(1 if span else None))

    timelines = (Place("timeline.1-of-1.1", 0, 69),) if span else ()
    assert record == DoneRecord(0, "utt0", 1.0, 49, 1, "sad", (0.25, 0.75), place, timelines)
    assert sorted(os.listdir(tmp_path)) == [*left, *(["timeline.1-of-1.1"] if span else [])]


def test_text_embeddings_are_written_as_text(tmp_path: Path) -> None:
    ResultWriter(LABELS, ResultOptions(tmp_path, embeddings="ark,t"), WHOLE).write(make_timelines(1))

    assert (tmp_path / "embeddings.1-of-1.1.ark").read_bytes().startswith(b"utt0  [ ")


def test_writer_without_a_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    (record,) = ResultWriter(LABELS, ResultOptions(), WHOLE).write(make_timelines(None))

    assert record == DoneRecord(0, "utt0", 1.0, 49, 1, "sad", (0.25, 0.75), None)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("join", [False, True])
def test_rows_go_to_standard_output_without_a_folder(
    join: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    (record,) = ResultWriter(LABELS, ResultOptions(timelines=(1.0,), join=join), WHOLE).write(make_timelines(2))

    assert (record.timelines, os.listdir(tmp_path)) == ((), [])
    times = [row.split("\t")[1:3] for row in record.rows.splitlines()]
    assert times == ([["0.0000", "2.0000"]] if join else [["0.0000", "1.0000"], ["1.0000", "2.0000"]])


def test_empty_embeddings_folder_is_not_created(tmp_path: Path) -> None:
    assert ResultWriter(LABELS, ResultOptions(tmp_path, embeddings="npy"), WHOLE).write([]) == ()

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("span", "ends"), [(0.51, ["0.5100", "1.0200"]), (0.02003, ["0.0200", "0.0400"])])
def test_spans_are_a_whole_number_of_samples(span: float, ends: list[str], tmp_path: Path) -> None:
    """0.02003 s are 320.48 samples."""
    (prediction,) = make_timelines(2)

    TimelineWriter(tmp_path, (span,), LABELS, WHOLE).write([dataclasses.replace(prediction, duration=float(ends[-1]))])

    rows = (tmp_path / "timeline.1-of-1.1").read_text().splitlines()
    assert [row.split("\t")[2] for row in rows] == ends


UTTERANCE = Utterance(3, "z", "z.wav")
PLACES = Place("embeddings.1-of-1.1.ark", 2), (Place("timeline.1-of-1.1", 0, 512),)


def test_record_has_the_values_of_the_prediction() -> None:
    posteriors = np.array([0.24999963, 0.75000037], np.float32)
    prediction = Prediction(UTTERANCE, 1.23456789, 61, 2, posteriors, np.zeros(8, np.float32))

    record = make_done_record(prediction, LABELS, *PLACES)

    numbers = (float(posteriors[0]), float(posteriors[1]))
    assert record == DoneRecord(3, "z", 1.23456789, 61, 2, "sad", numbers, *PLACES)
    assert {type(number) for number in record.posteriors} == {float}


def test_first_of_equal_probabilities_gives_the_label() -> None:
    prediction = Prediction(UTTERANCE, 1.0, 49, 1, np.array([0.5, 0.5], np.float32), np.zeros(8, np.float32))

    assert make_done_record(prediction, LABELS, None, ()).label == "happy"


def test_record_of_a_model_without_a_head() -> None:
    prediction = Prediction(UTTERANCE, 1.0, 49, 1, None, np.zeros(8, np.float32))

    record = make_done_record(prediction, (), Place("embeddings/z.npy"), ())

    assert record == DoneRecord(3, "z", 1.0, 49, 1, "", (), Place("embeddings/z.npy"))
