"""A score → text, Markdown or LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from e2v_cli.analysis.score.score import Score, View
from e2v_cli.analysis.score.score_tables import (
    TextTable,
    confusion_table,
    describe_comparison,
    list_tables,
    write_methods,
)
from e2v_cli.system.text import columns

BLOCKS = "▁▂▃▄▅▆▇█"
"""Shares of a class's utterances, in eighths."""


def format_text(score: Score, blocks: bool = False) -> str:
    """Format a score for eyes; ``blocks``: with the shares in the confusion matrix drawn."""
    parts = ["".join(f"{line}\n" for line in describe_comparison(score))]
    for table in list_tables(score):
        parts.append(_align(table))
        if table.title == "Classes":
            parts.append(_align(_draw_shares(score.view) if blocks else confusion_table(score.view)))
    parts += [f"{line}\n" for line in (_describe_mcnemar(score), write_methods(score)) if line]
    return "\n".join(parts)


def _align(table: TextTable) -> str:
    return f"{table.title}\n{columns([table.header, *table.rows], numbers=True)}"


def _draw_shares(view: View) -> TextTable:
    """Make the table of the confusion matrix with a block for the share of its row in each cell; none for 0."""
    plain = confusion_table(view)
    rows = []
    for row, counts in zip(plain.rows, view.confusion, strict=True):
        total = max(1, sum(counts))
        drawn = (BLOCKS[min(7, 8 * count // total)] if count else " " for count in counts)
        rows.append((row[0], *(f"{cell} {block}" for cell, block in zip(row[1:], drawn, strict=True))))
    return TextTable(plain.title, (plain.header[0], *(f"{name}  " for name in view.answers)), tuple(rows))


def _describe_mcnemar(score: Score) -> str:
    if score.comparison is None:
        return ""
    found = score.comparison.mcnemar
    return (
        f"McNemar's exact test of WA: {found.only_first} utterances only here right, {found.only_second} only there, "
        f"p = {found.p:.4g}"
    )


def format_markdown(score: Score) -> str:
    """Format a score as Markdown: a table each."""
    tables = [*list_tables(score)[:2], confusion_table(score.view), *list_tables(score)[2:]]
    parts = [*(f"- {_escape_markdown(line)}\n" for line in describe_comparison(score))]
    parts = ["".join(parts)]
    for table in tables:
        rule = "|---|" + "---:|" * (len(table.header) - 1)
        lines = [_markdown_row(table.header), rule, *map(_markdown_row, table.rows)]
        parts.append(f"**{_escape_markdown(table.title)}**\n\n" + "".join(f"{line}\n" for line in lines))
    parts += [f"{_escape_markdown(line)}\n" for line in (_describe_mcnemar(score), write_methods(score)) if line]
    return "\n".join(parts)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape_markdown, cells))} |"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "…": r"\dots{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}
"""Characters that LaTeX reads otherwise."""


def format_latex(score: Score) -> str:
    """Format a score as LaTeX: a ``tabular`` each, for a document that needs no packages."""
    tables = [*list_tables(score)[:2], confusion_table(score.view), *list_tables(score)[2:]]
    parts = ["".join(f"% {line}\n" for line in describe_comparison(score))]
    parts += [_latex_tabular(table) for table in tables]
    parts += [f"{_escape_latex(line)}\n" for line in (_describe_mcnemar(score), write_methods(score)) if line]
    return "\n".join(parts)


def _latex_tabular(table: TextTable) -> str:
    def row(cells: Sequence[str]) -> str:
        return " & ".join(map(_escape_latex, cells)) + r" \\"

    lines = [
        f"% {table.title}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\hline",
        row(table.header),
        r"\hline",
        *map(row, table.rows),
        r"\hline",
        r"\end{tabular}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)
