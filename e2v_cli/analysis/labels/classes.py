"""The classes that count, the utterances of a reference that are left out, and the names of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.labels.labels import (
    DROPPED,
    KNOWN,
    ClosedSet,
    LabelSet,
    Merge,
    Translation,
    canonical_name,
    merge_labels,
    nearest_label,
    refuse_unknown_merges,
    suggest_label,
)
from e2v_cli.analysis.reading.finder import WordCodes
from e2v_cli.analysis.reading.references import Reference
from e2v_cli.errors import CorpusError, UsageError

SHOWN_WORDS = 20
"""Unknown labels in a message; of more, only their number."""

MISSING = "(none)"
"""The answer of an utterance without a prediction that counts as wrong."""


def english_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the canonical names of a model's labels; if two are equal, return the labels themselves."""
    names = tuple(canonical_name(label) or label for label in labels)
    return names if len(set(names)) == len(names) else tuple(labels)


def merge_columns(labels: Sequence[str], merges: Iterable[Merge]) -> ClosedSet:
    """Merge the columns of posteriors, by the canonical names of their labels."""
    names = english_names(labels)
    return merge_labels(names, Translation(names, merges=merges))


@dataclass(frozen=True)
class CountedClasses:
    """The classes that count, and the class of each utterance of the reference."""

    names: tuple[str, ...]
    """Names of the classes: in the order of the model, then in that of ``KNOWN``, then by name."""
    indices: NDArray[np.int16]
    """(utterances,): indices of the classes of the reference's utterances; -1: left out."""
    dropped: Mapping[str, int]
    """Number of utterances that the map leaves out, by word of the reference."""
    uncounted: Mapping[str, int]
    """Number of utterances of each class that does not count."""


def count_classes(
    reference: Reference,
    model: ClosedSet,
    mapping: Mapping[str, str],
    merges: Sequence[Merge],
    wanted: Sequence[str],
) -> CountedClasses:
    """Choose the classes that count.

    Args:
        reference: the labels.
        model: the classes that are predicted, if they are known.
        mapping: words and their classes, or DROPPED.
        merges: classes, and what each becomes a part of.
        wanted: words for the classes that count; none: all of the reference.

    Raises:
        CorpusError: labels are unknown, or no utterance is left.
        UsageError: a class that is wanted, or merged, is unknown.
    """
    translation = Translation([*model.names, *map(_name_of, wanted)], mapping, merges)
    refuse_unknown_merges(merges, translation.labels.names, mapping, "neither the model nor the reference")
    found = translate_words(reference.labels, translation.find, LabelSet([*model.names, *KNOWN]))
    present = dict.fromkeys(name for name in found if name != DROPPED)
    names = sorted(present, key=lambda name: _rank(name, model))
    if wanted:
        known = Translation([*model.names, *present], merges=merges)
        chosen = {_find_wanted(word, known, LabelSet([*model.names, *present, *KNOWN])) for word in wanted}
        names = sorted(chosen, key=lambda name: _rank(name, model))
    index_of = {name: index for index, name in enumerate(names)}
    of_word = np.array([index_of.get(name, -1) for name in found], dtype=np.int16)
    dropped, uncounted = {}, dict.fromkeys((name for name in present if name not in index_of), 0)
    for word, name, count in zip(reference.labels.words, found, reference.labels.counts.tolist(), strict=True):
        if name == DROPPED:
            dropped[word] = count
        elif name in uncounted:
            uncounted[name] += count
    indices = of_word[reference.codes]
    if not (indices >= 0).any():
        raise CorpusError(
            f"{reference.text.name}: no utterance is left: all are of other classes, or left out by --map"
        )
    return CountedClasses(tuple(names), indices, dropped, uncounted)


def _name_of(word: str) -> str:
    return canonical_name(word) or word


def _find_wanted(word: str, known: Translation, labels: LabelSet) -> str:
    """Return the class of a word of ``--classes``.

    Raises:
        UsageError: it is unknown.
    """
    name = known.find(word)
    if name is None:
        raise UsageError(f"--classes {word}: neither the model nor the reference has it{suggest_label(word, labels)}")
    return name


def _rank(name: str, model: ClosedSet) -> tuple[int, str]:
    if name in model.names:
        return model.names.index(name), ""
    return len(model.names) + (KNOWN.index(name) if name in KNOWN else len(KNOWN)), name


def translate_words(words: WordCodes, find: Callable[[str], str | None], labels: LabelSet) -> list[str]:
    """Translate all words of a text.

    Args:
        words: the words, with their counts.
        find: a word → its class, None: it is unknown.
        labels: labels that may be meant by unknown words.

    Raises:
        CorpusError: words are unknown; the message has all, with the nearest label.
    """
    found = [find(word) for word in words.words]
    unknown = [index for index, name in enumerate(found) if name is None]
    if not unknown:
        return [name for name in found if name is not None]
    shown = []
    for index in unknown[:SHOWN_WORDS]:
        near = nearest_label(words.words[index], labels)
        count, line = int(words.counts[index]), words.first_lines[index]
        times = f"once, line {line}" if count == 1 else f"{count} times, from line {line}"
        shown.append(f'"{words.words[index]}" ({times}{f"; {near}?" if near else ""})')
    others = f" and {len(unknown) - SHOWN_WORDS} others" if len(unknown) > SHOWN_WORDS else ""
    raise CorpusError(
        f"{words.name}:{words.first_lines[unknown[0]]}: unknown label{'' if len(unknown) == 1 else 's'} "
        f"{', '.join(shown)}{others}; --map FILE has their classes, a line each: word class, or word - to leave it out"
    )


class AnswerNames:
    """Names of answers: the classes that count, then others in the order in which they come."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = list(classes)
        self._indices = {name: index for index, name in enumerate(classes)}

    def index(self, name: str) -> int:
        """Return the index of an answer."""
        if name not in self._indices:
            self._indices[name] = len(self.names)
            self.names.append(name)
        return self._indices[name]
