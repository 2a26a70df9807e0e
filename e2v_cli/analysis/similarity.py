"""Pairs of utterances → the cosine of their embeddings, whether their labels are the same, how posteriors diverge."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.answers import open_predictions
from e2v_cli.analysis.reading.finder import refuse_duplicates
from e2v_cli.analysis.reading.keyed import Text, read_pairs
from e2v_cli.analysis.reading.vectors import Embeddings
from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.errors import CorpusError
from e2v_cli.results.publish import open_run_folder
from e2v_cli.results.tables import number_labels

PAIR_FORM = "utt-id1 utt-id2"

PAIR_COLUMNS = ("utt_id1", "utt_id2", "cosine")

ANSWER_COLUMNS = ("same_label", "js_divergence")
"""Columns of pairs whose utterances have posteriors of the same classes."""

BLOCK_PAIRS = 4096
"""Pairs that are compared together."""

NEAR_IDS = 10_000
"""Ids, the first of a list, among which one like an unknown id is looked for."""

RESOLUTION = 1e-6
"""Length of a centred embedding, as a part of its length before, up to which it has no direction: 32-bit floats have
no more digits."""


class IndexedEmbeddings:
    """Embeddings, which are found by their ids."""

    def __init__(self, embeddings: Embeddings) -> None:
        """Index the embeddings by id.

        Raises:
            CorpusError: two have the same id.
        """
        self.embeddings = embeddings
        hashes = np.concatenate([hash_keys([]), *(hash_keys(chunk.keys) for chunk in embeddings.ids())])
        refuse_duplicates(hashes.copy(), embeddings.name, embeddings.ids)
        self._index = KeyIndex(hashes)

    def __len__(self) -> int:
        return len(self._index)

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Find the rows of ids in the list: (keys,); -1: no embedding."""
        return self._index.find(hash_keys(keys)).astype(np.int64)

    def id_of(self, row: int) -> str:
        """Return the id of a row of the list."""
        keys = (key for chunk in self.embeddings.ids() for key in chunk.keys)
        return next(islice(keys, row, None)).decode()

    def describe_absent(self, key: bytes) -> str:
        """Describe that an id has no embedding, and which one may be meant."""
        shown = key.decode(errors="backslashreplace")
        known = (found.decode() for chunk in self.embeddings.ids() for found in chunk.keys)
        near = difflib.get_close_matches(shown, list(islice(known, NEAR_IDS)), n=1)
        hint = f" (is {near[0]} meant?)" if near else ""
        return f'"{shown}" has no embedding in {self.embeddings.name}{hint}; leave the pair out, or predict it'


@dataclass(frozen=True)
class PairAnswers:
    """Predictions of the utterances of a list of embeddings."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    """(utterances,) indices of classes."""
    posteriors: NDArray[np.float64]
    """(utterances, classes)"""


def find_pairs(text: Text, first: IndexedEmbeddings, second: IndexedEmbeddings) -> NDArray[np.int64]:
    """Find the embeddings of pairs: (pairs, 2) rows of the two lists.

    Raises:
        CorpusError: a line has another form, an id has no embedding, or there is no pair.
    """
    rows = []
    for chunk in read_pairs(text, PAIR_FORM):
        columns = (chunk.keys, *chunk.columns)
        found = [side.find(keys) for side, keys in zip((first, second), columns, strict=True)]
        for side, keys, indices in zip((first, second), columns, found, strict=True):
            if (indices < 0).any():
                absent = int((indices < 0).argmax())
                raise CorpusError(f"{text.name}:{chunk.numbers[absent]}: {side.describe_absent(keys[absent])}")
        rows.append(np.stack(found, axis=1))
    if not rows:
        raise CorpusError(f"{text.name}: no pairs; a line is: {PAIR_FORM}")
    return np.concatenate(rows)


def read_answers(indexed: IndexedEmbeddings) -> PairAnswers | None:
    """Read the predictions of the run that embeddings are of; None if they are of none, or its model has no head.

    Raises:
        CorpusError: an utterance with an embedding has no prediction.
        OutputError: the run can't be read.
    """
    output_dir = indexed.embeddings.origin.output_dir
    if output_dir is None:
        return None
    folder = open_run_folder(output_dir)
    folder.refresh()
    if not folder.find_run().header.labels:
        return None
    with ExitStack() as stack:
        predictions = open_predictions(str(output_dir), stack)
        numbers = number_labels(predictions.labels)
        labels = np.full(len(indexed), -1, dtype=np.int64)
        posteriors = np.zeros((len(indexed), len(predictions.labels)))
        for chunk in predictions.chunks():
            rows = indexed.find(chunk.keys)
            is_found = rows >= 0
            labels[rows[is_found]] = np.array([numbers[word] for word in chunk.words])[is_found]
            posteriors[rows[is_found]] = chunk.posteriors[is_found]  # type: ignore[index] # a run's are known
    if (labels < 0).any():
        raise CorpusError(f"{output_dir}: an utterance of {indexed.embeddings.name} has no prediction there")
    return PairAnswers(predictions.labels, labels, posteriors)


@dataclass(frozen=True)
class Vectors:
    """Embeddings in memory, 4 bytes a number."""

    rows: NDArray[np.int64]
    """Rows of the list of embeddings, ascending."""
    values: NDArray[np.float32]
    """(rows, dim)"""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the embeddings of some rows: (rows, dim)."""
        return self.values[np.searchsorted(self.rows, rows)].astype(np.float64)


def read_vectors(
    sides: Sequence[IndexedEmbeddings], rows: NDArray[np.int64], is_centred: bool
) -> tuple[Vectors, Vectors]:
    """Read the embeddings of pairs.

    Args:
        sides: the embeddings of the first ids, and of the second; the same object for one source.
        rows: (pairs, 2): rows of the lists of both.
        is_centred: whether the mean of all embeddings of the first is subtracted, so that all of them are in memory.

    Raises:
        CorpusError: one can't be read, has numbers that are not finite, or no direction; or sizes differ.
    """
    first, second = sides
    everything = np.arange(len(first))
    if first is second:
        found = [_read_rows(first, everything if is_centred else rows)] * 2
    else:
        found = [_read_rows(first, everything if is_centred else rows[:, 0]), _read_rows(second, rows[:, 1])]
    dims = [vectors.values.shape[1] for vectors in found]
    if dims[0] != dims[1]:
        names = [f"those of {side.embeddings.name} have {dim} numbers" for side, dim in zip(sides, dims, strict=True)]
        raise CorpusError(f"embeddings of different sizes: {', '.join(names)}; are they of one model?")
    origin = found[0].values.mean(axis=0, dtype=np.float64) if is_centred else np.zeros(dims[0])
    _subtract(found[0], origin, first)
    if first is not second:
        _subtract(found[1], origin, second)
    return found[0], found[1]


def _read_rows(side: IndexedEmbeddings, rows: NDArray[np.int64]) -> Vectors:
    chosen = np.unique(rows)
    return Vectors(chosen, side.embeddings.read_means(chosen)[0])


def _subtract(vectors: Vectors, origin: NDArray[np.float64], side: IndexedEmbeddings) -> None:
    """Subtract an origin from embeddings, in place.

    Raises:
        CorpusError: one is zero, or nothing is left of it, so that it has no direction.
    """
    for begin in range(0, len(vectors.rows), BLOCK_PAIRS):
        block = vectors.values[begin : begin + BLOCK_PAIRS]
        moved = block - origin
        lengths = np.linalg.norm(block, axis=1)
        is_null = (lengths == 0) | (np.linalg.norm(moved, axis=1) <= RESOLUTION * lengths)
        if is_null.any():
            index = int(is_null.argmax())
            name, key = side.embeddings.name, side.id_of(int(vectors.rows[begin + index]))
            if lengths[index]:
                problem = f"the embedding of {key} is the mean of all, of which centring leaves nothing"
                raise CorpusError(f"{name}: {problem}; leave out --centre")
            raise CorpusError(f"{name}: the embedding of {key} is zero; compute it again, or leave its pairs out")
        block[:] = moved


def compute_cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the cosines of (pairs, dim) vectors, none of which is zero: (pairs,)."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float64] = np.clip(np.einsum("pd,pd->p", first, second) / lengths, -1, 1)
    return cosines


def compute_divergences(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute Jensen-Shannon divergences of (pairs, classes) distributions, in bits, from 0 to 1: (pairs,).

    That is the mean of the Kullback-Leibler divergences of both from their mean.
    """
    from scipy.special import rel_entr

    first, second = (posteriors / posteriors.sum(axis=1, keepdims=True) for posteriors in (first, second))
    middle = (first + second) / 2
    nats = (rel_entr(first, middle) + rel_entr(second, middle)).sum(axis=1) / 2
    bits: NDArray[np.float64] = np.clip(nats / math.log(2), 0, 1)
    return bits


@dataclass(frozen=True)
class PairComparison:
    """Pairs, with their embeddings and predictions."""

    text: Text
    rows: NDArray[np.int64]
    """(pairs, 2): rows of the lists of embeddings."""
    vectors: tuple[Vectors, Vectors]
    answers: tuple[PairAnswers, PairAnswers] | None
    """Predictions of both sides; None: only embeddings are compared."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the cells of a pair."""
        return PAIR_COLUMNS if self.answers is None else PAIR_COLUMNS + ANSWER_COLUMNS

    def first_ids(self) -> Iterator[list[bytes]]:
        """Read the first ids of pairs, some thousand at a time."""
        for chunk in read_pairs(self.text, PAIR_FORM):
            yield chunk.keys

    def cells(self) -> Iterator[list[tuple[str, ...]]]:
        """Compare all pairs: the cells of some thousand at a time."""
        begin = 0
        for chunk in read_pairs(self.text, PAIR_FORM):
            for start in range(0, len(chunk.keys), BLOCK_PAIRS):
                block = slice(start, start + BLOCK_PAIRS)
                names = [[key.decode() for key in keys[block]] for keys in (chunk.keys, *chunk.columns)]
                end = begin + len(names[0])
                yield list(zip(*names, *self._compare(self.rows[begin:end]), strict=True))
                begin = end

    def _compare(self, rows: NDArray[np.int64]) -> list[list[str]]:
        """Compare (pairs, 2) rows: a list a column."""
        first, second = (vectors.take(rows[:, side]) for side, vectors in enumerate(self.vectors))
        columns = [_format(compute_cosines(first, second))]
        if self.answers is not None:
            ours, theirs = self.answers
            is_same = ours.labels[rows[:, 0]] == theirs.labels[rows[:, 1]]
            columns.append(["true" if same else "false" for same in is_same.tolist()])
            diverging = compute_divergences(ours.posteriors[rows[:, 0]], theirs.posteriors[rows[:, 1]])
            columns.append(_format(diverging))
        return columns


def _format(numbers: NDArray[np.float64]) -> list[str]:
    """Format numbers with six decimals; 0 has no sign."""
    return [f"{number:.6f}" for number in (numbers.round(6) + 0.0).tolist()]
