"""``e2v similarity``: pairs of utterances → how alike their embeddings and posteriors are, a row a pair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path

from e2v_cli.analysis.reading.keyed import Text, open_text
from e2v_cli.analysis.reading.vectors import open_embeddings
from e2v_cli.analysis.similarity import (
    IndexedEmbeddings,
    PairAnswers,
    PairComparison,
    find_pairs,
    read_answers,
    read_vectors,
)
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.options import RowOptions
from e2v_cli.results.rows import RowPrinter
from e2v_cli.system.files import published


def similarity(
    pairs: str, sources: tuple[str, str | None], is_centred: bool, options: RowOptions, path: Path | None
) -> str:
    """Print a row for each pair, and return a note for the user, or an empty text.

    Args:
        pairs: a list of pairs of ids, or ``-``.
        sources: the embeddings of the first ids of pairs, and those of the second; None: the same.
        is_centred: whether the mean of all embeddings of the first source is subtracted.
        options: of the rows.
        path: where they are written; None: on standard output.

    Raises:
        CorpusError: an input can't be used, or an embedding is missing, or has no direction.
        OutputError: a run can't be read.
        UsageError: a column is unknown, or rows would replace the pairs.
        OSError: rows can't be written.
    """
    if path is not None and path.resolve() == Path(pairs).resolve():
        raise UsageError(f"-o {path}: the pairs are there, and would be replaced; choose another -o")
    with ExitStack() as stack:
        comparison, note = _read_comparison(open_text(pairs, stack), sources, is_centred)
        file = None if path is None else stack.enter_context(_published_text(path))
        printer = RowPrinter(options, comparison.columns, (), comparison.first_ids(), ("utt_id1",), file)
        for cells in comparison.cells():
            printer.print(cells)
    return note


def _read_comparison(text: Text, sources: tuple[str, str | None], is_centred: bool) -> tuple[PairComparison, str]:
    """Read all that is compared, so that nothing is printed if some of it can't be used; and return a note."""
    first = IndexedEmbeddings(open_embeddings(sources[0]))
    second = first if sources[1] is None else IndexedEmbeddings(open_embeddings(sources[1]))
    _refuse_other_models(first, second)
    rows = find_pairs(text, first, second)
    vectors = read_vectors((first, second), rows, is_centred)
    ours = read_answers(first)
    theirs = ours if first is second else read_answers(second)
    if ours is None or theirs is None or ours.classes != theirs.classes:
        return PairComparison(text, rows, vectors, None), _describe_other_classes((first, ours), (second, theirs))
    return PairComparison(text, rows, vectors, (ours, theirs)), ""


def _describe_other_classes(*sides: tuple[IndexedEmbeddings, PairAnswers | None]) -> str:
    """Describe why labels are not compared; empty if neither side has any."""
    if all(answers is None for _, answers in sides):
        return ""
    listed = [
        f"{side.embeddings.name} has {'none' if answers is None else ', '.join(answers.classes)}"
        for side, answers in sides
    ]
    return f"labels are not compared, since classes differ: {'; '.join(listed)}"


def _refuse_other_models(first: IndexedEmbeddings, second: IndexedEmbeddings) -> None:
    """Check that embeddings are not known to be of two models, or of two layers.

    Raises:
        CorpusError: they are.
    """
    origins = first.embeddings.origin, second.embeddings.origin
    known = {(origin.model_sha256, origin.layer) for origin in origins if origin.model_sha256 is not None}
    if len(known) > 1:
        listed = [
            f"{origin.name} has those of {origin.model} ({str(origin.model_sha256)[:12]}"
            f"{f', layer {origin.layer}' if origin.layer else ''})"
            for origin in origins
        ]
        raise CorpusError(
            f"embeddings of different models or layers can't be compared: {', '.join(listed)}; "
            "compute both with the same"
        )


@contextmanager
def _published_text(path: Path) -> Iterator[TextIOWrapper]:
    """Open a text file that gets its name when the block ends without an error."""
    with published(path) as file:
        text = TextIOWrapper(file)
        yield text
        text.flush()
        text.detach()
