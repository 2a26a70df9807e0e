"""Pages of HTML, as a browser without scripts would see them, and data whose texts try to be more than text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from support.processes import ROOT

SAMPLES = ("f1-0001", "f1-0002", "f1-0003", "m1-0001", "m1-0002", "m2-0001")
HOSTILE = "\"'><script>alert(1)</script><img/src=x>&amp;"


def write_data(folder: Path, ids: Sequence[str] = SAMPLES) -> Path:
    """Write a data directory of samples under other ids, each of a speaker of its own, and all with one transcript."""
    folder.mkdir()
    sources = sorted((ROOT / "sample_data" / "wav").iterdir())
    (folder / "wav.scp").write_text("".join(f"{utt_id} {sources[at]}\n" for at, utt_id in enumerate(ids)))
    (folder / "utt2spk").write_text("".join(f"{utt_id} speaker{at}\n" for at, utt_id in enumerate(ids)))
    (folder / "text").write_text("".join(f"{utt_id} {HOSTILE} \u2028\u202e\n" for utt_id in ids))
    return folder


class ParsedPage(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, path: Path) -> None:
        """Parse a file."""
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        """Element, attribute and value."""
        self._parts: list[str] = []
        self._open: list[str] = []
        self._data = ""
        self.html = path.read_bytes().decode()
        self.feed(self.html)
        self.close()

    @property
    def text(self) -> str:
        """What is read, with single blanks."""
        return " ".join("".join(self._parts).split())

    @property
    def data(self) -> dict[str, Any]:
        """What the script gets."""
        return dict(json.loads(self._data))

    def section(self, title: str) -> str:
        """Return the text from a heading up to the next one of the same size."""
        match = re.search(rf"§{re.escape(title)}§(.*?)(§|$)", "".join(self._parts), re.DOTALL)
        assert match, title
        return " ".join(match[1].split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._open.append(tag)
        self._parts.append("§" if tag == "h2" else " ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        self._parts.append("§" if tag == "h2" else " ")

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"] and data.startswith("{"):
            self._data = data
        elif not {"script", "style", "title"} & set(self._open):
            self._parts.append(data)
