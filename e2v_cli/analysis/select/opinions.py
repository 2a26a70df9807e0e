"""Evidence on candidates: second opinions, labels of a sample, numbers in maps, and the run's own timelines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.labels.classes import translate_words
from e2v_cli.analysis.labels.labels import DROPPED, KNOWN, LabelSet, Translation
from e2v_cli.analysis.reading.answers import open_predictions
from e2v_cli.analysis.reading.finder import IdFinder, WordCodes
from e2v_cli.analysis.reading.keyed import filled_lines, open_text, read_pairs
from e2v_cli.analysis.reading.references import MAX_LABELS, open_reference
from e2v_cli.analysis.select.candidates import Candidates
from e2v_cli.analysis.select.sorted_ids import SortedIds
from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.journal.journal import holds_run
from e2v_cli.results.tables import number_labels
from e2v_cli.system.files import exists, is_directory

NO_OPINION = -1

_TABLES = (".csv", ".json", ".jsonl")
"""Suffixes of files of labels that are neither maps nor tables of predictions."""


@dataclass(frozen=True)
class Opinion:
    """The labels that a file or another run has for the candidates."""

    name: str
    codes: NDArray[np.int16]
    """(candidates,): indices of ``words``; NO_OPINION: no word."""
    words: tuple[str, ...]
    meanings: tuple[str, ...]
    """(words,): the class of each, after merges."""
    sha256: str

    def agrees(self, candidates: Candidates, own: Sequence[str]) -> NDArray[np.bool_]:
        """Return whether the opinion agrees with each label: (candidates,); ``own``: model classes, after merges."""
        same = np.array([[meaning == name for meaning in (*self.meanings, None)] for name in own], dtype=np.bool_)
        agrees: NDArray[np.bool_] = same[candidates.labels, self.codes]
        return agrees

    def words_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the opinion's words for some candidates; empty: no opinion."""
        words = (*self.words, "")
        return [words[code] for code in self.codes[rows].tolist()]


def read_opinion(source: str, ids: SortedIds, translation: Translation) -> Opinion:
    """Read a run, a table of predictions, or whatever ``e2v score`` takes for a reference.

    Raises:
        CorpusError: it can't be read, a label is unknown, an id is there twice, or none is of a candidate.
        OutputError: the journals of a run can't be read.
    """
    with ExitStack() as stack:
        path = Path(source)
        is_run = is_directory(path) and (holds_run(path) or exists(path / "predictions.tsv"))
        if not is_run and (is_directory(path) or path.name.lower().removesuffix(".gz").endswith(_TABLES)):
            return read_labels(source, ids, translation)
        predictions = open_predictions(source, stack)
        words, finder, codes = WordCodes(predictions.text.name, MAX_LABELS), IdFinder(), []
        for chunk in predictions.chunks():
            finder.add(chunk.keys, chunk.numbers, predictions.text.name)
            codes.append(words.encode(chunk.words, chunk.numbers))
        if not codes:
            raise CorpusError(f"{predictions.text.name}: empty: no utterance has a label")
        finder.finish(predictions.text.name, predictions.ids)
        return _match(source, ids, translation, (finder, np.concatenate(codes), words), predictions.text.sha256())


def read_labels(source: str, ids: SortedIds, translation: Translation) -> Opinion:
    """Read the labels of a reference; errors as of ``read_opinion``."""
    with ExitStack() as stack:
        reference = open_reference(source, stack, None, None)
        found = (reference.finder, reference.codes, reference.labels)
        return _match(source, ids, translation, found, reference.text.sha256())


def _match(
    source: str,
    ids: SortedIds,
    translation: Translation,
    found: tuple[IdFinder, NDArray[np.int32], WordCodes],
    sha256: str,
) -> Opinion:
    """Find the labels of the candidates."""
    finder, codes, words = found
    meanings = translate_words(words, translation.find, LabelSet([*translation.labels.names, *KNOWN]))
    of_word = np.array([NO_OPINION if name == DROPPED else at for at, name in enumerate(meanings)], dtype=np.int16)
    own, first = np.full(len(ids), NO_OPINION, dtype=np.int16), 0
    for keys in ids.chunks():
        indices = finder.find(finder.hashes_of(keys))
        own[first : first + len(keys)] = np.where(indices >= 0, of_word[codes[indices]], NO_OPINION)
        first += len(keys)
    if not (own >= 0).any():
        raise CorpusError(f"{source}: it has no label of any utterance of the run; are the ids the same?")
    return Opinion(source, own, tuple(words.words), tuple(meanings), sha256)


def hash_ids(ids: SortedIds) -> NDArray[np.int64]:
    """Hash the ids of the candidates: (candidates,)."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *map(hash_keys, ids.chunks())])


def read_numbers(paths: Sequence[Path], index: KeyIndex) -> NDArray[np.float64]:
    """Read maps of numbers: (candidates,), NaN without a number; the first map with a number counts.

    Args:
        paths: of the maps.
        index: of the candidates' ids.

    Raises:
        CorpusError: a map can't be read, or a line has another form.
    """
    numbers = np.full(len(index), np.nan)
    for path in reversed(paths):
        with ExitStack() as stack:
            for chunk in read_pairs(open_text(str(path), stack), "utt-id number"):
                try:
                    values = np.array(chunk.columns[0], dtype=np.float64)
                except ValueError:
                    raise _describe_no_number(path, chunk.numbers, chunk.columns[0]) from None
                candidate_indices = index.find(hash_keys(chunk.keys))
                numbers[candidate_indices[candidate_indices >= 0]] = values[candidate_indices >= 0]
    return numbers


def _describe_no_number(path: Path, numbers: Sequence[int], words: Sequence[bytes]) -> CorpusError:
    """Describe the first word that is no number."""
    for number, word in zip(numbers, words, strict=True):
        try:
            float(word)
        except ValueError:
            return CorpusError(f"{path}:{number}: {word.decode(errors='backslashreplace')!r} is no number")
    raise ValueError(words)


def share_of_spans(timeline: Path, span_seconds: float, candidates: Candidates, index: KeyIndex) -> NDArray[np.float64]:
    """Return the share of each utterance's spans that have its label: (candidates,), NaN without spans.

    Joined neighbours count as the spans that they are made of.

    Args:
        timeline: a ``timeline.tsv``.
        span_seconds: length of a span.
        candidates: the utterances.
        index: of their ids.

    Raises:
        CorpusError: it can't be read, or a row has another form.
        UsageError: it does not exist.
    """
    if not exists(timeline):
        raise UsageError(f"--steady needs {timeline}: predict with --timeline 1, and let the run end")
    codes = number_labels(candidates.classes)
    all_spans, own_spans = np.zeros(len(candidates)), np.zeros(len(candidates))
    with ExitStack() as stack:
        for first, block in open_text(str(timeline), stack).blocks():
            rows = [line.split(b"\t", 4) for number, line in filled_lines(first, block) if number > 1]
            if not rows:
                continue
            try:
                keys, starts, ends, words, _ = zip(*rows, strict=True)
                labels = np.array([codes[word] for word in words])
                seconds = np.array(ends, dtype=np.float64) - np.array(starts, dtype=np.float64)
            except (ValueError, KeyError):
                raise CorpusError(f"{timeline}: near line {first}: not a row of a timeline of this run") from None
            candidate_indices = index.find(hash_keys(keys))
            spans = np.maximum(1.0, np.ceil(seconds / span_seconds - 0.01))  # times are rounded
            known = candidate_indices >= 0
            np.add.at(all_spans, candidate_indices[known], spans[known])
            same = known & (labels == candidates.labels[candidate_indices])
            np.add.at(own_spans, candidate_indices[same], spans[same])
    shares = np.full(len(candidates), np.nan)
    np.divide(own_spans, all_spans, out=shares, where=all_spans > 0)
    return shares
