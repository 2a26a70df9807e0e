"""All rules together, against plain Python on random corpora."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from support.candidates import CLASSES, Row, make_candidates, make_ids, make_rows

from e2v_cli.analysis.labels.labels import Translation
from e2v_cli.analysis.reading.run_source import RunSource
from e2v_cli.analysis.select.rule_making import RuleMaker
from e2v_cli.analysis.select.rule_options import Condition, RuleOptions
from e2v_cli.analysis.select.selection import apply_rules, assign_part
from e2v_cli.corpus.ids import KeyIndex

HOUR_TICKS = 36_000_000


@dataclass(frozen=True)
class Beside:
    """What lies beside a corpus, in a folder."""

    folder: Path
    opinions: dict[str, str]
    numbers: dict[str, float]


def make_beside(rows: list[Row], random: Random, folder: Path) -> Beside:
    """Write a second opinion and a map of numbers, each without some utterances, in any order."""
    opinions = {row.utt_id: random.choice([row.label] * 3 + list(CLASSES)) for row in rows if random.random() < 0.9}
    numbers = {row.utt_id: random.choice([1.0, 2.5, 3.0, 4.0]) for row in rows if random.random() < 0.9}
    opinions.setdefault(rows[0].utt_id, rows[0].label)
    words = {"angry": "Anger", "sad": "sadness", "other": "other"}
    lines = [f"{utt_id} {words.get(label, label)}\n" for utt_id, label in opinions.items()]
    (folder / "opinion").write_text("".join(random.sample(lines, len(lines))))
    lines = [f"{utt_id} {number}\n" for utt_id, number in numbers.items()]
    (folder / "utt2mos").write_text("".join(random.sample(lines, len(lines))))
    return Beside(folder, opinions, numbers)


def make_options(random: Random, beside: Beside) -> RuleOptions:
    """Choose some rules."""

    def maybe(*values: object) -> object:
        return random.choice([None, None, *values])

    classes = tuple(sorted(random.sample(CLASSES, 3))) if random.random() < 0.2 else ()
    return RuleOptions(
        classes=classes,
        drop=(random.choice(CLASSES[:2]),) if not classes and random.random() < 0.1 else (),
        min_duration=cast("float | None", maybe(0.5, 1.0, 3.0)),
        max_duration=cast("float | None", maybe(4.0, 15.0)),
        where=(Condition("utt2mos", random.choice(["<", "<=", ">", ">=", "=="]), 3.0),)
        if random.random() < 0.3
        else (),
        agree=(str(beside.folder / "opinion"),) if random.random() < 0.3 else (),
        min_scores=random.choice([(), (), (("", 0.3),), (("anger", 0.4), ("sad", 0.2))]),
        min_margin=cast("float | None", maybe(0.05, 0.2)),
        threshold=cast("str | None", maybe("mean", "100%", "50%", "33.3%")),
        max_per_speaker=cast("int | None", maybe(1, 3)),
        hours=cast("float | None", maybe(0.002, 0.01)),
        top=cast("int | None", maybe(1, 2, 5)),
        balance=random.random() < 0.3,
    )


def select_slowly(rows: list[Row], options: RuleOptions, beside: Beside) -> dict[str, str]:
    """Return the name of the first rule that rejects each utterance, or kept, by the words of the documentation."""
    kept_classes = set(options.classes) or {name for name in CLASSES if name != "other"}
    kept_classes -= set(options.drop)
    by_class = defaultdict(list)
    for row in rows:
        by_class[row.label].append(row)
    for members in by_class.values():
        members.sort(key=lambda row: (-row.score, row.utt_id.encode()))
    limits = {("angry" if word == "anger" else word): limit for word, limit in options.min_scores}

    def rejects_by_threshold(row: Row) -> bool:
        threshold = options.threshold
        if threshold is None:
            if "" in limits or row.label in limits:
                return False
            threshold = "mean"
        members = by_class[row.label]
        if threshold == "mean":
            return Fraction(max(row.posteriors)) < Fraction(sum(max(each.posteriors) for each in members), len(members))
        count = math.ceil(len(members) * Fraction(threshold.removesuffix("%")) / 100)
        return members.index(row) >= count

    found = {}
    for row in rows:
        condition = options.where[0] if options.where else None
        number = beside.numbers.get(row.utt_id)
        tests = {
            "classes": row.label not in kept_classes,
            "min-duration": options.min_duration is not None and row.seconds < options.min_duration,
            "max-duration": options.max_duration is not None and row.seconds > options.max_duration,
            "where": condition is not None and (number is None or not compare(number, condition)),
            "agree": bool(options.agree) and beside.opinions.get(row.utt_id) != row.label,
            "min-score": row.score < limits.get(row.label, limits.get("", 0)),
            "min-margin": options.min_margin is not None and row.margin < options.min_margin,
            "threshold": rejects_by_threshold(row),
        }
        found[row.utt_id] = next((name for name, rejects in tests.items() if rejects), "kept")
    apply_quotas(rows, options, found)
    return found


def compare(number: float, condition: Condition) -> bool:
    return bool(eval(f"{number} {condition.operator} {condition.number}"))  # noqa: S307 — of this file alone


def apply_quotas(rows: list[Row], options: RuleOptions, found: dict[str, str]) -> None:
    """Reject what is beyond quotas."""

    def best_first() -> list[Row]:
        return sorted(
            (row for row in rows if found[row.utt_id] == "kept"), key=lambda row: (-row.score, row.utt_id.encode())
        )

    counts: dict[object, int] = defaultdict(int)
    for row in best_first() if options.max_per_speaker else ():
        counts[row.label, row.speaker] += 1
        if counts[row.label, row.speaker] > cast(int, options.max_per_speaker):
            found[row.utt_id] = "max-per-speaker"
    counts.clear()
    for row in best_first() if options.hours else ():
        counts[row.label] += row.ticks
        if counts[row.label] > cast(float, options.hours) * HOUR_TICKS:
            found[row.utt_id] = "hours"
    counts.clear()
    for row in best_first() if options.top else ():
        counts[row.label] += 1
        if counts[row.label] > cast(int, options.top):
            found[row.utt_id] = "top"
    sizes: dict[str, int] = defaultdict(int)
    for row in best_first():
        sizes[row.label] += 1
    counts.clear()
    for row in best_first() if options.balance else ():
        counts[row.label] += 1
        if counts[row.label] > min(sizes.values()):
            found[row.utt_id] = "balance"


def make_source(rows: list[Row], folder: Path) -> RunSource:
    """Make a stand-in for the source of a run: a folder with maps, and the speakers."""

    def read_speakers(_index: KeyIndex) -> tuple[NDArray[np.int32], list[bytes]]:
        return np.array(["xyz".index(row.speaker) for row in rows], dtype=np.int32), [b"x", b"y", b"z"]

    def find(name: str) -> list[Path]:
        return [folder / name] if (folder / name).exists() else []

    return cast(
        RunSource,
        SimpleNamespace(output_dir=folder, is_restricted=False, model=None, read_speakers=read_speakers, find=find),
    )


@pytest.mark.parametrize("seed", range(300))
def test_rules_agree_with_plain_python(seed: int, tmp_path: Path) -> None:
    """The first rule that rejects counts, and the funnel sums to the input."""
    random, rows = Random(seed), make_rows(seed)
    beside = make_beside(rows, random, tmp_path)
    options = make_options(random, beside)
    candidates = make_candidates(rows)

    maker = RuleMaker(options, candidates, make_ids(rows), make_source(rows, tmp_path), Translation(CLASSES))
    selection = apply_rules(candidates, maker.make())

    names = [*(rule.name for rule in selection.rules), "kept"]
    found = {row.utt_id: names[number] for row, number in zip(rows, selection.rejecting.tolist(), strict=True)}
    assert found == select_slowly(rows, options, beside)
    first, *steps = selection.funnel
    assert np.sum([step.counts for step in steps], axis=0).tolist() == first.counts.tolist()
    assert np.sum([step.seconds for step in steps], axis=0) == pytest.approx(first.seconds)
    assert first.seconds.sum() == pytest.approx(sum(row.seconds for row in rows))
    assert selection.funnel[-1].counts.sum() == list(found.values()).count("kept")


def test_parts_depend_on_the_speaker_alone() -> None:
    """Shares are those of many speakers; a part that grows keeps its speakers."""
    speakers = [f"spk{number}".encode() for number in range(4000)]
    parts = (("dev", 0.1), ("train", 0.9))

    assigned = [assign_part(speaker, parts) for speaker in speakers]

    assert assigned.count(0) / len(speakers) == pytest.approx(0.1, abs=0.02)
    wider = [assign_part(speaker, (("dev", 0.2), ("train", 0.8))) for speaker in speakers]
    assert all(new == 0 for old, new in zip(assigned, wider, strict=True) if old == 0)
    assert [assign_part(speaker, (("a", 0.3), ("b", 0.3), ("c", 0.4))) for speaker in (b"anna", b"ben", b"cem")] == [
        assign_part(speaker, (("x", 0.3), ("y", 0.3), ("z", 0.4))) for speaker in (b"anna", b"ben", b"cem")
    ]
