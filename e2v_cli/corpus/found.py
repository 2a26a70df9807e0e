"""Audio without ids, whose ids are made of its path: named one by one, found in a folder, or listed without ids.

The id of a segment ends in its times. No id depends on other audio, so a corpus that grows keeps its ids.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from e2v_cli.audio.formats import audio_suffixes
from e2v_cli.audio.sources import is_url
from e2v_cli.corpus.lists import ListWriter
from e2v_cli.errors import CorpusError
from e2v_cli.options import IdForm
from e2v_cli.records import Segment
from e2v_cli.system.text import counted, percent_encoded

SHOWN_SUFFIXES = 5
"""Most suffixes in the description of the files that a search left out."""


def make_id(source: str, form: IdForm, root: str = "") -> bytes:
    """Make an id of a path or URL.

    Args:
        source: the path or URL.
        form: what the id is made of; the path of a URL is all of it.
        root: the folder that paths are relative to; empty: a path is taken as it is written.
    """
    if is_url(source) and form == "path":
        name = source
    elif form == "path":
        name = os.path.splitext(os.path.relpath(source, root) if root else os.path.normpath(source))[0]
    else:
        name = os.path.basename(_path_of(source))
        name = name if form == "name" else os.path.splitext(name)[0]
    return percent_encoded(name or source).encode()


def format_times(segment: Segment) -> bytes:
    """Format the end of a segment's id: the times in milliseconds, with at least seven digits as in Kaldi."""
    end = "end" if segment.end is None else f"{round(segment.end * 1000):07d}"
    return f"-{round(segment.start * 1000):07d}-{end}".encode()


def _path_of(source: str) -> str:
    """Return a path as it is; of a URL, the path on its server."""
    if is_url(source):
        with suppress(ValueError):  # an address that can't be one fails when it is asked for
            return unquote(urlsplit(source).path)
    return source


@dataclass
class LeftOut:
    """Files and folders that the search of a folder left out."""

    folder: Path
    suffixes: Counter[str] = field(default_factory=Counter)
    """Number of files that are not audio, by suffix in lower case."""
    hidden_folders: int = 0
    hidden_audio: int = 0
    """Number of hidden files with a suffix of audio."""

    def __str__(self) -> str:
        """Describe them on a line; empty if nothing was left out."""
        parts = []
        if count := self.suffixes.total():
            shown = [f"{number} {suffix or 'without a suffix'}" for suffix, number in self._most_frequent()]
            others = count - sum(number for _, number in self._most_frequent())
            shown += [counted(others, "other")] if others else []
            parts.append(f"{count} {'file that is' if count == 1 else 'files that are'} not audio: {', '.join(shown)}")
        hidden = [
            counted(count, f"hidden {name}")
            for count, name in ((self.hidden_folders, "folder"), (self.hidden_audio, "audio file"))
            if count
        ]
        if hidden:
            parts.append(f"{' and '.join(hidden)}, which --hidden searches")
        return f"{self.folder}: left out {'; '.join(parts)}" if parts else ""

    def _most_frequent(self) -> list[tuple[str, int]]:
        return sorted(self.suffixes.items(), key=lambda item: (-item[1], item))[:SHOWN_SUFFIXES]


def search_folder(folder: Path, hidden: bool, form: IdForm) -> tuple[ListWriter, LeftOut]:
    """Find all audio below a folder, also in linked folders, sorted by path.

    Args:
        folder: where to search.
        hidden: whether to search hidden folders and files, whose names begin with a dot.
        form: what ids are made of.

    Raises:
        CorpusError: a folder can't be read.
    """
    suffixes = audio_suffixes()
    found, left_out = ListWriter(), LeftOut(folder)
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
                found.add(make_id(path, form, str(folder)), os.fsencode(path))
            else:
                left_out.suffixes[percent_encoded(suffix)] += 1
    return found, left_out


def _refuse_folder(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: {error.strerror}") from None
