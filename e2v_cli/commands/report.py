"""``e2v report``: a run, finished or not → one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.originals import (
    find_lists,
    find_utterances,
    make_input_options,
    read_transcripts,
    working_folder_of,
)
from e2v_cli.audio.decode import AudioOptions
from e2v_cli.corpus.data_dir import number_values, read_speaker_lines
from e2v_cli.errors import E2vError, OutputConflictError
from e2v_cli.journal.ids import IdList
from e2v_cli.journal.journal import Header
from e2v_cli.options import ComputeOptions, ReportOptions
from e2v_cli.report.clips import Clip, make_clips
from e2v_cli.report.columns import Columns, RunResults, Speakers, read_columns
from e2v_cli.report.doubtful import choose_doubtful, choose_next_doubtful, choose_typical
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
"""Utterances that are listed one by one, at least, whatever the number of clips."""

LONGEST = 12
"""Utterances whose whole timelines are shown."""


@dataclass(frozen=True)
class WrittenPage:
    """The page that was written."""

    path: Path
    size: int
    """Bytes."""
    clips: int
    notes: Sequence[str]
    """What is missing, and why."""


def report(output_dir: Path, options: ReportOptions) -> WrittenPage:
    """Write the page of a run.

    Raises:
        OutputError: there is no run, or it can't be read.
        OutputConflictError: the file exists.
        OSError: a file of the run can't be read, or the page can't be written.
    """
    path = options.path or output_dir / "report.html"
    if exists(path) and not options.overwrite:
        raise OutputConflictError(f"{path} exists: replace it with --overwrite, or choose another -o")
    page = _make_page(output_dir, options)
    content = render_page(page)
    with published(path) as file:
        file.write(content)
    return WrittenPage(path, len(content), sum(card.clip is not None for card in page.cards), page.notes)


def _make_page(output_dir: Path, options: ReportOptions) -> Page:
    """Collect what the page shows: first all that the journals have, then the audio of what was chosen."""
    folder = open_run_folder(output_dir)
    folder.refresh()
    header = folder.find_run().header
    ids = IdList(output_dir, header.input_sha256)
    notes: list[str] = []
    numbers, names = _read_speakers(output_dir, header, ids, notes)
    history = folder.read_history(ids)
    columns = read_columns(history, header.labels)
    run = RunResults(output_dir, header, history, columns, Speakers(numbers[columns.places], names))
    facts = gather_facts(folder, header, history)
    page = _describe_run(run, facts, options, notes)
    checksums = [None if ids.checksums is None else int(ids.checksums[card.example.place]) for card in page.cards]
    del folder, ids, history, columns, run, numbers  # the list takes as much again
    return _add_sound(page, output_dir, header, checksums, options)


def _read_speakers(
    output_dir: Path, header: Header, ids: IdList, notes: list[str]
) -> tuple[NDArray[np.int32], Sequence[str]]:
    """Read the speakers of all utterances of a list, and note if they are not known."""
    try:
        numbers, names = number_values(find_lists(output_dir, header, "utt2spk"), read_speaker_lines, ids.index)
        if not names:
            notes.append("No utt2spk beside the run's lists: each utterance counts as a speaker of its own.")
        return numbers.astype(np.int32), names
    except (E2vError, OSError) as error:
        notes.append(f"Speakers are not known: {error}")
        return np.full(len(ids), -1, dtype=np.int32), ()


def _describe_run(run: RunResults, facts: RunFacts, options: ReportOptions, notes: list[str]) -> Page:
    """Describe all that the journals and files of a run have; cards have neither sound nor text yet."""
    columns, marks = run.columns, mark_labels(run.header.labels)
    doubtful, following, typical = _choose(run, options) if marks else ([], [], [])
    longest = _choose_longest(columns) if run.header.fingerprint["timeline"] != "off" else []
    examples = read_examples(run, [*doubtful, *following, *typical, *longest])
    cards = [
        Card(examples[index], number, choose_part(examples[index], options.clip_seconds))
        for number, index in enumerate([*doubtful, *following, *typical])
    ]
    num_doubtful = len(doubtful) + len(following)
    return Page(
        title=options.title or run.output_dir.resolve().name,
        facts=facts,
        marks=marks,
        overview=make_overview(columns, marks) if len(columns) else None,
        doubtful=cards[: len(doubtful)],
        next_doubtful=cards[len(doubtful) : num_doubtful],
        typical=cards[num_doubtful:],
        longest=[examples[index] for index in longest],
        speakers=tabulate_speakers(run),
        map=_draw_map(run, notes) if options.map == "pca" else None,
        clip_seconds=options.clip_seconds,
        notes=notes,
    )


def _choose(run: RunResults, options: ReportOptions) -> tuple[list[int], list[int], list[int]]:
    """Choose the utterances that are listed: the doubtful, the next in doubt, the typical; indices in the columns."""
    columns, speakers, listed = run.columns, run.speakers.numbers, max(LISTED, options.clips)
    count = min(listed * 2 // 3, (len(columns) + 1) // 2)  # of a short list, what is left is hardly doubtful
    doubtful = choose_doubtful(columns, speakers, count)
    following = choose_next_doubtful(columns, set(doubtful), count - len(doubtful))
    typical = choose_typical(columns, speakers, listed // 3, {*doubtful, *following})
    return doubtful, following, typical


def _choose_longest(columns: Columns) -> list[int]:
    """Choose the longest utterances, by descending duration: indices in the columns."""
    longest: list[int] = np.argsort(-columns.durations, kind="stable")[:LONGEST].tolist()
    return longest


def _draw_map(run: RunResults, notes: list[str]) -> EmbeddingMap | None:
    try:
        return make_map(run)
    except (OSError, ValueError) as error:
        notes.append(f"There is no map: {error}")
        return None


def _add_sound(
    page: Page, output_dir: Path, header: Header, checksums: Sequence[int | None], options: ReportOptions
) -> Page:
    """Add clips and transcripts to the cards of a page, and note what is missing."""
    cards, notes = page.cards, list(page.notes)
    texts = _read_texts(output_dir, header, cards, notes)
    with working_folder_of(header):
        clips = _read_clips(header, cards[: options.clips], checksums, options)
    complete = [
        replace(card, sound=sound, text=texts.get(card.example.utt_id, ""))
        for card, sound in zip(cards, [*clips, *[None] * (len(cards) - len(clips))], strict=True)
    ]
    silent = [card for card in complete if card.why_silent]
    if silent:
        first = silent[0]
        notes.append(f"{len(silent)} of {len(clips)} clips are missing, as {first.example.utt_id}: {first.why_silent}")
    following, typical = len(page.doubtful), len(page.doubtful) + len(page.next_doubtful)
    return replace(
        page,
        doubtful=complete[:following],
        next_doubtful=complete[following:typical],
        typical=complete[typical:],
        notes=notes,
    )


def _read_texts(output_dir: Path, header: Header, cards: Sequence[Card], notes: list[str]) -> dict[str, str]:
    try:
        return read_transcripts(find_lists(output_dir, header, "text"), [card.example.utt_id for card in cards])
    except (E2vError, OSError) as error:
        notes.append(f"Transcripts are not known: {error}")
        return {}


def _read_clips(
    header: Header, cards: Sequence[Card], checksums: Sequence[int | None], options: ReportOptions
) -> list[Clip | str]:
    """Read the sound of each card, or why there is none."""
    if not cards:
        return []
    reading = make_input_options(header, options.allow_pipes)
    utterances = find_utterances(reading, [card.example.utt_id for card in cards], checksums[: len(cards)])
    wanted = [(card.example, card.part, item) for card, item in zip(cards, utterances, strict=True)]
    return make_clips(wanted, AudioOptions(reading, ComputeOptions(), min_samples=1))
