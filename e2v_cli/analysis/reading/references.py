"""REFERENCE: a Kaldi directory with ``utt2emo``, a map, EmoBox's JSON lines, or a table; groups of its utterances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.finder import IdFinder, WordCodes
from e2v_cli.analysis.reading.keyed import KeyedLines, Text, first_line, open_text, read_cells, read_json, read_pairs
from e2v_cli.corpus.lists import has_list
from e2v_cli.corpus.manifests import ID_NAMES
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.journal.journal import holds_run
from e2v_cli.results.formats import result_names
from e2v_cli.system.files import is_directory

FILE_NAMES = (*ID_NAMES, "filename", "file_name", "file")
"""Names of a table's column of ids, in lower case; MSP-Podcast's is FileName."""

LABEL_NAMES = ("emo", "emotion", "label", "emoclass")
"""Names of the column of labels; EmoBox's is emo, MSP-Podcast's EmoClass."""

GROUP_NAMES = {"spk": ("spkrid", "speaker", "spk"), "gender": ("gender",), "lang": ("language", "lang")}
"""Names of columns that group utterances; MSP-Podcast has SpkrID and Gender."""

GROUP_FILES = {"spk": ("utt2spk",), "gender": ("spk2gender",), "lang": ("utt2lang",), "fold": ("utt2fold", "spk2fold")}
"""Files of a Kaldi directory that group utterances; the first that is there counts."""

MAX_LABELS = 10_000
"""The most different labels of a column; a column with more is no column of labels."""


@dataclass(frozen=True)
class GroupColumn:
    """The group of each utterance."""

    name: str
    """Name of the grouping, as in messages: a file, or a column of a table."""
    codes: NDArray[np.int32]
    """(utterances,): indices of ``groups``; -1: no group."""
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """The labels of a corpus, and the groupings of its utterances."""

    name: str
    text: Text
    finder: IdFinder
    codes: NDArray[np.int32]
    """(utterances,): codes of the labels."""
    labels: WordCodes
    folder: Path | None = None
    """The Kaldi directory; None: the reference is a file."""
    columns: dict[str, GroupColumn] = field(default_factory=dict)
    """Groupings that are read already, by kind."""

    def __len__(self) -> int:
        return len(self.codes)

    def find_grouping(self, kind: str) -> GroupColumn | None:
        """Find the grouping of a kind of ``GROUP_FILES``; None: not found.

        Raises:
            CorpusError: its file can't be read.
        """
        if kind not in self.columns and self.folder is not None:
            paths = [self.folder / name for name in GROUP_FILES[kind]]
            path = next((path for path in paths if has_list(path)), None)
            if path is not None:
                self.columns[kind] = self.read_grouping(path)
        return self.columns.get(kind)

    def read_grouping(self, path: Path) -> GroupColumn:
        """Read a map of utterances, or of speakers, to groups.

        Raises:
            CorpusError: it can't be read, its ids are neither, or an utterance has two groups.
        """
        is_of_speakers = path.name.startswith("spk2")
        with ExitStack() as stack:
            text = open_text(str(path), stack)
            if not is_of_speakers:
                grouping = _group_ids(text, self.finder)
                if (grouping.codes >= 0).any():
                    return grouping
            speakers = self.find_grouping("spk")
            if speakers is None and is_of_speakers:
                raise CorpusError(f"{path}: it has groups of speakers, and there is no utt2spk beside the reference")
            if speakers is not None:
                grouping = _group_speakers(text, speakers)
                if (grouping.codes >= 0).any():
                    return grouping
        raise CorpusError(f"{path}: none of its ids is of the reference, {self.name}")


def _group_ids(text: Text, finder: IdFinder) -> GroupColumn:
    codes = np.full(len(finder), -1, dtype=np.int32)
    words = WordCodes(text.name)
    for chunk in read_pairs(text, "utt-id group"):
        found = finder.find(finder.hashes_of(chunk.keys))
        new = words.encode(chunk.columns[0], chunk.numbers)
        at, new = found[found >= 0], new[found >= 0]
        before = codes[at]
        codes[at] = new
        differ = at[((before >= 0) & (before != new)) | (codes[at] != new)]
        if len(differ):
            raise CorpusError(_describe_other_group(text, finder, int(differ[0])))
    return GroupColumn(text.name, codes, tuple(words.words))


def _describe_other_group(text: Text, finder: IdFinder, index: int) -> str:
    """Describe that an utterance has two groups; ``index`` is that in the reference."""
    lines = [
        (chunk.numbers[row], chunk.keys[row].decode(errors="backslashreplace"), chunk.columns[0][row])
        for chunk in read_pairs(text, "utt-id group")
        for row in np.flatnonzero(finder.find(finder.hashes_of(chunk.keys)) == index).tolist()
    ]
    first, _, group = lines[0]
    number, utt_id, _ = next(line for line in lines if line[2] != group)
    return f'{text.name}:{number}: utt-id "{utt_id}" again, with another group (first on line {first})'


def _group_speakers(text: Text, speakers: GroupColumn) -> GroupColumn:
    words = WordCodes(text.name)
    indices = {name.encode(): index for index, name in enumerate(speakers.groups)}
    of_speaker = np.full(len(speakers.groups) + 1, -1, dtype=np.int32)  # the last is that of no speaker
    for chunk in read_pairs(text, "speaker group"):
        codes = words.encode(chunk.columns[0], chunk.numbers)
        for number, key, code in zip(chunk.numbers, chunk.keys, codes.tolist(), strict=True):
            index = indices.get(key)
            if index is None:
                continue
            if of_speaker[index] not in (-1, code):
                raise CorpusError(f'{text.name}:{number}: speaker "{key.decode()}" again, with another group')
            of_speaker[index] = code
    return GroupColumn(text.name, of_speaker[speakers.codes], tuple(words.words))


def open_reference(source: str, stack: ExitStack, id_column: str | None, label_column: str | None) -> Reference:
    """Read a reference; its files are open until a stack closes.

    Raises:
        CorpusError: it can't be read, is empty, has an id twice, or is what a run has predicted.
        UsageError: it is no table, and a column is named.
    """
    path = Path(source)
    is_folder = is_directory(path)
    _refuse_predicted(path, is_folder)
    if is_folder and not has_list(path / "utt2emo"):
        raise CorpusError(f"{source}: no utt2emo in it; a reference is a Kaldi directory with one, or a file of labels")
    text = open_text(str(path / "utt2emo") if is_folder else source, stack)
    reader = _choose_reader(text, id_column, label_column)
    finder, labels = IdFinder(), WordCodes(text.name, MAX_LABELS)
    groups = {kind: WordCodes(text.name) for kind in GROUP_NAMES}
    codes: list[NDArray[np.int32]] = []
    group_codes: dict[str, list[NDArray[np.int32]]] = {kind: [] for kind in GROUP_NAMES}
    for chunk in reader.read():
        finder.add(chunk.keys, chunk.numbers, text.name)
        codes.append(labels.encode(chunk.columns[0], chunk.numbers))
        for kind, words in zip(reader.kinds, chunk.columns[1:], strict=True):
            group_codes[kind].append(groups[kind].encode(words, chunk.numbers))
    if not codes:
        raise CorpusError(f"{text.name}: empty: no utterance has a label")
    finder.finish(text.name, reader.read)
    columns = {
        kind: GroupColumn(f"{text.name}: {kind}", np.concatenate(group_codes[kind]), tuple(groups[kind].words))
        for kind in reader.kinds
    }
    return Reference(source, text, finder, np.concatenate(codes), labels, path if is_folder else None, columns)


def _refuse_predicted(path: Path, is_folder: bool) -> None:
    """Check that a reference is not what a run has predicted."""
    real = path.resolve()
    folder = real if is_folder else real.parent
    if is_directory(folder) and holds_run(folder) and (is_folder or real.name in result_names()):
        raise CorpusError(
            f"{path}: the labels in a run folder are predicted, and no reference; name the corpus's own utt2emo"
        )


class _Reader:
    """Chunks of a map."""

    kinds: Sequence[str] = ()
    """Kinds of the groupings in the columns after the label's."""

    def __init__(self, text: Text) -> None:
        self.text = text

    def read(self) -> Iterator[KeyedLines]:
        """Read all lines."""
        return read_pairs(self.text, "utt-id label")


class _JsonReader(_Reader):
    """Chunks of JSON lines."""

    def __init__(self, text: Text, id_column: str | None, label_column: str | None) -> None:
        super().__init__(text)
        self._names = ([id_column] if id_column else ID_NAMES, [label_column] if label_column else LABEL_NAMES)

    def read(self) -> Iterator[KeyedLines]:
        return read_json(self.text, self._names)


class _TableReader(_Reader):
    """Chunks of a table."""

    def __init__(self, text: Text, id_column: str | None, label_column: str | None) -> None:
        super().__init__(text)
        self._id_column, self._label_column = id_column, label_column
        self.kinds: list[str] = []

    def read(self) -> Iterator[KeyedLines]:
        return read_cells(self.text, self._choose)

    def _choose(self, names: Sequence[str], origin: str) -> list[int]:
        """Choose the columns of the id, the label, and the groupings that the table has."""
        find = _ColumnFinder(names, origin)
        columns = [
            find.required(self._id_column, FILE_NAMES, "ids", "--id-column"),
            find.required(self._label_column, LABEL_NAMES, "labels", "--label-column"),
        ]
        found = {kind: find.first(known) for kind, known in GROUP_NAMES.items()}
        self.kinds = [kind for kind, column in found.items() if column is not None and column not in columns]
        return [*columns, *(column for kind, column in found.items() if column is not None and kind in self.kinds)]


@dataclass(frozen=True)
class _ColumnFinder:
    """The columns of a header, in any case."""

    names: Sequence[str]
    origin: str

    def first(self, wanted: Sequence[str]) -> int | None:
        """Return the index of the first of some names that the header has."""
        lower = [name.casefold() for name in self.names]
        return next((lower.index(name) for name in wanted if name in lower), None)

    def required(self, named: str | None, known: Sequence[str], what: str, option: str) -> int:
        """Return the index of the column that the user named, or of a known one.

        Raises:
            CorpusError: the header has no such column.
        """
        if named in self.names:
            return self.names.index(str(named))
        index = self.first([named.casefold()] if named else known)
        if index is None:
            missing = f'no column "{named}"' if named else f"no column of {what}; name one with {option}"
            raise CorpusError(f"{self.origin}: {missing}; the header has {', '.join(self.names)}")
        return index


def _choose_reader(text: Text, id_column: str | None, label_column: str | None) -> _Reader:
    """Tell a table, JSON lines and a map apart, by the name and the first line."""
    name = text.name.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".json")) or first_line(text).lstrip().startswith(b"{"):
        return _JsonReader(text, id_column, label_column)
    if name.endswith((".csv", ".tsv")):
        return _TableReader(text, id_column, label_column)
    if id_column or label_column:
        raise UsageError(f"--id-column and --label-column are for .csv, .tsv and .jsonl, and {text.name} is none")
    return _Reader(text)
