"""The rules of ``e2v select`` as the user gives them; nothing here needs NumPy, so that ``--help`` is fast."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from e2v_cli.errors import UsageError
from e2v_cli.system.text import number_word

MEAN = "mean"
"""The threshold of a class that is the mean of its scores."""

ANY_CLASS = ""
"""The class of a limit that is for all classes."""

DROPPED_CLASSES = ("other", "unknown")
"""Names of classes that are no emotion: they are dropped unless they are asked for."""

_CONDITION = re.compile(r"\s*([A-Za-z0-9][\w.+-]*)\s*(<=|>=|==|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")

LISTS = (
    *("wav.scp", "segments", "reco2file_and_channel", "utt2spk", "spk2utt", "spk2gender"),
    *("text", "utt2emo", "utt2score", "utt2dur"),
)
"""Files of a data directory that is written; not all have all of them."""

_PART = re.compile(r"[A-Za-z0-9][\w-]*")


@dataclass(frozen=True, order=True)
class Condition:
    """A condition on the numbers of a map beside the data: ``utt2dnsmos >= 3``."""

    map: str
    """The name of a file."""
    operator: str
    number: float

    def __str__(self) -> str:
        return f"{self.map} {self.operator} {number_word(self.number)}"


def parse_condition(text: str) -> Condition:
    """Parse ``utt2dnsmos >= 3``.

    Raises:
        UsageError: it has another form.
    """
    match = _CONDITION.fullmatch(text)
    if not match:
        raise UsageError(f"--where {text!r}: not of the form 'utt2dnsmos >= 3', with one of < <= > >= ==")
    return Condition(match[1], match[2], float(match[3]))


def parse_min_score(text: str) -> tuple[str, float]:
    """Parse a limit of all classes, ``0.9``, or of one, ``happy=0.9``: the class, and the number.

    Raises:
        UsageError: it has another form, or is no probability.
    """
    word, equals, number = text.rpartition("=")
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not 0 <= limit <= 1 or (equals and not word.strip()):
        raise UsageError(f"--min-score {text}: neither a probability from 0 to 1, nor of the form CLASS=P")
    return word.strip() if equals else ANY_CLASS, limit


def parse_threshold(text: str) -> str:
    """Check a threshold: ``mean``, or a percentage like ``25%``.

    Raises:
        UsageError: it is neither.
    """
    if text != MEAN and not 0 < parse_percent(text) <= 1:
        raise UsageError(f"--threshold {text}: neither mean nor a percentage like 25%, above 0% and up to 100%")
    return text


def parse_percent(text: str) -> Fraction:
    """Parse a percentage as a share; one that has another form is 0."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)%", text)
    return Fraction(match[1]) / 100 if match else Fraction(0)


def parse_split(text: str) -> tuple[tuple[str, float], ...]:
    """Parse ``train=0.9,dev=0.1``: names and shares, sorted.

    Raises:
        UsageError: a part has another form, or shares don't sum to 1.
    """
    parts: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not _PART.fullmatch(name) or name in (*parts, *LISTS) or not 0 < share <= 1:
            raise UsageError(f"--split {part}: not of the form NAME=SHARE, with a name of its own and a share up to 1")
        parts[name] = share
    if abs(math.fsum(parts.values()) - 1) > 1e-9:
        raise UsageError(f"--split {text}: shares sum to {math.fsum(parts.values()):g}, not to 1")
    return tuple(sorted(parts.items()))


@dataclass(frozen=True)
class SourceOptions:
    """Options of the source of a selection."""

    data: tuple[str, ...] = ()
    """Inputs in place of those of the run; they may have only some of its utterances."""
    partial: bool = False
    """Whether the run may be unfinished."""
    map: Path | None = None
    """A file of words of opinions and references, and their classes."""
    merges: tuple[tuple[str, str], ...] = ()
    """Classes, and what each becomes a part of when they are compared."""


@dataclass(frozen=True)
class RuleOptions:
    """Rules that choose utterances of a run. Words in any order have been sorted, so that their order does not matter.

    Raises:
        UsageError: a value is out of its range, or options contradict each other.
    """

    classes: tuple[str, ...] = ()
    """Words for the classes that are kept; none: all but ``DROPPED_CLASSES``."""
    drop: tuple[str, ...] = ()
    """Words for classes that are dropped."""
    min_duration: float | None = None
    max_duration: float | None = None
    """Limits of the duration, ``min_duration`` and ``max_duration``: seconds; None: no limit."""
    where: tuple[Condition, ...] = ()
    agree: tuple[str, ...] = ()
    """Second opinions: runs, tables of predictions, or maps of labels."""
    steady: float | None = None
    """The least share of the timeline's spans that have the utterance's label."""
    min_scores: tuple[tuple[str, float], ...] = ()
    """Words for classes, or ANY_CLASS, and the least probability of the label."""
    min_margin: float | None = None
    """The least difference of the two highest probabilities."""
    threshold: str | None = None
    """MEAN, or a percentage like ``25%``; None: see ``default_threshold``."""
    reference: str | None = None
    """Labels of a sample: any reference of ``e2v score``."""
    precision: float | None = None
    """Precision that a class's lower bound on the sample must reach."""
    max_per_speaker: int | None = None
    hours: float | None = None
    top: int | None = None
    """Quotas of each class: utterances of a speaker, hours, and utterances; None: no quota."""
    balance: bool = False
    """Whether each class is cut to the size of the smallest."""
    split: tuple[tuple[str, float], ...] = ()
    """Names of parts, and their shares of speakers."""

    def __post_init__(self) -> None:
        for name, share in (("--min-margin", self.min_margin), ("--steady", self.steady)):
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"{name} {share:g}: must be from 0 to 1")
        for name, number in (
            ("--min-duration", self.min_duration),
            ("--max-duration", self.max_duration),
            ("--hours", self.hours),
        ):
            if number is not None and not 0 < number < math.inf:
                raise UsageError(f"{name} {number:g}: must be a positive number")
        for name, count in (("--top", self.top), ("--max-per-speaker", self.max_per_speaker)):
            if count is not None and count < 1:
                raise UsageError(f"{name} {count}: must be at least 1")
        if self.min_duration and self.max_duration and self.min_duration > self.max_duration:
            raise UsageError(
                f"--min-duration {self.min_duration:g} is more than --max-duration {self.max_duration:g}: "
                "no utterance has both"
            )
        if self.precision is not None and not 0 < self.precision < 1:
            raise UsageError(f"--precision {self.precision:g}: must be between 0 and 1, as in 0.9")
        if (self.reference is None) != (self.precision is None):
            raise UsageError("--reference and --precision need each other: a labelled sample, and what to reach on it")
        for name, limits in _group_numbers(self.min_scores).items():
            if len(limits) > 1:
                raise UsageError(f"--min-score {name or limits[0]}: given twice, with {limits[0]:g} and {limits[1]:g}")

    @property
    def default_threshold(self) -> str | None:
        """Threshold of the classes that have no other limit of scores; None: all classes have another."""
        if self.threshold is None and (self.precision is not None or ANY_CLASS in dict(self.min_scores)):
            return None
        return self.threshold or MEAN


def _group_numbers(pairs: tuple[tuple[str, float], ...]) -> dict[str, list[float]]:
    """Group different numbers by their word."""
    groups: dict[str, list[float]] = {}
    for word, number in sorted(set(pairs)):
        groups.setdefault(word, []).append(number)
    return groups
