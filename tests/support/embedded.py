"""Embeddings of made-up corpora: clusters of classes, moved by their speakers; archives, ``.npy``, and runs of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.options import Fingerprint, Invocation, ResultOptions, Shard
from e2v_cli.records import Prediction, Utterance
from e2v_cli.results.embeddings import ArkWriter, NpyWriter
from support.corpora import read_corpus
from support.journals import done, header, open_folder, publish_all, write
from support.labelled import write_map

EMOTIONS = ("angry", "happy", "neutral", "sad")
SESSIONS = 5
DIM = 12

OPTIONS: Fingerprint = {
    "granularity": "utterance",
    "embedding-dtype": "fp32",
    "device": "cpu",
    "precision": "fp32",
    "window": 60.0,
    "channel": "mix",
    "id": "default",
}


@dataclass(frozen=True)
class Made:
    """A corpus like IEMOCAP: five sessions of two speakers each."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    speakers: tuple[str, ...]
    frames: tuple[NDArray[np.float32], ...]
    """(frames, DIM) each."""


def make_corpus(per_class: int = 4, apart: float = 2.0, seed: int = 0) -> Made:
    """Make some utterances of each class and speaker, whose classes are ``apart``."""
    generator = np.random.default_rng(seed)
    centres = apart * generator.normal(size=(len(EMOTIONS), DIM))
    ids, labels, speakers, frames = [], [], [], []
    for session in range(1, SESSIONS + 1):
        for gender in "FM":
            of_speaker = generator.normal(size=DIM) / 2
            for number in range(per_class * len(EMOTIONS)):
                label = number % len(EMOTIONS)
                centre = centres[label] + of_speaker + generator.normal(size=DIM)
                ids.append(f"Ses{session:02}{gender}_{number:03}")
                labels.append(EMOTIONS[label])
                speakers.append(f"Ses{session:02}{gender}")
                frames.append((centre + generator.normal(size=(3 + number % 4, DIM))).astype(np.float32))
    return Made(tuple(ids), tuple(labels), tuple(speakers), tuple(frames))


def write_reference(folder: Path, made: Made, with_sessions: bool = True, speakers: bool = True) -> Path:
    """Write a Kaldi directory with labels, and perhaps speakers and their sessions as folds."""
    write_map(folder / "utt2emo", made.labels, made.ids)
    if speakers:
        write_map(folder / "utt2spk", made.speakers, made.ids)
    if with_sessions:
        names = sorted(set(made.speakers))
        write_map(folder / "spk2fold", [name[:5] for name in names], names)
    return folder


def make_predictions_of(made: Made, granularity: str = "utterance") -> list[Prediction]:
    return [
        Prediction(
            Utterance(index, utt_id, f"{utt_id}.wav"),
            1.0,
            len(frames),
            1,
            None,
            frames if granularity == "frame" else frames.mean(axis=0),
        )
        for index, (utt_id, frames) in enumerate(zip(made.ids, made.frames, strict=True))
    ]


def write_arrays(folder: Path, vectors: Mapping[str, NDArray[np.float32]]) -> Path:
    """Write a folder of ``.npy``."""
    folder.mkdir(parents=True, exist_ok=True)
    for utt_id, vector in vectors.items():
        np.save(folder / f"{utt_id}.npy", vector)
    return folder


def means_of(made: Made) -> dict[str, NDArray[np.float32]]:
    return {utt_id: frames.mean(axis=0) for utt_id, frames in zip(made.ids, made.frames, strict=True)}


def make_embedded_run(
    out: Path,
    made: Made,
    *,
    form: str = "ark",
    left: Sequence[str] = (),
    options: Fingerprint | None = None,
    inputs: Sequence[str] = (),
) -> Path:
    """Make a run with embeddings of a model without a head.

    Args:
        out: its folder.
        made: its utterances.
        form: of the embeddings.
        left: utterances that are not done.
        options: other values of the fingerprint.
        inputs: in the current folder, with all utterances; none: a list of them in C order is made.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not inputs:
        lines = sorted(f"{utt_id} /corpus/{utt_id}.wav\n" for utt_id in made.ids)
        (out.parent / f"{out.name}.scp").write_text("".join(lines))
        inputs = [str(out.parent / f"{out.name}.scp")]
    fingerprint = {**OPTIONS, "embeddings": form, **(options or {})}
    results = ResultOptions(out, embeddings=form)
    writer = (NpyWriter if form == "npy" else ArkWriter)(out, results, Shard(1, 1))
    predictions = make_predictions_of(made, str(fingerprint["granularity"]))
    places = dict(zip(made.ids, writer.write(predictions), strict=True))
    corpus = read_corpus(inputs)
    head = replace(header(corpus, labels=()), invocation=Invocation(("e2v", "predict"), {}, os.getcwd(), tuple(inputs)))
    head = replace(head, fingerprint={**head.fingerprint, **fingerprint})
    records = []
    for index in range(len(corpus)):
        utterance = corpus[index]
        if utterance.utt_id not in left:
            record = done(utterance.utt_id, (), duration=1.5, num_frames=74)
            checksum = utterance.source_checksum
            records.append(replace(record, embedding=places[utterance.utt_id], source_checksum=checksum))
    write(out, records, head, end=not left)
    open_folder(out).save_list(corpus)
    if not left:
        publish_all(out, corpus)
    return out
