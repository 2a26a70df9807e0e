"""``e2v select``: a run and rules → a Kaldi data directory of what is kept."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_cli._version import __version__
from e2v_cli.analysis.labels.labels import Translation, read_map, refuse_unknown_merges
from e2v_cli.analysis.reading.answers import open_predictions
from e2v_cli.analysis.reading.run_source import RunSource
from e2v_cli.analysis.reading.selections import SELECTION_FILE, read_selection
from e2v_cli.analysis.select.candidates import read_candidates
from e2v_cli.analysis.select.data_writer import Material, write_data_dir
from e2v_cli.analysis.select.funnel import (
    Unpredicted,
    describe_funnel,
    describe_limits,
    found_facts,
    funnel_facts,
    rule_facts,
    write_rejected,
)
from e2v_cli.analysis.select.rule_making import RuleMaker
from e2v_cli.analysis.select.rule_options import LISTS, RuleOptions, SourceOptions
from e2v_cli.analysis.select.selection import Selection, apply_rules, assign_part
from e2v_cli.commands.new_folder import new_folder, refuse_existing
from e2v_cli.corpus.lists import has_list
from e2v_cli.errors import OutputError
from e2v_cli.journal.journal import holds_run
from e2v_cli.system.files import is_directory, sync_file, sync_folder
from e2v_cli.system.text import json_content


@dataclass(frozen=True)
class Outcome:
    """The result of ``e2v select``."""

    text: str
    """The funnel."""
    kept: int
    notes: tuple[str, ...]
    """Notes for the user."""
    short: tuple[str, ...]
    """Shortfalls of each rule, in words."""


def select(output_dir: Path, data_dir: Path | None, rules: RuleOptions, origin: SourceOptions) -> Outcome:
    """Select utterances, and write their data directory.

    Args:
        output_dir: OUT, or a data directory that was selected from one, of which no other utterances are kept.
        data_dir: DATA; None: nothing is written.
        rules: the rules that the user gave.
        origin: options of the source of the selection.

    Raises:
        CorpusError: a list can't be read, or the run's has changed.
        OutputError: there is no run, it is not finished, or DATA can't be written.
        OutputConflictError: DATA exists.
        UsageError: the run has no such class.
    """
    if data_dir is not None:
        refuse_existing(data_dir)
    output_dir, selected = _find_run(output_dir)
    with ExitStack() as stack:
        predictions = open_predictions(str(output_dir), stack)
        if predictions.left and not origin.partial:
            raise OutputError(
                f"{output_dir} is not complete: {predictions.left} utterances are left; run the same e2v predict "
                "command again, or select from what is done with --partial"
            )
        candidates, ids = read_candidates(predictions)
    mapping = None if origin.map is None else read_map(origin.map)
    translation = Translation(candidates.classes, mapping, origin.merges)
    refuse_unknown_merges(origin.merges, candidates.classes, mapping or {}, "neither the run nor --map")
    maker = RuleMaker(rules, candidates, ids, RunSource(output_dir, origin.data, selected), translation)
    selection = apply_rules(candidates, maker.make())
    notes = [*maker.found.notes, *_describe_idle(selection, rules)]
    unpredicted = Unpredicted(predictions.failed, predictions.left)
    text = describe_funnel(candidates, selection, unpredicted, maker.found.thresholds)
    kept = int(selection.kept.sum())
    if data_dir is None:
        text += "\n" + describe_limits(candidates, selection)
    elif kept:
        facts = {
            **_describe_source(maker.source),
            "merge": ["=".join(merge) for merge in origin.merges],
            "rules": rule_facts(rules),
            **found_facts(maker.found),
            "funnel": funnel_facts(candidates, selection, unpredicted),
        }
        maps = sorted({condition.map for condition in rules.where} - {*LISTS})
        material = Material(candidates, ids, maker.source, *maker.speakers, maps)
        del maker  # its index of the ids takes as much as that of the list, which is read now
        notes += _write(data_dir, material, selection, rules.split, facts)
    return Outcome(text, kept, tuple(notes), tuple(selection.short))


def _find_run(folder: Path) -> tuple[Path, Path | None]:
    """Return the run, and the selection from it that was named in its place; None: the run itself was named.

    Raises:
        OutputError: there is no run.
    """
    if holds_run(folder) or not has_list(folder / SELECTION_FILE):
        return folder, None
    run = read_selection(folder).get("out")
    if not isinstance(run, str) or not is_directory(Path(run)):
        raise OutputError(
            f"{folder} is a selection from {run}, which is not there; compute it again: e2v predict {folder} -o OUT"
        )
    return Path(run), folder


def _describe_idle(selection: Selection, options: RuleOptions) -> list[str]:
    """Describe the rules that were given, and reject nothing."""
    given = rule_facts(options)
    if options.threshold is None:
        given.pop("threshold", None)
    if options.drop:
        given["classes"] = list(options.drop)
    steps = zip(selection.rules, selection.judgements, selection.funnel[1:-1], strict=True)
    return [
        f"--{rule.name} has no effect: it rejects nothing of what the rules before it leave"
        for rule, judgement, step in steps
        if rule.name in given and not judgement.short and not step.counts.any()
    ]


def _describe_source(source: RunSource) -> dict[str, Any]:
    """Describe the source of the selection, as ``select.json`` has it."""
    return {
        "e2v": __version__,
        "out": str(source.output_dir.resolve()),
        "model": source.model,
        "channel": source.channel + 1 if isinstance(source.channel, int) else source.channel,
    }


def _write(
    path: Path, material: Material, selection: Selection, parts: tuple[tuple[str, float], ...], facts: dict[str, Any]
) -> list[str]:
    """Write DATA, all of it or nothing, and return notes.

    Raises:
        CorpusError: a list of the source can't be read.
        OutputConflictError: DATA exists by now.
        OSError: it can't be written.
    """
    with new_folder(path) as draft:
        notes = write_data_dir(draft, material, selection.kept)
        if parts:
            part_of = _assign_parts(material, parts)
            facts["parts"] = {}
        for index, (name, _) in enumerate(parts):
            chosen = selection.kept & (part_of == index)
            facts["parts"][name] = int(chosen.sum())
            if not chosen.any():
                notes.append(f"--split: no speaker is in {name}, so it is left out")
                continue
            (draft / name).mkdir()
            write_data_dir(draft / name, material, chosen)
            sync_folder(draft / name)
        with (draft / "rejected.tsv").open("wb") as file:
            digest = write_rejected(file, material.candidates, material.ids, selection)
            sync_file(file)
        facts["digests"] = {"predictions": digest, **facts["digests"]}
        with (draft / SELECTION_FILE).open("wb") as file:
            file.write(json_content(facts))
            sync_file(file)
    return notes


def _assign_parts(material: Material, parts: tuple[tuple[str, float], ...]) -> NDArray[np.int8]:
    """Assign each candidate to a part, by its speaker: (candidates,)."""
    of_speaker = np.array([*(assign_part(name, parts) for name in material.speaker_names), 0], dtype=np.int8)
    part_of = of_speaker[material.speakers]
    first = 0
    for keys in material.ids.chunks():
        for row in (first + np.flatnonzero(material.speakers[first : first + len(keys)] < 0)).tolist():
            part_of[row] = assign_part(keys[row - first], parts)
        first += len(keys)
    return part_of
