"""Labels: canonical names, aliases, maps of words to classes, merges of classes, closed sets.

A word means a class if it is the class's name, or if both are spellings of the same emotion. Corpora spell emotions in
many ways, and these are known; but single letters and numbers mean other emotions in other corpora, so that they need a
map. A closed set is some of a model's classes: their probabilities are summed within each merged class, and divided by
the sum of all of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2v_cli.corpus.lists import BLANKS, open_list
from e2v_cli.errors import CorpusError, UsageError

DROPPED = "-"
"""The class of a map whose utterances are left out of the reference."""

CLASSES = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")
"""Canonical names of the classes of emotion2vec+."""

_SPELLINGS = {
    "angry": "anger ang 生气 生氣 愤怒 憤怒",
    "disgusted": "disgust dis 厌恶 厭惡 恶心 噁心",
    "fearful": "fear fea 恐惧 恐懼 害怕",
    "happy": "happiness hap joy joyful 开心 開心 高兴 高興 快乐 快樂",
    "neutral": "neutrality neu 中立 中性",
    "other": "others oth 其他 其它",
    "sad": "sadness 难过 難過 悲伤 悲傷 伤心 傷心",
    "surprised": "surprise sur 吃惊 吃驚 惊讶 驚訝",
    "unknown": "unk <unk> 未知",
    "amused": "amusement",
    "anxious": "anxiety",
    "bored": "boredom 无聊 無聊",
    "calm": "calmness 平静 平靜",
    "concerned": "concern",
    "confused": "confusion",
    "contempt": "contemptuous 轻蔑 輕蔑",
    "disappointed": "disappointment",
    "enthusiastic": "enthusiasm",
    "excited": "excitement exc 兴奋 興奮",
    "frustrated": "frustration fru 沮丧 沮喪",
    "pained": "pain",
    "relaxed": "relaxation",
    "sarcastic": "sarcasm",
    "sleepy": "sleepiness",
    "worried": "worry 担心 擔心",
}
"""Names of emotions, and the other words that corpora have for them."""

_CANONICAL = {word: name for name, words in _SPELLINGS.items() for word in (name, *words.split())}


KNOWN = tuple(_SPELLINGS)
"""Canonical names of all emotions that are known by their words."""


def canonical_name(word: str) -> str | None:
    """Return the name of the emotion that a word means, in any case, in English and Chinese; None: it is not known.

    The word may be a token of a model, like ``生气/angry``.
    """
    text = word.strip().casefold()
    names = {_CANONICAL[part] for part in (text, *text.split("/")) if part in _CANONICAL}
    return names.pop() if len(names) == 1 else None


class LabelSet:
    """The classes of a model or of a reference, which are found by any word for them."""

    def __init__(self, names: Iterable[str]) -> None:
        """Index names.

        Two names of the same emotion, as ``joy`` and ``happy``, stay apart: other words for it mean the one that is
        its canonical name, or neither.
        """
        self.names = tuple(dict.fromkeys(names))
        self._found: dict[str, str] = {}
        for words in (map(canonical_name, self.names), map(str.casefold, self.names)):
            self._found |= _index_unique(words, self.names)
        self._found |= {name: name for name in self.names}

    def find(self, word: str) -> str | None:
        """Return the name of the class that a word means; None: no class of the set."""
        keys = (word, word.strip().casefold(), canonical_name(word))
        return next((self._found[key] for key in keys if key in self._found), None)


def _index_unique(words: Iterable[str | None], names: Sequence[str]) -> dict[str, str]:
    """Index the names that are alone in having their word."""
    found: dict[str, list[str]] = {}
    for word, name in zip(words, names, strict=True):
        if word is not None:
            found.setdefault(word, []).append(name)
    return {word: having[0] for word, having in found.items() if len(having) == 1}


def read_map(path: Path) -> dict[str, str]:
    """Read a map: a line has a word of a corpus and its class, or ``-`` to leave its utterances out.

    Columns are separated by tabs, or by other white space where the word has none. Words are found as they are
    written; classes by any word for them.

    Raises:
        CorpusError: the map can't be read, a line has another form, or a word has two lines.
    """
    classes: dict[str, str] = {}
    lines: dict[str, int] = {}
    with open_list(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip(BLANKS):
                continue
            try:
                text = line.strip(BLANKS).decode()
            except UnicodeDecodeError:
                raise CorpusError(f"{path}:{number}: not UTF-8; save the map as UTF-8") from None
            cells = [cell.strip() for cell in text.split("\t" if "\t" in text else None)]
            if len(cells) != 2 or not all(cells):
                raise CorpusError(f"{path}:{number}: {text!r}; a line is: word class, or word - to leave it out")
            word, name = cells
            if word in classes:
                raise CorpusError(f'{path}:{number}: "{word}" again (first on line {lines[word]})')
            classes[word], lines[word] = canonical_name(name) or name, number
    return classes


Merge = tuple[str, str]
"""A class, and the one that it becomes a part of."""


def parse_merge(text: str) -> Merge:
    """Parse ``excited=happy``.

    Raises:
        UsageError: it has another form.
    """
    source, equals, target = (part.strip() for part in text.partition("="))
    if not (source and equals and target) or "=" in target:
        raise UsageError(f"--merge {text}: not of the form a=b, which makes class a a part of b")
    return source, target


class Translation:
    """Translation of words of a corpus to classes: by a map, by name or as a known emotion, and then by merges."""

    def __init__(
        self, labels: Iterable[str], mapping: Mapping[str, str] | None = None, merges: Iterable[Merge] = ()
    ) -> None:
        """Resolve merges, in any order: a class that is merged into one that is merged itself follows it.

        Args:
            labels: classes with names of their own: a model's, and others that the user has named.
            mapping: a map of ``read_map``; its classes need not be known otherwise.
            merges: classes and what they become a part of, by any words for them.

        Raises:
            UsageError: merges contradict each other.
        """
        self.labels = LabelSet(labels)
        self._mapping = mapping or {}
        self._targets: dict[str, str] = {}
        for source, target in merges:
            name, new = self._name_of(source), self._name_of(target)
            if self._targets.get(name, new) != new:
                raise UsageError(f"--merge {source}={target}: {name} is merged into {self._targets[name]} already")
            if new == name:
                continue
            if self._follow(new) == name:
                raise UsageError(f"--merge {source}={target}: {new} is merged into {name} already")
            self._targets[name] = new

    def find(self, word: str) -> str | None:
        """Return the class that a word means, DROPPED if its utterances are left out; None: it is unknown."""
        if word in self._mapping:
            target = self._mapping[word]
            return target if target == DROPPED else self._follow(self._name_of(target))
        name = self.labels.find(word) or canonical_name(word)
        return name and self._follow(name)

    def _name_of(self, word: str) -> str:
        """Return the name of a class that the user has named, which may be a new one."""
        return self.labels.find(word) or canonical_name(word) or word

    def _follow(self, name: str) -> str:
        """Return the class that a class is merged into, or its own name."""
        while name in self._targets:
            name = self._targets[name]
        return name


def refuse_unknown_merges(
    merges: Iterable[Merge], labels: Iterable[str], mapping: Mapping[str, str], owner: str
) -> None:
    """Check that each merge is of a class that may be there: a typing error would merge nothing.

    Args:
        merges: classes, and what each becomes a part of, which may be new.
        labels: classes with names of their own.
        mapping: words, and their classes.
        owner: who has the labels, for messages.

    Raises:
        UsageError: a class is neither a label, nor in the mapping, nor known by its words.
    """
    merges = list(merges)
    known = LabelSet([*labels, *mapping.values(), *(target for _, target in merges), *KNOWN])
    for source, target in merges:
        if known.find(source) is None:
            raise UsageError(f"--merge {source}={target}: {owner} has it{suggest_label(source, known)}")


@dataclass(frozen=True)
class ClosedSet:
    """The classes that count, in the order of the labels that they are made of."""

    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    """(classes,): the indices of each class's labels, whose probabilities are summed."""

    @property
    def merges_any(self) -> bool:
        """Whether a class has several labels."""
        return any(len(group) > 1 for group in self.groups)


def merge_labels(labels: Sequence[str], translation: Translation) -> ClosedSet:
    """Merge labels, and keep all classes.

    A class stands where the label of its name does, and a new one where the first label does that is merged into it.
    """
    members: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(translation.find(label) or label, []).append(index)
    names = sorted(members, key=lambda name: labels.index(name) if name in labels else members[name][0])
    return ClosedSet(tuple(names), tuple(tuple(members[name]) for name in names))


def close_labels(labels: Sequence[str], classes: Sequence[str], merges: Sequence[Merge], owner: str) -> ClosedSet:
    """Merge labels as ``merge_labels`` does, and keep some of the classes.

    Args:
        labels: the labels of a model, in its order.
        classes: words for the classes that are kept, in any order; empty: all.
        merges: each of a label; what it becomes a part of may be new.
        owner: whose labels they are, for messages.

    Raises:
        UsageError: the labels have no such class, or merges contradict each other.
    """
    listed = f"{owner} has {', '.join(labels)}"
    translation = Translation(labels, merges=merges)
    for source, target in merges:
        if translation.labels.find(source) is None:
            raise UsageError(f"--merge {source}={target}: {describe_unknown(source, translation.labels)}; {listed}")
    closed = merge_labels(labels, translation)
    merged, wanted = LabelSet(closed.names), set()
    for word in classes:
        name = merged.find(word)
        if name is None:
            after = f", merged into {', '.join(merged.names)}" if merges else ""
            raise UsageError(f"--classes {word}: {describe_unknown(word, merged)}; {listed}{after}")
        wanted.add(name)
    pairs = zip(closed.names, closed.groups, strict=True)
    kept = {name: group for name, group in pairs if name in wanted or not classes}
    return ClosedSet(tuple(kept), tuple(kept.values()))


def nearest_label(word: str, labels: LabelSet) -> str | None:
    """Return the label with the spelling most like an unknown word; None: no label is like it."""
    spellings = [*map(str.casefold, labels.names), *(spelling for spelling in _CANONICAL if labels.find(spelling))]
    near = difflib.get_close_matches(word.strip().casefold(), spellings, n=1, cutoff=0.7)
    return labels.find(near[0]) if near else None


def describe_unknown(word: str, labels: LabelSet) -> str:
    """Describe that there is no such label, and which one may be meant."""
    return f"no class {word}{suggest_label(word, labels)}"


def suggest_label(word: str, labels: LabelSet) -> str:
    """Ask whether the label most like an unknown word is meant, at the end of a message; empty: no label is like it."""
    nearest = nearest_label(word, labels)
    return f" (is {nearest} meant?)" if nearest else ""
