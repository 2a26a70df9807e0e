"""Texts in tables and on terminals: TSV rows, aligned columns, lengths of time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def tsv_row(fields: Iterable[str]) -> str:
    """Join the cells of a row by tabs; a tab or line break within a cell becomes a space."""
    return "\t".join(re.sub(r"[\t\n\r]", " ", field) for field in fields)


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


def clock(seconds: float) -> str:
    """Format a length of time as hours, minutes and seconds: ``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
