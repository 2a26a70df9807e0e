"""The journal → the files that users read, in input order, each published by rename when it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from e2v_cli.journal import Record
from e2v_cli.records import Entry, Prediction, Summary, Utterance
from e2v_cli.settings import EmbeddingFormat
from e2v_cli.writers import kaldi_key, sync_folder

FAILURES_HEADER = ("utt_id", "stage", "reason", "detail")


def predictions_header(labels: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of ``predictions.tsv``; a model without a head has no labels and fewer columns."""
    return ("utt_id", *(("label", "score") if labels else ()), "duration", "windows", *labels)


def predictions_row(entry: Entry) -> tuple[str, ...]:
    """Make a row of ``predictions.tsv``."""
    probabilities = [f"{probability:.6f}" for probability in entry.posteriors]
    label = (entry.label, max(probabilities)) if entry.label is not None else ()
    return (entry.utt_id, *label, f"{entry.duration:.4f}", str(entry.windows), *probabilities)


def make_entry(prediction: Prediction, labels: Sequence[str], place: str | None) -> Entry:
    """Make the journal's entry of a prediction."""
    posteriors = prediction.posteriors
    return Entry(
        utt_id=prediction.utterance.utt_id,
        duration=round(prediction.duration, 6),
        num_frames=prediction.num_frames,
        windows=prediction.windows,
        label=None if posteriors is None else labels[int(posteriors.argmax())],
        posteriors=() if posteriors is None else tuple(round(float(probability), 6) for probability in posteriors),
        embedding=place,
    )


def tsv_line(fields: Iterable[str]) -> str:
    """Join the columns of a row; a tab or line break within one would break the table and becomes a space."""
    return "\t".join(" ".join(field.split("\t")).replace("\n", " ").replace("\r", " ") for field in fields) + "\n"


def publish(
    output_dir: Path,
    utterances: Sequence[Utterance],
    labels: Sequence[str],
    embeddings: EmbeddingFormat,
    record: Record,
) -> None:
    """Write all the files of a complete run but ``run.json``."""
    entries = [record.entries[u.utt_id] for u in utterances if u.utt_id in record.entries]
    failures = [record.failures[u.utt_id] for u in utterances if u.utt_id in record.failures]
    home = output_dir.resolve()
    with _published(output_dir / "failures.tsv") as file:
        file.write(tsv_line(FAILURES_HEADER))
        file.writelines(tsv_line((f.utt_id, f.stage, f.reason, f.detail)) for f in failures)
    with _published(output_dir / "utt2dur") as file:
        file.writelines(f"{kaldi_key(entry.utt_id)} {entry.duration:.4f}\n" for entry in entries)
    with _published(output_dir / "utt2num_frames") as file:
        file.writelines(f"{kaldi_key(entry.utt_id)} {entry.num_frames}\n" for entry in entries)
    if embeddings == "ark":
        with _published(output_dir / "embeddings.scp") as file:
            file.writelines(f"{kaldi_key(entry.utt_id)} {home}/{entry.embedding}\n" for entry in entries)
    if embeddings == "npy":
        with _published(output_dir / "embeddings.tsv") as file:
            file.writelines(tsv_line((entry.utt_id, f"{home}/{entry.embedding}")) for entry in entries)
    with _published(output_dir / "predictions.tsv") as file:
        file.write(tsv_line(predictions_header(labels)))
        file.writelines(tsv_line(predictions_row(entry)) for entry in entries)


def publish_summary(output_dir: Path, run: Mapping[str, Any], summary: Summary) -> None:
    """Write ``run.json``: what was run, and how it went."""
    content = {
        **run,
        "counts": {"input": summary.input, "done": summary.done, "failed": summary.failed},
        "audio_seconds": round(summary.audio_seconds, 3),
        "wall_seconds": round(summary.wall_seconds, 3),
        "encode_seconds": round(summary.encode_seconds, 3),
        "speed": round(summary.speed, 3),
    }
    with _published(output_dir / "run.json") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_input_digest(output_dir: Path) -> str | None:
    """Read of which input a ``run.json`` speaks; None where there is none."""
    try:
        content = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = content.get("input_sha256")
    return digest if isinstance(digest, str) else None


@contextmanager
def _published(path: Path) -> Iterator[TextIO]:
    """Open a file that gets its name when it is whole and on the disk itself."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)
