"""Posteriors of examples → a complete OUT, written by the journal and the publishing that ``e2v predict`` uses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.probe.examples import Examples
from e2v_cli.corpus.data_dir import read_durations
from e2v_cli.corpus.ids import KeyIndex, digest_of, hash_keys
from e2v_cli.corpus.lists import has_list
from e2v_cli.errors import OutputConflictError
from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.journal import JOURNAL_FORMAT, Elapsed, Header, holds_run
from e2v_cli.journal.locks import MERGE, locked
from e2v_cli.options import ComputeOptions, Fingerprint, Invocation, RunOptions
from e2v_cli.records import DoneRecord, Summary
from e2v_cli.results.finished import FinishedRows
from e2v_cli.results.publish import open_run_folder, publish
from e2v_cli.system.files import is_directory, published
from e2v_cli.system.process import HOST, now
from e2v_cli.workers.devices import describe_machine

CHUNK = 1 << 14
"""Utterances whose lines are written together."""

FRAME_SHIFT = 0.02
"""Seconds between frames, where they are not known."""

OF_RESULTS: Fingerprint = {
    "classes": "all",
    "merge": "none",
    "granularity": "utterance",
    "embeddings": "none",
    "embedding-dtype": "fp32",
    "compress": "no",
    "timeline": "off",
}
"""Fingerprint of the options of results, which such a run does not have."""


@dataclass(frozen=True)
class ExampleAudio:
    """The audio of examples, for players and selections."""

    invocation: Invocation
    """Invocation of this command, with the audio and the folder of the run of the embeddings."""
    fingerprint: Fingerprint
    """Fingerprint of the run of the embeddings, without ``layers``; empty: not known."""
    durations: NDArray[np.float64]
    """(utterances,): seconds; 0: not known."""
    num_frames: NDArray[np.int64]
    windows: NDArray[np.int64]
    checksums: NDArray[np.uint32] | None
    """(utterances,): checksums of the sources; None: not known."""
    frame_shift: float = FRAME_SHIFT
    notes: tuple[str, ...] = ()


def find_example_audio(examples: Examples, own: Invocation) -> ExampleAudio:
    """Find the audio of examples: that of the run of the embeddings, else that of the reference's directory.

    Args:
        examples: the utterances.
        own: how this command was started.

    Raises:
        CorpusError: ``utt2dur`` of the reference can't be read.
        OutputError: the journals of the run can't be read.
    """
    run = examples.origin.output_dir
    found = None if run is None else _find_in_run(FinishedRows(run), examples.ids, own)
    return found or _find_in_reference(examples, own)


def _find_in_run(rows: FinishedRows, ids: Sequence[str], own: Invocation) -> ExampleAudio | None:
    """Find utterances in a run; None: it does not have all."""
    hashes = hash_keys(map(str.encode, ids))
    found, index = rows.ids.index.find(hashes), KeyIndex(hashes)
    if (found < 0).any() or not rows.is_done[found].all():
        return None
    durations = np.zeros(len(ids))
    num_frames, windows = np.zeros((2, len(ids)), dtype=np.int64)
    for lines in rows.lines():
        at = index.find(hash_keys(line.utt_id for line in lines))
        for position, line in zip(at.tolist(), lines, strict=True):
            if position >= 0:
                durations[position], num_frames[position] = float(line.duration), int(line.num_frames)
                windows[position] = int(line.windows)
    checksums = rows.ids.checksums
    return ExampleAudio(
        replace(rows.header.invocation, command=own.command, variables=own.variables),
        {key: value for key, value in rows.header.fingerprint.items() if key != "layers"},
        durations,
        num_frames,
        windows,
        None if checksums is None else checksums[found],
        rows.header.frame_shift,
    )


def _find_in_reference(examples: Examples, own: Invocation) -> ExampleAudio:
    """Find utterances in the Kaldi directory of the reference, if it is one."""
    folder, name = examples.reference.folder, examples.origin.name
    durations = np.full(len(examples), np.nan)
    if folder is not None:
        durations = read_durations(folder, hash_keys(map(str.encode, examples.ids)))
    has_audio = folder is not None and has_list(folder / "wav.scp")
    notes = []
    if not has_audio:
        notes.append(
            f"{name} is of no run, and no wav.scp is beside the labels: e2v report of OUT has no players, and "
            "e2v select needs the audio named by --data"
        )
    if np.isnan(durations).any():
        notes.append("durations are not known (no run, and no utt2dur beside the labels): they are 0 in OUT")
    durations = np.nan_to_num(durations)
    inputs = (str(folder),) if has_audio else ()
    num_frames = np.rint(durations / FRAME_SHIFT).astype(np.int64)
    windows = np.ones(len(examples), dtype=np.int64)
    return ExampleAudio(replace(own, inputs=inputs), {}, durations, num_frames, windows, None, notes=tuple(notes))


class ExampleIds:
    """The list of a run in memory."""

    recording_groups: NDArray[np.int64] | None = None

    def __init__(self, utt_ids: Sequence[str], checksums: NDArray[np.uint32] | None) -> None:
        """Keep ids; ``checksums`` (ids,) are of their sources, None if they are not known."""
        self._keys = [utt_id.encode() for utt_id in utt_ids]
        self.checksums = checksums
        self.index = KeyIndex(hash_keys(self._keys))
        self.digest = digest_of([self._keys], None)

    def __len__(self) -> int:
        return len(self._keys)

    def ids(self) -> Iterator[list[bytes]]:
        """Read the ids, some thousand at a time."""
        for first in range(0, len(self), CHUNK):
            yield self._keys[first : first + CHUNK]


@dataclass(frozen=True)
class ProbeRun:
    """A run that is written to OUT."""

    examples: Examples
    posteriors: NDArray[np.float64]
    """(utterances, classes)"""
    audio: ExampleAudio
    model: str
    """Name of the probe."""
    options: Fingerprint
    """Options that change the results, by name."""
    digest: str
    """SHA-256 of the facts of the probe, in hexadecimal."""
    seconds: float
    """Time that the predictions took, in seconds."""

    def records(self) -> Iterator[DoneRecord]:
        """Make the records of all utterances."""
        audio, classes = self.audio, self.examples.classes
        checksums = np.zeros(len(self.examples), np.uint32) if audio.checksums is None else audio.checksums
        for index, utt_id in enumerate(self.examples.ids):
            row = self.posteriors[index]
            yield DoneRecord(
                index=index,
                utt_id=utt_id,
                duration=float(audio.durations[index]),
                num_frames=int(audio.num_frames[index]),
                windows=int(audio.windows[index]),
                label=classes[int(row.argmax())],
                posteriors=tuple(row.tolist()),
                embedding=None,
                source_checksum=int(checksums[index]),
            )

    def header(self, ids: ExampleIds) -> Header:
        """Make the header of the run's attempt."""
        classes = self.examples.classes
        machine = describe_machine(("cpu",), ComputeOptions(), with_funasr=False)
        versions = {**machine.versions, "scikit-learn": version("scikit-learn")}
        return Header(
            format=JOURNAL_FORMAT,
            fingerprint={
                **self.audio.fingerprint,
                **OF_RESULTS,
                "model": self.digest,
                "labels": " ".join(classes),
                **self.options,
            },
            model=self.model,
            labels=classes,
            input_sha256=ids.digest,
            input_size=len(ids),
            frame_shift=self.audio.frame_shift,
            timeline_formats=(),
            join=False,
            mix_devices=False,
            invocation=self.audio.invocation,
            machine=replace(machine, versions=versions, products=self.examples.origin.products or "unknown"),
            host=HOST,
            pid=os.getpid(),
            started=now("microseconds"),
        )


def refuse_run(output_dir: Path, overwrite: bool) -> None:
    """Check that a run may be written to a folder, before anything is computed for it.

    Raises:
        OutputConflictError: it holds a run, or foreign files.
    """
    if not is_directory(output_dir):
        return
    if holds_run(output_dir) and not overwrite:
        raise OutputConflictError(f"{output_dir} holds a run: choose another -o, or delete that run with --overwrite")
    open_run_folder(output_dir).refuse_foreign_files(overwrite)


def write_run(output_dir: Path, run: ProbeRun, others: Mapping[str, bytes], overwrite: bool) -> Summary:
    """Write a complete OUT.

    Args:
        output_dir: OUT.
        run: the predictions.
        others: the contents of files beside, by their names.
        overwrite: whether what OUT holds is deleted.

    Raises:
        OutputConflictError: OUT holds another run, or one in progress.
        OutputError: it can't be written.
    """
    folder = open_run_folder(output_dir)
    folder.make(overwrite)
    ids = ExampleIds(run.examples.ids, run.audio.checksums)
    header = run.header(ids)
    options = RunOptions(overwrite=overwrite)
    with locked(output_dir, options.shard.name), locked(output_dir, MERGE):
        folder.guard(header.fingerprint, ids, options)
        for name, content in others.items():
            with published(output_dir / name) as file:
                file.write(content)
        folder.save_list(ids)
        _write_journal(folder, run, header, options)
        folder.refresh()
        return publish(folder, ids, folder.read_history(ids), header)


def _write_journal(folder: RunFolder, run: ProbeRun, header: Header, options: RunOptions) -> None:
    elapsed, records = Elapsed(wall_seconds=run.seconds), run.records()
    with closing(folder.begin(options.shard, header)) as journal:
        while done := list(islice(records, CHUNK)):
            elapsed = replace(
                elapsed,
                audio_seconds=elapsed.audio_seconds + sum(record.duration for record in done),
                finished=elapsed.finished + len(done),
            )
            journal.append(done, [], elapsed)
        journal.end(elapsed)
