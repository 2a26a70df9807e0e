"""The journal → the files that users read, in input order, each published by rename when it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2v_cli.durable import published
from e2v_cli.journal import Record
from e2v_cli.records import Summary, Utterance
from e2v_cli.settings import EmbeddingFormat
from e2v_cli.tables import kaldi_key, predictions_header, predictions_row, tsv_line

FAILURES_HEADER = ("utt_id", "stage", "reason", "detail")


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
    with published(output_dir / "failures.tsv") as file:
        file.write(tsv_line(FAILURES_HEADER))
        file.writelines(tsv_line((f.utt_id, f.stage, f.reason, f.detail)) for f in failures)
    with published(output_dir / "utt2dur") as file:
        file.writelines(f"{kaldi_key(entry.utt_id)} {entry.duration:.4f}\n" for entry in entries)
    with published(output_dir / "utt2num_frames") as file:
        file.writelines(f"{kaldi_key(entry.utt_id)} {entry.num_frames}\n" for entry in entries)
    if embeddings == "ark":
        with published(output_dir / "embeddings.scp") as file:
            file.writelines(f"{kaldi_key(entry.utt_id)} {home}/{entry.embedding}\n" for entry in entries)
    if embeddings == "npy":
        with published(output_dir / "embeddings.tsv") as file:
            file.writelines(tsv_line((entry.utt_id, f"{home}/{entry.embedding}")) for entry in entries)
    with published(output_dir / "predictions.tsv") as file:
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
    with published(output_dir / "run.json") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_input_digest(output_dir: Path) -> str | None:
    """Read of which input a ``run.json`` speaks; None where there is none."""
    try:
        content = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = content.get("input_sha256") if isinstance(content, dict) else None
    return digest if isinstance(digest, str) else None
