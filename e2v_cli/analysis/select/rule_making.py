"""The user's options → rules, in the order in which they are applied."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.labels.labels import LabelSet, Translation, canonical_name, describe_unknown
from e2v_cli.analysis.reading.run_source import RunSource
from e2v_cli.analysis.reading.selections import SELECTION_FILE, read_selection
from e2v_cli.analysis.select.candidates import Candidates
from e2v_cli.analysis.select.opinions import (
    Opinion,
    hash_ids,
    read_labels,
    read_numbers,
    read_opinion,
    share_of_spans,
)
from e2v_cli.analysis.select.rule_options import ANY_CLASS, DROPPED_CLASSES, MEAN, Condition, RuleOptions, parse_percent
from e2v_cli.analysis.select.rules import (
    Agreement,
    Balance,
    BestOfClass,
    Bound,
    HoursOfClass,
    KeptClasses,
    Members,
    Rule,
    TopOfClass,
    durations_of,
    margins_of,
    scores_of,
)
from e2v_cli.analysis.select.sorted_ids import SortedIds
from e2v_cli.analysis.select.thresholds import (
    SampleBound,
    calibrate,
    count_shares,
    mean_scores,
    share_scores,
    smallest_sample,
)
from e2v_cli.corpus.ids import KeyIndex
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.options import parse_timelines
from e2v_cli.results.formats import TIMELINE_TABLE, timeline_suffixes, with_suffix

TOLERANCE = 2e-5
"""The most that scores of an utterance differ if it is predicted again, with others in its batch: 1e-5, and tables
round them."""


@dataclass
class Found:
    """Findings from making the rules."""

    thresholds: dict[str, float | None] = field(default_factory=dict)
    """Threshold of each class that is kept; None: no score reaches the precision."""
    sample_bounds: dict[str, SampleBound] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of opinions and references, in hexadecimal, by their names."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user."""


class RuleMaker:
    """Makes the rules of options for the candidates of a run."""

    def __init__(
        self,
        options: RuleOptions,
        candidates: Candidates,
        ids: SortedIds,
        source: RunSource,
        translation: Translation,
    ) -> None:
        """Keep the inputs of the rules; a file is read only if a rule needs it.

        Args:
            options: the rules that the user gave.
            candidates: all utterances.
            ids: the ids of the candidates.
            source: the list of the run, with tables beside it.
            translation: words of opinions and references → classes.
        """
        self.found = Found()
        self.source = source
        self._options, self._candidates, self._ids = options, candidates, ids
        self._translation = translation
        self._own = tuple(translation.find(label) or label for label in candidates.classes)
        self.kept = self._choose_classes()
        """(classes,): whether each is kept."""

    def make(self) -> list[Rule]:
        """Make the rules, in the order in which they are applied.

        Raises:
            CorpusError: a file that a rule needs can't be read, or has nothing of the run.
            UsageError: the run has no such class.
        """
        options = self._options
        names = tuple(np.array(self._candidates.classes, dtype=object)[self.kept])
        rules: list[Rule] = [Members(self.source.find_members(self.index))] if self.source.is_restricted else []
        rules.append(KeptClasses(names))
        for name, sign, limit in (("min", ">=", options.min_duration), ("max", "<=", options.max_duration)):
            if limit is not None:
                rules.append(Bound(f"{name}-duration", durations_of, sign, self._same(limit), 4))
        rules += self._make_conditions()
        rules += (Agreement(self._read_opinion(item), self._own) for item in options.agree)
        if options.steady is not None:
            shares = self._read_steadiness()
            rules.append(Bound("steady", lambda _, rows: shares[rows], ">=", self._same(options.steady), 6))
        if options.min_scores:
            rules.append(Bound("min-score", scores_of, ">=", self._min_scores, 6))
        if options.min_margin is not None:
            rules.append(Bound("min-margin", margins_of, ">=", self._same(options.min_margin), 6))
        if options.default_threshold is not None:
            rules.append(self._make_threshold(options.default_threshold))
        if options.precision is not None:
            rules.append(self._make_calibrated(options.precision, str(options.reference)))
        return rules + self._make_quotas()

    @cached_property
    def index(self) -> KeyIndex:
        """Index of the candidates' ids."""
        return KeyIndex(hash_ids(self._ids))

    @cached_property
    def speakers(self) -> tuple[NDArray[np.int32], list[bytes]]:
        """(candidates,): indices of speakers, -1: not known; and the names of the speakers."""
        return self.source.read_speakers(self.index)

    def _choose_classes(self) -> NDArray[np.bool_]:
        """Choose the classes that are kept: (classes,).

        Raises:
            UsageError: the run has no such class, none is left, or one is kept and dropped.
        """
        options, classes = self._options, self._candidates.classes
        wanted, dropped = (
            {self._find_class(option, word) for word in words}
            for option, words in (("--classes", options.classes), ("--drop", options.drop))
        )
        if both := wanted & dropped:
            raise UsageError(f"--classes and --drop both have {', '.join(sorted(both))}: leave it out of one")
        if not wanted:
            dropped |= {name for name in classes if canonical_name(name) in DROPPED_CLASSES}
            wanted = set(classes)
        kept = np.array([name in wanted - dropped for name in classes])
        if not kept.any():
            raise UsageError(f"no class is left of {', '.join(classes)}: name those to keep with --classes")
        return kept

    def _find_class(self, option: str, word: str) -> str:
        labels = LabelSet(self._candidates.classes)
        name = labels.find(word)
        if name is None:
            run = f"{self.source.output_dir} has {', '.join(labels.names)}"
            raise UsageError(f"{option} {word}: {describe_unknown(word, labels)}; {run}")
        return name

    def _same(self, limit: float) -> NDArray[np.float64]:
        """Return the same limit for all classes: (classes,)."""
        return np.full(len(self._candidates.classes), limit)

    def _make_conditions(self) -> list[Rule]:
        rules: list[Rule] = []
        for condition in self._options.where:
            paths = self.source.find(condition.map)
            if not paths:
                beside = f"neither in {self.source.output_dir} nor beside its input"
                raise CorpusError(f"--where {condition}: no map {condition.map}, {beside}")
            rules.append(_make_condition(read_numbers(paths, self.index), condition, self._same(condition.number)))
        return rules

    def _read_opinion(self, item: str) -> Opinion:
        opinion = read_opinion(item, self._ids, self._translation)
        self.found.digests[item] = opinion.sha256
        return opinion

    def _read_steadiness(self) -> NDArray[np.float64]:
        """Return the share of each utterance's spans that have its label, in the timeline of the shortest spans."""
        timelines = parse_timelines(self.source.timeline)
        if not timelines:
            raise UsageError(
                f"--steady needs a timeline, which {self.source.output_dir} has not: predict with --timeline"
            )
        path = self.source.output_dir / with_suffix(TIMELINE_TABLE, timeline_suffixes(timelines)[0])
        return share_of_spans(path, timelines[0], self._candidates, self.index)

    @cached_property
    def _min_scores(self) -> NDArray[np.float64]:
        """(classes,): the limit of each; minus infinity: no limit."""
        given = dict(self._options.min_scores)
        limits = self._same(given.pop(ANY_CLASS, -np.inf))
        own: dict[str, str] = {}
        for word, limit in given.items():
            name = self._find_class("--min-score", word)
            if name in own:
                raise UsageError(f"--min-score: {own[name]} and {word} are the same class")
            own[name] = word
            limits[self._candidates.classes.index(name)] = limit
        return limits

    def _make_threshold(self, threshold: str) -> Rule:
        """Make the rule of a threshold for each class, which an earlier selection may have fixed."""
        candidates = self._candidates
        if (fixed := self._read_thresholds(threshold)) is not None:
            self._note_thresholds(fixed)
            return Bound("threshold", scores_of, ">=", fixed - TOLERANCE, 6)
        if threshold == MEAN:
            means = mean_scores(candidates)
            if self._options.threshold is None and self._options.min_scores:
                means[np.isfinite(self._min_scores)] = -np.inf  # it has a limit of its own
            self._note_thresholds(means)
            return Bound("threshold", scores_of, ">=", means, 6)
        counts = count_shares(candidates, parse_percent(threshold))
        thresholds = share_scores(candidates, counts)
        self._note_thresholds(thresholds)
        return BestOfClass(counts, thresholds)

    def _note_thresholds(self, limits: NDArray[np.float64]) -> None:
        for name, kept, limit in zip(self._candidates.classes, self.kept, limits.tolist(), strict=True):
            if kept and np.isfinite(limit):
                self.found.thresholds[name] = limit

    def _read_thresholds(self, threshold: str) -> NDArray[np.float64] | None:
        """Read the thresholds of the selection that the run's list is, if the same rule and model made it: (classes,).

        The mean and the best share of the selected utterances are not the thresholds that selected them.
        """
        for path in self.source.find(SELECTION_FILE):
            facts = read_selection(path.parent)
            known = facts.get("thresholds")
            if facts.get("model") != self.source.model or not isinstance(known, dict):
                continue
            if facts.get("rules", {}).get("threshold") != threshold:
                continue
            present = np.array(self._candidates.classes)[self.kept & (self._candidates.count() > 0)].tolist()
            if all(isinstance(known.get(name), float) for name in present):
                self.found.notes.append(f"--threshold {threshold}: as in {path}, whose list this is")
                return np.array([known.get(name, np.inf) for name in self._candidates.classes], dtype=np.float64)
        return None

    def _make_calibrated(self, precision: float, reference: str) -> Rule:
        """Make the rule of each class's threshold by its precision on a sample."""
        candidates = self._candidates
        opinion = read_labels(reference, self._ids, self._translation)
        self.found.digests[reference] = opinion.sha256
        is_right, has_any = opinion.agrees(candidates, self._own), opinion.codes >= 0
        limits = self._same(np.inf)
        for label in np.flatnonzero(self.kept).tolist():
            of_class = has_any & (candidates.labels == label)
            name = candidates.classes[label]
            found = calibrate(candidates.scores[of_class], is_right[of_class], precision)
            self.found.sample_bounds[name], self.found.thresholds[name] = found, found.threshold
            if found.threshold is None:
                self.found.notes.append(f"--precision {precision:g}: {name}: {_describe_unreached(found, precision)}")
            else:
                limits[label] = found.threshold
        return Bound("precision", scores_of, ">=", limits, 6)

    def _make_quotas(self) -> list[Rule]:
        options = self._options
        asked = self.kept if options.classes else self.kept & (self._candidates.count() > 0)
        rules: list[Rule] = []
        if options.max_per_speaker is not None:
            numbers = self.speakers[0]
            alone = len(self.speakers[1]) + np.arange(len(numbers), dtype=np.int32)
            rules.append(TopOfClass(options.max_per_speaker, asked, np.where(numbers < 0, alone, numbers)))
        if options.hours is not None:
            rules.append(HoursOfClass(options.hours, asked))
        if options.top is not None:
            rules.append(TopOfClass(options.top, asked))
        return [*rules, Balance()] if options.balance else rules


def _make_condition(numbers: NDArray[np.float64], condition: Condition, limits: NDArray[np.float64]) -> Rule:
    return Bound("where", lambda _, rows: numbers[rows], condition.operator, limits, limit=str(condition))


def _describe_unreached(found: SampleBound, precision: float) -> str:
    """Describe why no threshold of a class reaches a precision, and what is needed."""
    needed = smallest_sample(precision)
    if found.sample < needed:
        return f"the sample is too small: {found.sample} utterances; {needed} are needed if all are right"
    return (
        f"no threshold: at best {found.right} of {found.above} are right, a lower bound of {found.bound:.3f}, "
        f"in a sample of {found.sample}"
    )
