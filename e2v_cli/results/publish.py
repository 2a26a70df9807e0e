"""The journals → the files that users read, in input order, each published by rename when it is complete."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from e2v_cli.errors import OutputError
from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.history import History, parse_done, parse_failed
from e2v_cli.journal.ids import Ids, read_tiers
from e2v_cli.journal.journal import DONE, Elapsed, Header, JournalFile
from e2v_cli.options import DEVICE_KEYS, Shard, parse_timelines
from e2v_cli.records import Place, Summary, Tier
from e2v_cli.results.attempts import describe_attempts
from e2v_cli.results.formats import (
    EMBEDDING_FORMATS,
    NO_EMBEDDINGS,
    data_patterns,
    embedding_stems,
    keeps_frames,
    layers_of,
    result_names,
    timeline_paths,
    timeline_suffixes,
    with_stem,
)
from e2v_cli.results.newest_run import note_run
from e2v_cli.results.tables import FAILURES_HEADER, predictions_header, predictions_line
from e2v_cli.results.timeline import Timeline
from e2v_cli.system.files import published
from e2v_cli.system.text import json_content, percent_encoded, tsv_row

logger = logging.getLogger(__name__)


def open_run_folder(output_dir: Path, keep_changed: bool = False) -> RunFolder:
    """Return OUT as a run folder that knows the files of all result formats."""
    return RunFolder(output_dir, result_names(), data_patterns(), keep_changed, keeps_frames)


def publish(folder: RunFolder, ids: Ids, history: History, header: Header) -> Summary:
    """Write the final files of a run whose utterances are all done or failed.

    Raises:
        OutputError: a file that the journals record is missing.
    """
    folder.check_places(history)
    folder.remove_drafts([*result_names(), *data_patterns()])
    with ExitStack() as stack, history.reading():
        files = _FinalFiles(folder.path, header, stack)
        first = 0
        tiers = read_tiers(folder.path, ids.digest)
        for keys in ids.ids():
            files.write(keys, history.read_lines(first, first + len(keys)), list(islice(tiers, len(keys))))
            first += len(keys)
        for timeline in files.timelines:
            timeline.finish()
    elapsed = sum_elapsed(history.elapsed)
    summary = Summary(
        input=len(ids),
        done=files.done,
        failed=len(ids) - files.done,
        audio_seconds=files.audio_seconds,
        wall_seconds=elapsed.wall_seconds,
        encode_seconds=elapsed.encode_seconds,
        reasons=history.reasons.count(np.flatnonzero(history.status != DONE)),
    )
    facts = {
        **_run_facts(header, folder),
        **describe_attempts(folder.headers),
        **folder.describe_sources(ids.digest, history.sizes),
        "sources_sha256": history.sources_sha256,
        **_count_facts(summary),
        "files": sorted(files.names),
    }
    with published(folder.path / "run.json") as file:
        file.write(json_content(facts))
    before: set[str] = set().union(*map(_timeline_paths, folder.headers.values()))
    unused = sorted(before - _timeline_paths(header))
    if removed := [pattern for pattern in unused if any(folder.path.glob(pattern))]:
        logger.warning("removed what these timeline options do not make: %s", ", ".join(removed))
    folder.remove_other_results([*files.names, "run.json"], unused, ids.digest)
    if summary.encode_seconds:  # else it has no speed
        note_run(folder.path / "run.json")
    return summary


class _FinalFiles:
    """The open final files of a run, and totals of the utterances in them."""

    def __init__(self, output_dir: Path, header: Header, stack: ExitStack) -> None:
        """Open the files of a header's options; they get their names when the stack closes."""
        self.names: list[str] = []
        self.done = 0
        self.audio_seconds = 0.0
        self._output_dir, self._stack = output_dir, stack
        labels = header.labels
        self._predictions = self._create("predictions.tsv", *predictions_header(labels))  # first, so published last
        self._failures = self._create("failures.tsv", *FAILURES_HEADER)
        self._durations, self._frames = self._create("utt2dur"), self._create("utt2num_frames")
        embeddings = str(header.fingerprint["embeddings"])
        form = None if embeddings == NO_EMBEDDINGS else EMBEDDING_FORMATS[embeddings]
        stems = embedding_stems(layers_of(header.fingerprint)) if form else ()
        self._indexes = [self._create(with_stem(form.index, stem)) for stem in stems if form]
        """Index files, one for each layer that is embedded."""
        self._before_place = b"%b%b/" % (form.separator.encode() if form else b"", bytes(output_dir.resolve()))
        self._emotions = self._create("utt2emo") if labels else None
        cells = [tsv_row([label]) for label in labels]
        self._label_words = {cell.encode(): percent_encoded(cell).encode() for cell in cells}
        self._create("frame_shift").write(f"{header.frame_shift:g}\n".encode())
        suffixes = timeline_suffixes(parse_timelines(header.fingerprint["timeline"]))
        self.timelines = [
            Timeline(output_dir, suffix, header.timeline_formats, header.join, labels, self._create)
            for suffix in suffixes
        ]
        for timeline in self.timelines:
            stack.enter_context(closing(timeline))

    def write(self, keys: Sequence[bytes], lines: Sequence[bytes], tiers: Sequence[Tier | None]) -> None:
        """Write utterances from their lines in journals.

        Args:
            keys: ids of the utterances.
            lines: lines of the utterances.
            tiers: tiers of the utterances in the timelines of recordings; None: a recording itself.

        Raises:
            OutputError: a line is of another utterance.
        """
        done: list[bytes] = []
        rows, durations, num_frames, labels = [], [], [], []
        embeddings: list[list[bytes]] = []
        for key, line, tier in zip(keys, lines, tiers, strict=True):
            if line.startswith(b"failed"):
                row = parse_failed(line)
                utt_id = row.partition(b"\t")[0]
                self._failures.write(row)
            else:
                record = parse_done(line)
                utt_id = record.utt_id
                done.append(key)
                rows.append(predictions_line(record))
                durations.append(record.duration)
                num_frames.append(record.num_frames)
                labels.append(record.label)
                embeddings.append(record.embedding.split())
                for timeline, place in zip(self.timelines, record.timelines.split(), strict=True):
                    timeline.add(key.decode(), Place.parse(place.decode()), tier)
            if utt_id != key:
                raise OutputError(
                    f"{self._output_dir}: expected {key!r}, the journal has {utt_id!r}; run the same command again"
                )
        self.done += len(done)
        self._predictions.writelines(rows)
        self._write_lists(done, durations, num_frames, labels, embeddings)
        for duration in durations:
            self.audio_seconds += float(duration)

    def _write_lists(
        self,
        keys: Sequence[bytes],
        durations: Iterable[bytes],
        num_frames: Iterable[bytes],
        labels: Iterable[bytes],
        embeddings: Iterable[Sequence[bytes]],
    ) -> None:
        """Write utterances to the files with an id and a value in each line."""
        self._durations.write(_format_pairs(keys, b" ", durations))
        self._frames.write(_format_pairs(keys, b" ", num_frames))
        if self._emotions:
            self._emotions.write(_format_pairs(keys, b" ", map(self._label_words.__getitem__, labels)))
        for index, places in zip(self._indexes, zip(*embeddings, strict=True), strict=False):
            index.write(_format_pairs(keys, self._before_place, places))

    def _create(self, name: str, *columns: str) -> BinaryIO:
        """Create a file with a header of columns, if any."""
        self.names.append(name)
        file = self._stack.enter_context(published(self._output_dir / name))
        file.write((tsv_row(columns) + "\n").encode() if columns else b"")
        return file


def _timeline_paths(header: Header) -> set[str]:
    """Return the files of the timelines of an attempt, relative to OUT, with patterns."""
    return timeline_paths(parse_timelines(header.fingerprint["timeline"]), header.timeline_formats)


def _format_pairs(keys: Iterable[bytes], separator: bytes, values: Iterable[bytes]) -> bytes:
    """Format a line for each key and its value."""
    return b"".join(chain.from_iterable(zip(keys, repeat(separator), values, repeat(b"\n"))))


def sum_elapsed(elapsed: Mapping[JournalFile, Elapsed]) -> Elapsed:
    """Add up the attempts at each shard. Shards of a run are concurrent, so its times are those of the slowest."""
    shards: dict[int, dict[Shard, Elapsed]] = defaultdict(lambda: defaultdict(Elapsed))
    for journal, attempt in elapsed.items():
        shards[journal.shard.count][journal.shard] += attempt
    total = Elapsed()
    for run in shards.values():
        total += Elapsed(
            wall_seconds=max(shard.wall_seconds for shard in run.values()),
            encode_seconds=max(shard.encode_seconds for shard in run.values()),
            audio_seconds=sum(shard.audio_seconds for shard in run.values()),
            finished=sum(shard.finished for shard in run.values()),
        )
    return total


def _run_facts(header: Header, folder: RunFolder) -> dict[str, Any]:
    """Return the model, the options and the newest attempt's versions for ``run.json``."""
    options: dict[str, Any] = {
        key: value for key, value in header.fingerprint.items() if key not in ("model", "labels")
    }
    for key in DEVICE_KEYS & options.keys():
        values = {other.fingerprint[key] for other in folder.headers.values()}
        options[key] = sorted(values) if len(values) > 1 else options[key]
    return {
        "model": {
            "name": header.model,
            "sha256": header.fingerprint["model"],
            "labels": list(header.labels),
        },
        "options": {**options, "mix-devices": "yes" if folder.mixes_devices else "no"},
        "versions": header.machine.versions,
    }


def _count_facts(summary: Summary) -> dict[str, Any]:
    """Return the counts and times for ``run.json``."""
    return {
        "counts": {"input": summary.input, "done": summary.done, "failed": summary.failed},
        "audio_seconds": round(summary.audio_seconds, 3),
        "wall_seconds": round(summary.wall_seconds, 3),
        "encode_seconds": round(summary.encode_seconds, 3),
        "speed": round(summary.speed, 3),
    }


def read_summary(output_dir: Path) -> Summary:
    """Read the counts and times of a run back from its ``run.json``.

    Raises:
        OutputError: they are missing.
    """
    path = output_dir / "run.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Summary(
            input=int(facts["counts"]["input"]),
            done=int(facts["counts"]["done"]),
            failed=int(facts["counts"]["failed"]),
            audio_seconds=float(facts["audio_seconds"]),
            wall_seconds=float(facts["wall_seconds"]),
            encode_seconds=float(facts["encode_seconds"]),
        )
    except (OSError, ValueError, TypeError, LookupError):
        raise OutputError(f"{path}: no counts can be read from it; remove it and run the same command again") from None
