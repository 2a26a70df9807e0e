"""``e2v report``: a run, finished or not → one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.originals import (
    find_lists,
    find_utterances,
    make_input_options,
    read_speakers,
    read_transcripts,
    working_folder_of,
)
from e2v_cli.audio.decode import AudioOptions
from e2v_cli.errors import E2vError, OutputConflictError, UsageError
from e2v_cli.journal.folder import PAGE
from e2v_cli.journal.ids import IdList
from e2v_cli.journal.journal import Header
from e2v_cli.options import MISSING_IN_REPORTS, ComputeOptions, ReportOptions, ScoreOptions
from e2v_cli.report.against import Against, compare_run, make_block
from e2v_cli.report.choice import choose_utterances
from e2v_cli.report.clips import Clip, make_clips
from e2v_cli.report.columns import RunResults, Speakers, read_columns
from e2v_cli.report.examples import choose_part, read_examples
from e2v_cli.report.facts import RunFacts, gather_facts
from e2v_cli.report.overview import make_overview
from e2v_cli.report.page import Card, Page, render_page
from e2v_cli.report.palette import mark_labels
from e2v_cli.report.projection import EmbeddingMap, make_map
from e2v_cli.report.speakers import tabulate_speakers
from e2v_cli.results.publish import open_run_folder
from e2v_cli.system.files import exists, published

LISTED = 60
"""The least number of utterances that are listed one by one, whatever the number of clips."""

_SCORING = ScoreOptions(missing=MISSING_IN_REPORTS)


@dataclass(frozen=True)
class WrittenPage:
    """The page that was written."""

    path: Path
    size: int
    """Size of the page, in bytes."""
    clips: int
    notes: Sequence[str]
    """Notes on what is missing, and why."""


def report(
    output_dir: Path, options: ReportOptions, reference: str | None = None, scoring: ScoreOptions = _SCORING
) -> WrittenPage:
    """Write the page of a run.

    Args:
        output_dir: OUT.
        options: what the page holds.
        reference: what the run is compared with; None: nothing.
        scoring: how it is compared.

    Raises:
        OutputError: there is no run, or it can't be read.
        OutputConflictError: the file exists.
        CorpusError: the reference can't be used.
        UsageError: an option needs a reference, or does not fit it.
        OSError: a file of the run can't be read, or the page can't be written.
    """
    path = options.path or output_dir / PAGE
    if exists(path) and not options.overwrite:
        raise OutputConflictError(f"{path} exists: replace it with --overwrite, or choose another -o")
    if reference is None and scoring != _SCORING:
        raise UsageError("the options of e2v score need what it compares with: add --reference REF")
    page = _make_page(output_dir, options, reference, scoring)
    content = render_page(page)
    with published(path) as file:
        file.write(content)
    return WrittenPage(path, len(content), sum(card.clip is not None for card in page.cards), page.notes)


def _make_page(output_dir: Path, options: ReportOptions, reference: str | None, scoring: ScoreOptions) -> Page:
    """Collect the contents of the page: first all that the journals have, then the audio of what was chosen."""
    folder = open_run_folder(output_dir)
    folder.refresh()
    header = folder.find_run().header
    compared = None
    if reference is not None:  # before all else is in memory
        compared = compare_run(output_dir, header.input_sha256, reference, scoring)
    ids = IdList(output_dir, header.input_sha256)
    notes: list[str] = []
    numbers, names = _find_speakers(output_dir, header, ids, notes)
    history = folder.read_history(ids)
    columns = read_columns(history, header.labels)
    run = RunResults(output_dir, header, history, columns, Speakers(numbers[columns.list_indices], names))
    facts = gather_facts(folder, header, history)
    against = None if compared is None else compared.of(columns.list_indices)
    page = _describe_run(run, facts, against, options, notes)
    checksums = [None if ids.checksums is None else int(ids.checksums[card.example.list_index]) for card in page.cards]
    del folder, ids, history, columns, run, numbers, compared, against  # the list takes as much again
    texts = _read_texts(output_dir, header, page.cards, notes)
    return _add_sound(replace(page, notes=notes), texts, header, checksums, options)


def _find_speakers(
    output_dir: Path, header: Header, ids: IdList, notes: list[str]
) -> tuple[NDArray[np.int32], Sequence[str]]:
    """Read the speakers of all utterances of a list, and note if they are not known."""
    try:
        numbers, names = read_speakers(output_dir, header, ids.index)
        if not names:
            notes.append("No utt2spk beside the run's lists: each utterance counts as a speaker of its own.")
        return numbers, names
    except (E2vError, OSError) as error:
        notes.append(f"Speakers are not known: {error}")
        return np.full(len(ids), -1, dtype=np.int32), ()


def _describe_run(
    run: RunResults, facts: RunFacts, against: Against | None, options: ReportOptions, notes: list[str]
) -> Page:
    """Describe all that the journals and files of a run have; cards have neither sound nor text yet."""
    marks = mark_labels(run.header.labels)
    choice = choose_utterances(run, max(LISTED, options.clips), against)
    numbers = choice.numbers
    examples = read_examples(run, [*numbers, *choice.longest])
    truths = against.name_truths(choice.errors) if against else {}
    return Page(
        title=options.title or run.output_dir.resolve().name,
        facts=facts,
        marks=marks,
        overview=make_overview(run.columns, marks) if len(run.columns) else None,
        examples=[examples[index] for index in numbers],
        cards=[
            Card(
                examples[index], number, choose_part(examples[index], options.clip_seconds), truth=truths.get(index, "")
            )
            for number, index in enumerate(choice.with_cards)
        ],
        doubtful=[numbers[index] for index in choice.doubtful],
        next_doubtful=[numbers[index] for index in choice.next_doubtful],
        typical=[numbers[index] for index in choice.typical],
        reference=make_block(against, choice.errors, choice.in_cells, numbers) if against else None,
        longest=[examples[index] for index in choice.longest],
        speakers=tabulate_speakers(run),
        map=_draw_map(run, notes) if options.projection == "pca" else None,
        clip_seconds=options.clip_seconds,
        notes=notes,
    )


def _draw_map(run: RunResults, notes: list[str]) -> EmbeddingMap | None:
    try:
        return make_map(run)
    except (OSError, ValueError) as error:
        notes.append(f"There is no map: {error}")
        return None


def _add_sound(
    page: Page, texts: Mapping[str, str], header: Header, checksums: Sequence[int | None], options: ReportOptions
) -> Page:
    """Add clips and transcripts to the cards of a page, and note what is missing."""
    with working_folder_of(header):
        clips = _read_clips(header, page.cards[: options.clips], checksums, options)
    cards = [
        replace(card, sound=sound, text=texts.get(card.example.utt_id, ""))
        for card, sound in zip(page.cards, [*clips, *[None] * (len(page.cards) - len(clips))], strict=True)
    ]
    silent = [card for card in cards if card.why_silent]
    if not silent:
        return replace(page, cards=cards)
    first = silent[0]
    note = f"{len(silent)} of {len(clips)} clips are missing, as {first.example.utt_id}: {first.why_silent}"
    return replace(page, cards=cards, notes=[*page.notes, note])


def _read_texts(output_dir: Path, header: Header, cards: Sequence[Card], notes: list[str]) -> dict[str, str]:
    try:
        return read_transcripts(find_lists(output_dir, header, "text"), [card.example.utt_id for card in cards])
    except (E2vError, OSError) as error:
        notes.append(f"Transcripts are not known: {error}")
        return {}


def _read_clips(
    header: Header, cards: Sequence[Card], checksums: Sequence[int | None], options: ReportOptions
) -> list[Clip | str]:
    """Read the clip of each card, or find out why it has no clip."""
    if not cards:
        return []
    reading = make_input_options(header, options.allow_pipes)
    utterances = find_utterances(reading, [card.example.utt_id for card in cards], checksums[: len(cards)])
    wanted = [(card.example, card.part, item) for card, item in zip(cards, utterances, strict=True)]
    return make_clips(wanted, AudioOptions(reading, ComputeOptions(), min_samples=1))
