"""Run folders that are made by hand of any list, with any probabilities, in a moment."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from e2v_cli.options import Invocation
from e2v_cli.records import DoneRecord, Failure
from support.corpora import read_corpus
from support.journals import done, header, open_folder, publish_all, write

LABELS = ("angry", "happy", "neutral", "other")


def make_run(
    out: Path,
    inputs: Sequence[str | Path],
    posteriors: Mapping[str, tuple[float, ...]],
    *,
    failed: Collection[str] = (),
    left: Collection[str] = (),
    seconds: float = 1.0,
    command: Sequence[str] = ("e2v", "predict"),
) -> Path:
    """Make the run of a list in the current folder; utterances that are not given are neutral."""
    out.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(list(map(str, inputs)))
    invocation = Invocation(tuple(command), {}, os.getcwd(), tuple(map(str, inputs)))
    head = replace(header(corpus, labels=LABELS), invocation=invocation)
    head = replace(head, fingerprint={**head.fingerprint, "channel": "mix", "id": "default"})
    results: list[DoneRecord | Failure] = []
    for index in range(len(corpus)):
        utterance = corpus[index]
        if utterance.utt_id in failed:
            results.append(Failure(utterance, "audio", "missing", "no such file"))
        elif utterance.utt_id not in left:
            own = posteriors.get(utterance.utt_id, (0.1, 0.1, 0.7, 0.1))
            record = done(utterance.utt_id, own, labels=LABELS, duration=seconds)
            results.append(replace(record, source_checksum=utterance.source_checksum))
    write(out, results, head, end=not left)
    folder = open_folder(out)
    folder.save_list(corpus)
    if not left:
        publish_all(out, corpus)
    return out
