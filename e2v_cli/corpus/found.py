"""Audio without ids, whose ids are made of its path: named one by one, found in a folder, or listed without ids.

An id is the stem of the path, or more of the path if other audio has the same stem; the id of a segment ends in its
times. So it depends on all inputs. Until they are read, paths are on disk, and memory has only hashes of them.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.audio.sources import is_url
from e2v_cli.corpus.lists import ListWriter
from e2v_cli.errors import CorpusError
from e2v_cli.records import Segment
from e2v_cli.system.text import percent_encoded

SHOWN_SUFFIXES = 5
"""The most suffixes in the description of what a folder left out."""

_STEM, _RELATIVE, _FROM_HERE = range(3)
"""What an id is made of."""


class FoundAudio:
    """Audio of one or more INPUTs that has no ids yet, in order."""

    def __init__(self, name: str = "", folder: str = "") -> None:
        """Begin with none.

        Args:
            name: of the list in messages; empty if there is no list.
            folder: the list's own, for relative paths that the current folder doesn't have.
        """
        self.name = name
        self.folder = folder
        self.stems, self.sources = array("q"), array("q")
        """(files,): hashes; those of sources are the same for segments of one source alone."""
        self._drafts = ListWriter()
        """Lines of relative paths as ids, and sources."""

    def __len__(self) -> int:
        return len(self.stems)

    @property
    def relatives(self) -> array[int]:
        """(files,): hashes of relative paths."""
        return self._drafts.hashes

    def add(self, source: str, relative: str, segment: Segment | None = None, number: int = 0) -> None:
        """Add audio.

        Args:
            source: a path or URL.
            relative: the path as an id, where its stem is ambiguous: within the folder that was named, or from here.
            segment: the part of it; None: all.
            number: of the line in the list, counted from 1; 0: there is no list.
        """
        word = percent_encoded(relative).encode()
        self.stems.append(hash(_make_stem(source, word)))
        self.sources.append(hash(source) if segment else hash((id(self), len(self))))
        self._drafts.add(word, os.fsencode(source), segment, number)

    def name_all(self, choices: NDArray[np.int8]) -> ListWriter:
        """Make the list with ids; ``choices`` are those of ``choose_ids``: (files,)."""
        drafts, writer = self._drafts, ListWriter()
        lines = zip(drafts.finish("").entries(), drafts.segments(), choices, strict=True)
        for (word, source), segment, choice in lines:
            if choice == _STEM:
                key = _make_stem(os.fsdecode(source), word)
            else:
                key = word if choice == _RELATIVE else _make_path(os.fsdecode(source))
            writer.add(key + _format_times(segment) if segment else key, source, segment)
        writer.blanks = drafts.blanks
        return writer


def choose_ids(found: Sequence[FoundAudio], taken: NDArray[np.int64]) -> list[NDArray[np.int8]]:
    """Choose what the ids of all audio are made of: (files,) of each; ``taken`` are hashes of other ids."""
    sources = _join(each.sources for each in found)
    stems = _join(each.stems for each in found)
    choices = np.full(len(stems), _STEM, dtype=np.int8)
    has_other = _are_ambiguous(stems, sources) | np.isin(stems, taken)
    if has_other.any():
        choices[has_other] = _RELATIVE
        choices[has_other & _are_ambiguous(_join(each.relatives for each in found), sources)] = _FROM_HERE
    return np.split(choices, np.cumsum([len(each) for each in found])[:-1])


def _join(hashes: Iterable[array[int]]) -> NDArray[np.int64]:
    """Join arrays; one alone is not copied."""
    parts = [np.frombuffer(part, dtype=np.int64) for part in hashes]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _are_ambiguous(names: NDArray[np.int64], sources: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which audio has a name that other sources have, too: (files,), from hashes."""
    _, firsts, groups = np.unique(names, return_index=True, return_inverse=True)
    several = np.zeros(len(firsts), dtype=np.bool_)
    several[groups[sources != sources[firsts[groups]]]] = True
    ambiguous: NDArray[np.bool_] = several[groups]
    return ambiguous


def _make_stem(source: str, relative: bytes) -> bytes:
    """Make an id of a path without folder and suffix; of the relative path if nothing is left."""
    name = source
    if is_url(name):
        with suppress(ValueError):  # an address that can't be one fails when it is asked for
            name = unquote(urlsplit(name).path)
    return percent_encoded(os.path.splitext(os.path.basename(name))[0]).encode() or relative


def _make_path(source: str) -> bytes:
    """Make an id of a path from here, or of a URL."""
    return percent_encoded(source if is_url(source) else os.path.relpath(source)).encode()


def _format_times(segment: Segment) -> bytes:
    """Format what the id of a segment ends in: its times in milliseconds, with at least seven digits as in Kaldi."""
    end = "end" if segment.end is None else f"{round(segment.end * 1000):07d}"
    return f"-{round(segment.start * 1000):07d}-{end}".encode()


@dataclass
class LeftOut:
    """What the search of a folder left out."""

    folder: Path
    suffixes: Counter[str] = field(default_factory=Counter)
    """Of files that are not audio, in lower case."""
    hidden_folders: int = 0
    hidden_audio: int = 0
    """Files with a suffix of audio."""

    def __str__(self) -> str:
        """Describe it on a line; empty if it is nothing."""
        parts = []
        if count := self.suffixes.total():
            shown = [f"{number} {suffix or 'without a suffix'}" for suffix, number in self._most_frequent()]
            others = count - sum(number for _, number in self._most_frequent())
            shown += [f"{others} other{'' if others == 1 else 's'}"] if others else []
            parts.append(f"{count} {'file that is' if count == 1 else 'files that are'} not audio: {', '.join(shown)}")
        hidden = [
            f"{count} hidden {name}{'' if count == 1 else 's'}"
            for count, name in ((self.hidden_folders, "folder"), (self.hidden_audio, "audio file"))
            if count
        ]
        if hidden:
            parts.append(f"{' and '.join(hidden)}, which --hidden searches")
        return f"{self.folder}: left out {'; '.join(parts)}" if parts else ""

    def _most_frequent(self) -> list[tuple[str, int]]:
        return sorted(self.suffixes.items(), key=lambda item: (-item[1], item))[:SHOWN_SUFFIXES]


def search_folder(folder: Path, hidden: bool) -> tuple[FoundAudio, LeftOut]:
    """Find all audio below a folder, also in linked folders, sorted by path.

    Args:
        folder: where to search.
        hidden: whether to search hidden folders and files, whose names begin with a dot.

    Raises:
        CorpusError: a folder can't be read.
    """
    suffixes = audio_suffixes()
    found, left_out = FoundAudio(), LeftOut(folder)
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder that was visited, perhaps a parent
            folders.clear()
            continue
        seen.add(real)
        if not hidden:
            visible = [name for name in folders if not name.startswith(".")]
            left_out.hidden_folders += len(folders) - len(visible)
            folders[:] = visible
        folders.sort()
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(".") and not hidden:
                left_out.hidden_audio += suffix in suffixes
            elif suffix in suffixes:
                path = os.path.join(parent, name)
                found.add(path, os.path.relpath(path, folder))
            else:
                left_out.suffixes[percent_encoded(suffix)] += 1
    return found, left_out


def _refuse_folder(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: {error.strerror}") from None
