"""Texts in tables and on terminals: words, TSV rows, aligned columns, lengths of time."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NO_WORD = r"\s\x00-\x1f\x7f\ufeff\udc80-\udcff"
"""White space of any script, since Python's readers of Kaldi's lists end an id there; control characters, a byte order
mark, and bytes that are no UTF-8."""


_BLANKS = str.maketrans("\t\n\r", "   ")


def is_word(text: str) -> bool:
    """Whether a text can be a column of Kaldi's lists, so that all tools read the same."""
    return not re.search(f"[{_NO_WORD}]", text)


def percent_encoded(text: str) -> str:
    """Make a word of a text: what no word has is percent-encoded, and so is %, so that no two texts become the same."""
    encoded = re.compile(f"[%{_NO_WORD}]")
    return encoded.sub(lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match.group())), text)


def tsv_row(fields: Iterable[str]) -> str:
    """Join the cells of a row by tabs; a tab or line break within a cell becomes a space."""
    return "\t".join([field.translate(_BLANKS) for field in fields])


def json_content(content: Mapping[str, Any]) -> bytes:
    """Format a JSON file that people read, too: a line a value."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def number_word(number: float) -> str:
    """Format a number as the command line reads it: no digit is lost, and a whole one has no point."""
    return str(number).removesuffix(".0")


def counted(number: int, noun: str) -> str:
    """Count things by their noun: 1 speaker, 2 speakers."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def redact(text: str) -> str:
    """Replace the secrets that URLs in a text may have: user and password, query and fragment."""
    text = re.sub(r"(?<=://)[^\s/?#]*@", "***@", text)
    return re.sub(r"(://[^\s?#]*)[?#]\S*", r"\1?***", text)


def columns(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Align rows in columns as wide as they need; ``numbers``: all but the first column to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if numbers and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def display_width(text: str) -> int:
    """Count the columns of a terminal that a text fills: two for each wide character, as of Chinese."""
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def padded(text: str, width: int, to_right: bool = False) -> str:
    """Fill a text with blanks up to a width in columns of a terminal."""
    blanks = " " * (width - display_width(text))
    return blanks + text if to_right else text + blanks


def fitted(text: str, width: int) -> str:
    """Shorten a text for a terminal: of long ones the first third and the end, by which ids mostly differ, are left.

    Control characters are replaced: a terminal would obey them.
    """
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    if display_width(text) <= width:
        return text
    head = _begin_of(text, (width - 1) // 3)
    end = _begin_of(text[::-1], width - 1 - display_width(head))[::-1]
    return f"{head}…{end}"


def _begin_of(text: str, width: int) -> str:
    """Return as many of a text's first characters as a width has room for."""
    size = 0
    while size < len(text) and display_width(text[: size + 1]) <= width:
        size += 1
    return text[:size]


def describe_seconds(seconds: float) -> str:
    """Format a length of time: ``2.6 s``, or from ten minutes on as a clock shows it."""
    return f"{seconds:.1f} s" if seconds < 600 else clock(seconds)


def clock(seconds: float) -> str:
    """Format a length of time as hours, minutes and seconds: ``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
