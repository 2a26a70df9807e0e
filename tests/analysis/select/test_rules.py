"""Each rule by itself: which utterances it rejects, and the value and the limit that it tells."""

from __future__ import annotations

import numpy as np
import pytest
from support.candidates import CLASSES

from e2v_cli.analysis.select.candidates import Candidates
from e2v_cli.analysis.select.opinions import Opinion
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

CANDIDATES = Candidates(
    CLASSES,
    labels=np.array([0, 0, 0, 1, 1, 3], dtype=np.int16),
    scores=np.array([900_000, 950_000, 900_000, 300_000, 999_999, 800_000], dtype=np.int32),
    margins=np.array([850_000, 900_000, 800_000, 1, 999_998, 700_000], dtype=np.int32),
    durations=np.array([36_000, 1_000, 72_000, 36_000, 18_000, 5], dtype=np.int64),
)
"""Three of angry, two of happy, one of other."""

ALL = np.ones(6, dtype=np.bool_)
ASKED = np.array([True, True, False, False, False])


def judge(rule: Rule, left: np.ndarray = ALL) -> dict[int, tuple[str, str]]:
    """Return the value and the limit of each that a rule rejects."""
    judgement = rule.judge(CANDIDATES, left)
    rows = np.flatnonzero(judgement.rejected & left)
    pairs = zip(judgement.values(rows), judgement.limits(rows), strict=True)
    return dict(zip(rows.tolist(), pairs, strict=True))


def limits(*of_classes: float) -> np.ndarray:
    return np.array(of_classes * len(CLASSES) if len(of_classes) == 1 else of_classes)


def test_members() -> None:
    assert judge(Members(np.array([True, False, True, True, True, True]))) == {1: ("", "")}


def test_classes() -> None:
    assert judge(KeptClasses(("angry", "happy"))) == {5: ("other", "angry,happy")}
    assert judge(KeptClasses(CLASSES)) == {}


def test_durations() -> None:
    assert judge(Bound("min-duration", durations_of, ">=", limits(0.1), 4)) == {5: ("0.0005", "0.1")}
    assert judge(Bound("max-duration", durations_of, "<=", limits(3.6), 4)) == {2: ("7.2000", "3.6")}


def test_score_is_compared_with_the_limit_of_its_class() -> None:
    """One that is equal passes, and a class without a limit does, too."""
    assert judge(Bound("min-score", scores_of, ">=", limits(0.9), 6)) == {
        3: ("0.300000", "0.9"),
        5: ("0.800000", "0.9"),
    }
    found = judge(Bound("min-score", scores_of, ">=", limits(0.95, 0.3, -np.inf, -np.inf, -np.inf), 6))
    assert found == {0: ("0.900000", "0.95"), 2: ("0.900000", "0.95")}


def test_margin() -> None:
    assert judge(Bound("min-margin", margins_of, ">=", limits(0.8), 6)) == {
        3: ("0.000001", "0.8"),
        5: ("0.700000", "0.8"),
    }


@pytest.mark.parametrize(
    ("operator", "rejected"),
    [("<", [1, 2, 3, 5]), ("<=", [2, 3, 5]), (">", [0, 1, 3, 4]), (">=", [0, 3, 4]), ("==", [0, 2, 3, 4, 5])],
)
def test_condition_rejects_utterances_without_a_number(operator: str, rejected: list[int]) -> None:
    numbers = np.array([1.0, 3.0, 3.5, np.nan, -1e9, 4.0])

    found = judge(Bound("where", lambda _, rows: numbers[rows], operator, limits(3.0), limit=f"x {operator} 3"))

    assert list(found) == rejected
    assert found[3] == ("", f"x {operator} 3")
    assert found.get(0, ("1", f"x {operator} 3")) == ("1", f"x {operator} 3")


def test_best_of_class_has_so_many_and_not_more() -> None:
    """Of equal scores the first in C order is best."""
    rule = BestOfClass(np.array([2, 1, 0, 0, 0]), limits(0.9, 0.999999, np.nan, np.nan, np.nan))

    assert judge(rule) == {2: ("0.900000", "0.900000"), 3: ("0.300000", "0.999999"), 5: ("0.800000", "nan")}


def test_agreement_by_meaning() -> None:
    opinion = Opinion(
        "map",
        np.array([0, 1, -1, 2, 3, 0], dtype=np.int16),
        ("ang", "Anger", "exc", "glad"),
        ("angry", "angry", "happy", "x"),
        "",
    )

    found = judge(Agreement(opinion, CLASSES))

    assert found == {2: ("", "angry"), 4: ("glad", "happy"), 5: ("ang", "other")}


def test_top_counts_what_is_left() -> None:
    rule = TopOfClass(1, ASKED)

    assert judge(rule) == {0: ("2", "1"), 2: ("3", "1"), 3: ("2", "1")}
    assert judge(rule, np.array([True, False, True, True, True, True])) == {2: ("2", "1"), 3: ("2", "1")}
    assert rule.judge(CANDIDATES, ALL).short == ()
    assert TopOfClass(3, ASKED).judge(CANDIDATES, ALL).short == ("happy 2 of 3",)


def test_top_of_each_speaker_in_each_class() -> None:
    rule = TopOfClass(1, ASKED, np.array([7, 7, 8, 7, 7, 7], dtype=np.int32))

    assert judge(rule) == {0: ("2", "1"), 3: ("2", "1")}
    assert (rule.name, rule.judge(CANDIDATES, ALL).short) == ("max-per-speaker", ())


def test_hours_are_the_most_of_each_class() -> None:
    """Best first, as long as they fit: what comes behind one that does not is rejected, too."""
    rule = HoursOfClass(0.002, ASKED)

    assert judge(rule) == {2: ("0.003028", "0.002")}
    assert judge(HoursOfClass(0.001, ASKED)) == {
        0: ("0.001028", "0.001"),
        2: ("0.003028", "0.001"),
        3: ("0.001500", "0.001"),
    }
    assert rule.judge(CANDIDATES, ALL).short == ("happy 0.0015 of 0.002 h",)


def test_balance_cuts_to_the_smallest_class_that_has_any() -> None:
    assert judge(Balance()) == {0: ("2", "1"), 2: ("3", "1"), 3: ("2", "1")}
    assert judge(Balance(), CANDIDATES.labels != 3) == {2: ("3", "2")}
    assert judge(Balance(), np.zeros(6, dtype=np.bool_)) == {}
