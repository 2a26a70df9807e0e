"""Predictions → the answer to each utterance of a reference, open and closed, in one pass and in bounded memory.

Open: the label as predicted, of all classes of the model. Closed: the most probable of the classes that count, by
their probabilities, which are summed where classes are merged, and divided by their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.labels.classes import AnswerNames, CountedClasses, translate_words
from e2v_cli.analysis.labels.labels import KNOWN, ClosedSet, LabelSet
from e2v_cli.analysis.metrics.calibration import CalibrationSums
from e2v_cli.analysis.reading.answers import AnswerChunk, Predictions
from e2v_cli.analysis.reading.finder import WordCodes, refuse_duplicates, without_suffixes
from e2v_cli.analysis.reading.references import MAX_LABELS, Reference
from e2v_cli.errors import CorpusError

SUM_DIGITS = 9
"""Decimals of summed probabilities: sums of six decimals that are equal stay equal."""

EXAMPLES = 200
"""Ids of each side that are compared if none is common."""


@dataclass(frozen=True)
class Answers:
    """The answers of a system to the utterances of a reference."""

    indices: NDArray[np.int16]
    """(utterances,): indices among the names of answers; -1: no answer."""
    scores: NDArray[np.float32] | None
    """(utterances,): probabilities of the answers; None: not known."""
    truths: NDArray[np.float32] | None
    """(utterances,): probabilities of the reference's classes; None: not kept."""
    sums: CalibrationSums | None
    ties: int = 0
    """Utterances with several most probable classes, of which the first is the answer."""


@dataclass(frozen=True)
class System:
    """The answers of predictions to the utterances of a reference."""

    name: str
    sha256: str
    open: Answers
    closed: Answers | None
    """Closed answers; None: no posteriors, or of no class that counts."""
    num_predictions: int
    num_others: int
    """Predictions of utterances that the reference does not have."""
    failed: int
    left: int


class _AnswerCollector:
    """The answers of one kind, and their probabilities."""

    def __init__(self, size: int, has_posteriors: bool, keeps_truths: bool) -> None:
        self.indices = np.full(size, -1, dtype=np.int16)
        self.scores = np.zeros(size, dtype=np.float32) if has_posteriors else None
        self.truths = np.zeros(size, dtype=np.float32) if has_posteriors and keeps_truths else None
        self.sums = CalibrationSums()
        self.ties = 0

    def add(
        self,
        reference_indices: NDArray[np.int64],
        answers: NDArray[np.int16],
        classes: NDArray[np.int16],
        posteriors: NDArray[np.float64],
        columns: NDArray[np.int64],
    ) -> None:
        """Add answers and their probabilities.

        Args:
            reference_indices: (utterances,) indices in the reference.
            answers: (utterances,).
            classes: (utterances,) of the reference.
            posteriors: (utterances, columns).
            columns: (answers,) the column of each; -1: no column.
        """
        if self.scores is None:
            return
        rows = np.arange(len(reference_indices))
        of_answer, of_class = columns[answers], columns[classes]
        scores = np.where(of_answer >= 0, posteriors[rows, of_answer], posteriors.max(axis=1))
        self.scores[reference_indices] = scores
        if self.truths is not None:
            self.truths[reference_indices] = np.where(of_class >= 0, posteriors[rows, of_class], 0.0)
        has = of_class >= 0
        self.sums.add(posteriors[has], of_class[has], scores[has], (answers == classes)[has])

    def finish(self) -> Answers:
        """Return all answers."""
        has_posteriors = self.scores is not None
        return Answers(self.indices, self.scores, self.truths, self.sums if has_posteriors else None, self.ties)


class _Matcher:
    """Predictions, chunk by chunk → answers to a reference."""

    def __init__(self, classes: CountedClasses, names: AnswerNames, model: ClosedSet, is_closed: bool) -> None:
        size = len(classes.indices)
        self._classes, self._model = classes, model
        self.open = _AnswerCollector(size, bool(model.names), keeps_truths=not is_closed)
        self.closed: _AnswerCollector | None = None
        self._model_answers = np.array([names.index(name) for name in model.names], dtype=np.int16)
        counted = [index for index, name in enumerate(model.names) if name in classes.names]
        if counted:
            self.closed = _AnswerCollector(size, has_posteriors=True, keeps_truths=is_closed)
        self._closed_columns = np.array(counted, dtype=np.int64)
        self._columns = _invert(self._model_answers)
        self._closed_of = _invert(self._model_answers[self._closed_columns])

    def counts(self, found: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether the utterance at each index in the reference counts; -1: no utterance."""
        counts: NDArray[np.bool_] = (found >= 0) & (self._classes.indices[found] >= 0)
        return counts

    def add(
        self, reference_indices: NDArray[np.int64], answers: NDArray[np.int16], posteriors: NDArray[np.float64] | None
    ) -> None:
        """Add predictions of utterances that count: their indices in the reference, answers and posteriors."""
        classes = self._classes.indices[reference_indices]
        self.open.indices[reference_indices] = answers
        if posteriors is None:
            return
        if self._model.merges_any:
            merged = [posteriors[:, list(group)].sum(axis=1) for group in self._model.groups]
            posteriors = np.round(np.stack(merged, axis=1), SUM_DIGITS)
        self.open.add(reference_indices, answers, classes, posteriors, self._columns)
        if self.closed is None:
            return
        chosen = posteriors[:, self._closed_columns]
        best = chosen.argmax(axis=1)
        self.closed.ties += int(((chosen == chosen.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())
        sums = chosen.sum(axis=1, keepdims=True)
        shares = np.divide(chosen, sums, out=np.full_like(chosen, 1 / chosen.shape[1]), where=sums > 0)
        answers = self._model_answers[self._closed_columns][best]
        self.closed.indices[reference_indices] = answers
        self.closed.add(reference_indices, answers, classes, shares, self._closed_of)


def match_predictions(
    predictions: Predictions,
    reference: Reference,
    classes: CountedClasses,
    names: AnswerNames,
    model: ClosedSet,
    translation: Callable[[str], str | None],
    is_closed: bool,
) -> System:
    """Match predictions with a reference.

    Args:
        predictions: the predictions.
        reference: the reference.
        classes: those that count.
        names: of answers, to which those of the predictions are added.
        model: the classes of the posteriors; without names if there are no posteriors.
        translation: a predicted word → its class; None: it is unknown.
        is_closed: whether the headline is of closed answers, whose probabilities are kept.

    Raises:
        CorpusError: an id is there twice, a label is unknown, or no id is common.
    """
    words = WordCodes(predictions.text.name, MAX_LABELS)
    matcher = _Matcher(classes, names, model, is_closed)
    hashes: list[NDArray[np.int64]] = []
    answer_of = np.empty(0, dtype=np.int16)
    num_found = 0
    first: list[bytes] = []
    for chunk in predictions.chunks():
        codes = words.encode(chunk.words, chunk.numbers)
        answer_of = _extend(answer_of, words, names, translation)
        first = first or chunk.keys[:EXAMPLES]
        hashes.append(reference.finder.hashes_of(chunk.keys))
        found = reference.finder.find(hashes[-1])
        num_found += int((found >= 0).sum())
        _add_counted(matcher, chunk, found, answer_of[codes])
    known = LabelSet([*classes.names, *model.names, *KNOWN])
    translate_words(words, translation, known)
    num_predictions = sum(map(len, hashes))
    if not num_found:
        if not first:
            raise CorpusError(f"{predictions.text.name}: empty: no utterance has a prediction")
        raise CorpusError(describe_no_common(predictions.text.name, reference, first))
    joined = np.concatenate(hashes)
    hashes.clear()
    refuse_duplicates(joined, predictions.text.name, predictions.ids, reference.finder.hashes_of)
    closed = matcher.closed
    return System(
        name=predictions.name,
        sha256=predictions.text.sha256(),
        open=matcher.open.finish(),
        closed=closed.finish() if closed else None,
        num_predictions=num_predictions,
        num_others=num_predictions - num_found,
        failed=predictions.failed,
        left=predictions.left,
    )


def _invert(answers: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return the index that each answer has in an array of answers: (all answers,); -1: not in it."""
    indices = np.full(np.iinfo(np.int16).max + 1, -1, dtype=np.int64)
    indices[answers] = np.arange(len(answers))
    return indices


def _extend(
    answer_of: NDArray[np.int16], words: WordCodes, names: AnswerNames, translation: Callable[[str], str | None]
) -> NDArray[np.int16]:
    """Extend answers by those of new words: (words,); an unknown word, which is refused in the end, gets any answer."""
    if len(answer_of) == len(words.words):
        return answer_of
    found = (translation(word) for word in words.words[len(answer_of) :])
    new = [0 if name is None else names.index(name) for name in found]
    return np.concatenate([answer_of, np.array(new, dtype=np.int16)])


def _add_counted(matcher: _Matcher, chunk: AnswerChunk, found: NDArray[np.int64], answers: NDArray[np.int16]) -> None:
    """Add those predictions of a chunk whose utterances count."""
    counts = matcher.counts(found)
    posteriors = None if chunk.posteriors is None else chunk.posteriors[counts]
    matcher.add(found[counts], answers[counts], posteriors)


def describe_no_common(name: str, reference: Reference, keys: Sequence[bytes]) -> str:
    """Describe that no id is common, with an example of each side, and the prefixes by which they differ.

    Args:
        name: of what is compared with the reference.
        reference: the reference.
        keys: some ids of the other side.
    """
    others = next(reference.finder.ids())[:EXAMPLES]
    ours, theirs = (list(zip(without_suffixes(ids), ids, strict=True)) for ids in (list(keys), others))
    pairs = ((_common_end(own[0], other[0]), own, other) for own in ours for other in theirs)
    length, (key, own), (other, their) = max(pairs, key=lambda pair: pair[0])
    shown, known = own.decode(errors="backslashreplace"), their.decode(errors="backslashreplace")
    prefixes = (key[: len(key) - length], other[: len(other) - length])
    differ = ""
    if length * 2 >= min(len(key), len(other)):
        named = [f'"{prefix.decode(errors="backslashreplace")}"' for prefix in prefixes if prefix]
        differ = f"; they differ by the prefix{'es' if len(named) > 1 else ''} {' and '.join(named)}"
    where = f"{name}: no utt-id in common with {reference.text.name}"
    return f'{where}: "{shown}" here, "{known}" there{differ}'


def _common_end(first: bytes, second: bytes) -> int:
    """Return the number of bytes at the end that two ids have in common."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
