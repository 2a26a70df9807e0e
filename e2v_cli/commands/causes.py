"""The likely cause where most utterances of a run failed for the same reason."""

from __future__ import annotations

import os

from e2v_cli.audio.sources import find_path
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.journal.journal import WORKER_DIED
from e2v_cli.records import Summary
from e2v_cli.system.text import redact

_OTHER_CAUSES = {
    "beyond the end": "are the times of the segments in seconds, and of these recordings?",
    "bad segment": "are the times of the segments in seconds, and of these recordings?",
    "download failed": "is there a network, and does it need a proxy?",
    "no such channel": "how many channels do the files have? --channel counts from 1",
    "not audio": "are these the paths of audio?",
    "out of memory": "there is too little memory: try a smaller --batch-seconds or fewer --jobs",
    "pipe failed": "is their program installed here? Try one of them by hand",
    WORKER_DIED: "there may be too little memory: try fewer --jobs",
}
"""Likely causes by reason; ``_find_missing`` describes the cause of missing files."""


def find_cause(summary: Summary, corpus: Corpus) -> str:
    """Find the likely cause where most of the utterances that were tried failed for one reason; else empty."""
    if not summary.reasons or 2 * summary.reasons[0].count <= summary.done + summary.failed:
        return ""
    main = summary.reasons[0]
    example = corpus[main.example]
    source = redact(example.source)
    cause = _OTHER_CAUSES.get(main.reason, "")
    if main.reason == "missing":
        cause = _find_missing(source, example.folder)
    share = "all" if main.count == summary.input else "most"
    return f"{share} are {main.reason!r}, like {source}: {cause}" if cause else ""


def _find_missing(source: str, folder: str) -> str:
    """Describe where a source that is missing was looked for, and the next move."""
    if source.startswith("/") or find_path(source, folder) is None:
        return "are they on another machine, or on a disk that is not mounted?"
    folders = dict.fromkeys((os.getcwd(), os.path.abspath(folder or os.curdir)))
    return f"looked in {' and '.join(folders)}; run e2v in the folder where the paths begin"
