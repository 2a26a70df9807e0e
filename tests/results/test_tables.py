"""Rows of tables, and ids as Kaldi keys and as file names."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from support.predictions import NASTY_IDS

from e2v_cli.journal.history import parse_done
from e2v_cli.records import DoneRecord, Prediction, Utterance
from e2v_cli.results.tables import (
    file_name,
    journalled_row,
    prediction_columns,
    prediction_row,
    predictions_header,
    predictions_line,
)
from e2v_cli.results.writer import make_done_record

LABELS = ("angry", "sad")


def test_row_has_the_columns_of_the_header() -> None:
    record = DoneRecord(3, "z", 1.23456789, 61, 2, "sad", (0.24999963, 0.75000037), None)

    row = prediction_row(record)

    assert predictions_header(LABELS) == prediction_columns(LABELS)
    assert dict(zip(prediction_columns(LABELS), row, strict=True)) == {
        "utt_id": "z",
        "label": "sad",
        "score": "0.750000",
        "duration": "1.2346",
        "windows": "2",
        "angry": "0.250000",
        "sad": "0.750000",
    }


def test_model_without_a_head_has_fewer_columns() -> None:
    assert predictions_header(()) == ("utt_id", "duration", "windows")
    assert prediction_columns(()) == ("utt_id", "label", "score", "duration", "windows")
    done = parse_done(b"done\tz\t49\t1\t1.0000\t\t\t\t00000000\n")
    assert prediction_row(DoneRecord(3, "z", 1.0, 49, 1, "", (), None)) == ("z", "", "", "1.0000", "1")
    assert journalled_row(done) == ("z", "", "", "1.0000", "1")
    assert predictions_line(done) == b"z\t1.0000\t1\n"


def test_probabilities_are_those_of_the_network_to_six_decimals() -> None:
    """Rows come from a record, or from its journal line. The score is the greatest probability."""
    random = np.random.default_rng(0)
    labels = tuple("abcdefghi")
    for sharpness in (0.01, 0.3, 1, 100):
        for posteriors in random.dirichlet(np.full(9, sharpness), 500).astype(np.float32):
            prediction = Prediction(Utterance(0, "ü", "x"), 1.5, 74, 1, posteriors, np.zeros(8, np.float32))
            numbers = [f"{posterior:.6f}" for posterior in posteriors]
            row = ["ü", labels[posteriors.argmax()], f"{posteriors.max():.6f}", "1.5000", "1", *numbers]
            assert list(prediction_row(make_done_record(prediction, labels, None, ()))) == row
            journalled = (
                "\t".join(["done", "ü", "74", "1", "1.5000", "e.ark:2", "", row[1], *numbers, "00000000"]) + "\n"
            )
            assert list(journalled_row(parse_done(journalled.encode()))) == row
            assert predictions_line(parse_done(journalled.encode())).decode() == "\t".join(row) + "\n"


@pytest.mark.parametrize(
    ("utt_id", "name"),
    [
        ("utt1", "utt1"),
        ("a b", "a b"),
        ("ü", "ü"),
        ("../x", "%2E.%2Fx"),
        ("..", "%2E."),
        (".", "%2E"),
        ("/etc/x", "%2Fetc%2Fx"),
        (".hidden", "%2Ehidden"),
        ("a.b", "a.b"),
        ("a:b", "a%3Ab"),
        ("a%b", "a%25b"),
        ("a\x00\n\x7f", "a%00%0A%7F"),
        ('a\\*?"<>|', "a%5C%2A%3F%22%3C%3E%7C"),
        ("x" * 200, "x" * 200),
    ],
)
def test_ids_become_safe_file_names(utt_id: str, name: str) -> None:
    assert file_name(utt_id) == name


@pytest.mark.parametrize(("utt_id", "kept"), [("x" * 300, "x" * 166), ("ü" * 150, "ü" * 83), ("笑" * 100, "笑" * 55)])
def test_long_ids_are_cut_between_characters_and_get_a_digest(utt_id: str, kept: str) -> None:
    name = file_name(utt_id)

    assert name.startswith(kept)
    assert name.endswith(hashlib.sha256(utt_id.encode()).hexdigest()[:32])
    assert len(f"{name}.npy".encode()) <= 255


def test_no_two_ids_share_a_file_name() -> None:
    """Some ids look like the file name of another id."""
    utt_ids = {*NASTY_IDS, *map(file_name, NASTY_IDS)}

    assert len({file_name(utt_id) for utt_id in utt_ids}) == len(utt_ids)
