"""Predictions with random embeddings, and ids that are difficult for file systems."""

from __future__ import annotations

import numpy as np

from e2v_cli.records import Prediction, Utterance

NASTY_IDS = [
    "a",
    "A",
    "../x",
    "..",
    ".",
    "/etc/x",
    "%2Fetc%2Fx",
    "%252Fetc",
    ".hidden",
    "%2Ehidden",
    "a:b",
    "a%3Ab",
    "a+b",
    "a%20b",
    "a/b",
    "a\\b",
    "a|b",
    "a?b",
    "a*b",
    "ü",
    "u\u0308",
    "笑",
    "x" * 200,
    "x" * 201,
    "x" * 300,
    "x" * 299 + "y",
    "ü" * 150,
    "ü" * 151,
    "/" * 100,
    "/" * 101,
]


def make_predictions(utt_ids: list[str], shape: tuple[int, ...]) -> list[Prediction]:
    generator = np.random.default_rng(0)
    return [
        Prediction(
            Utterance(index, utt_id, f"{index}.wav"), 1.0, 49, 1, None, generator.normal(size=shape).astype(np.float32)
        )
        for index, utt_id in enumerate(utt_ids)
    ]
