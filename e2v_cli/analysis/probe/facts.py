"""Facts of a probe, for its ``probe.json``."""

from __future__ import annotations

import hashlib
from typing import Any

from e2v_cli.analysis.probe.examples import Examples
from e2v_cli.analysis.probe.options import LabelOptions


def describe_data(examples: Examples, labels: LabelOptions) -> dict[str, Any]:
    """Describe examples: where they are from, their digests and counts."""
    pairs = zip(examples.ids, examples.labels.tolist(), strict=True)
    lines = "".join(f"{key} {examples.classes[label]}\n" for key, label in pairs)
    return {
        "embeddings": examples.origin.name,
        "embeddings_sha256": hashlib.sha256(examples.vectors.data).hexdigest(),
        "reference": examples.reference.name,
        "labels_sha256": hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest(),
        "map": None if labels.map is None else str(labels.map),
        "merge": ["=".join(merge) for merge in labels.merge],
        "utterances": len(examples),
        "speakers": len(examples.speaker_names) if examples.knows_speakers else None,
        "classes": dict(zip(examples.classes, examples.count_labels(), strict=True)),
    }
