"""``e2v speakers``: the results of a run → the emotions of each speaker, or each recording, on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.originals import find_lists
from e2v_cli.analysis.speakers import GroupSums, emotion_columns, emotion_rows
from e2v_cli.corpus.data_dir import Pairs, number_values, read_recording_lines, read_speaker_lines
from e2v_cli.errors import CorpusError, OutputError
from e2v_cli.journal.ids import IdList
from e2v_cli.journal.journal import Header
from e2v_cli.options import RowOptions
from e2v_cli.results.finished import FinishedRows
from e2v_cli.results.rows import RowPrinter
from e2v_cli.results.tables import number_labels

Grouping = Literal["spk", "reco", "spk+reco"]
"""Unit of a row: a speaker, a recording, or each speaker of a recording."""


@dataclass(frozen=True)
class _Groups:
    """The groups of a run's utterances."""

    keys: tuple[str, ...]
    """Columns of the names: ``speaker``, ``recording``, or both."""
    names: Sequence[tuple[str, ...]]
    """(groups,): names, a text for each column."""
    numbers: NDArray[np.int32]
    """(utterances,): indices of groups; -1: no group."""


def speakers(output_dir: Path, utt2spk: Path | None, by: Grouping, options: RowOptions) -> list[str]:
    """Print a row for each group of utterances that are done, and return notes for the user.

    Args:
        output_dir: OUT.
        utt2spk: speakers; None: those of OUT, or beside the input of the run.
        by: the groups.
        options: of the rows.

    Raises:
        OutputError: there is no run, it can't be read, or its model has no head.
        CorpusError: there are no speakers or recordings, or their lists can't be read.
        UsageError: a column is unknown.
        OSError: rows can't be written.
    """
    finished = FinishedRows(output_dir)
    header = finished.header
    if not header.labels:
        raise OutputError(f"{output_dir}: {header.model} has no head, so there are no emotions, only embeddings")
    groups = _group_utterances(output_dir, header, finished.ids, utt2spk, by)
    sums = GroupSums(len(groups.names), len(header.labels))
    _add_utterances(sums, groups.numbers, finished)
    columns = emotion_columns(groups.keys, header.labels)
    names = [[name[0].encode() for name in groups.names]]
    printer = RowPrinter(options, columns, header.labels, names, groups.keys)
    printer.print(emotion_rows(sums, groups.names, header.labels))
    notes = [finished.describe_missing()]
    alone = int(((groups.numbers < 0) & finished.is_done).sum())
    notes.append(f"utterances left out, without a {' or '.join(groups.keys)}: {alone}" if alone else "")
    return [note for note in notes if note]


def _add_utterances(sums: GroupSums, groups: NDArray[np.int32], finished: FinishedRows) -> None:
    """Add all utterances that are done and have a group."""
    labels = finished.header.labels
    numbers = number_labels(labels)
    left = groups[finished.is_done & (groups >= 0)]
    for done in finished.lines(groups >= 0):
        cells = b"\t".join(line.posteriors for line in done).split(b"\t") if done else []
        sums.add(
            left[: len(done)],
            np.array([float(line.duration) for line in done]),
            np.array([numbers[line.label] for line in done], dtype=np.int64),
            np.array(cells, dtype="S").astype(np.float64).reshape(len(done), len(labels)),
        )
        left = left[len(done) :]


def _group_utterances(output_dir: Path, header: Header, ids: IdList, utt2spk: Path | None, by: Grouping) -> _Groups:
    """Group the utterances of a run.

    Raises:
        CorpusError: there are no speakers or recordings, or their lists can't be read.
    """
    groups = []
    if by != "reco":
        paths = find_lists(output_dir, header, "utt2spk") if utt2spk is None else [utt2spk]
        if not paths:
            raise CorpusError(f"{output_dir}: no utt2spk, neither in it nor beside its input: add --utt2spk FILE")
        groups.append(_read_groups("speaker", paths, read_speaker_lines, ids, output_dir))
    if by != "spk":
        paths = find_lists(output_dir, header, "segments")
        if not paths:
            raise CorpusError(f"{output_dir}: no segments, neither in it nor beside its input: leave out --by {by}")
        groups.append(_read_groups("recording", paths, read_recording_lines, ids, output_dir))
    return groups[0] if len(groups) == 1 else _pair(*groups)


def _read_groups(key: str, paths: Sequence[Path], read: Pairs, ids: IdList, output_dir: Path) -> _Groups:
    """Read the groups of utterances.

    Raises:
        CorpusError: a list can't be read, or none has an utterance of the run.
    """
    numbers, names = number_values(paths, read, ids.index)
    if (numbers < 0).all():
        example = next((f", such as {line.decode()}," for path in paths for _, line, _ in read(path)), "")
        own = next(ids.ids())[0].decode()
        raise CorpusError(
            f"{', '.join(map(str, paths))}: its utterances{example} are not those of {output_dir}, such as {own}"
        )
    return _Groups((key,), [(name,) for name in names], numbers)


def _pair(first: _Groups, second: _Groups) -> _Groups:
    """Group utterances that have the same two groups."""
    known = (first.numbers >= 0) & (second.numbers >= 0)
    pairs = first.numbers[known].astype(np.int64) * len(second.names) + second.numbers[known]
    found, inverse = np.unique(pairs, return_inverse=True)
    numbers = np.full(len(known), -1, dtype=np.int32)
    numbers[known] = inverse
    names = [first.names[pair // len(second.names)] + second.names[pair % len(second.names)] for pair in found.tolist()]
    return _Groups(first.keys + second.keys, names, numbers)
