"""Colours and letters of labels."""

from __future__ import annotations

from support.checkpoints import TOKENS

from e2v_cli.report.palette import COLOURS, Mark, mark_labels


def test_labels_of_the_family_have_letters_of_their_own() -> None:
    marks = mark_labels([token.rpartition("/")[2] for token in TOKENS[:-1]] + ["unknown"])
    assert [mark.letters for mark in marks] == ["An", "Di", "Fe", "Ha", "Ne", "Ot", "Sa", "Su", "Un"]
    assert len({mark.colour for mark in marks}) == 9


def test_emotion_has_the_same_colour_in_any_language_and_order() -> None:
    by_name = {mark.label: mark.colour for mark in mark_labels(["难过", "生气/angry", "neu", "joy"])}
    others = {mark.label: mark.colour for mark in mark_labels(["happy", "neutral", "sad", "angry"])}
    assert list(by_name.values()) == [others[name] for name in ("sad", "angry", "neutral", "happy")]


def test_any_labels_are_told_apart() -> None:
    labels = ["sad", "sadness", "sa", "s", "", "?", "<script>", "sad\u2028", *map(str, range(30))]
    marks = mark_labels(labels)
    assert len({mark.letters for mark in marks}) == len(labels)
    assert all(mark.letters and 0 <= mark.colour < COLOURS for mark in marks)


def test_two_labels_of_one_emotion_have_two_colours() -> None:
    joy, happy = mark_labels(["joy", "happy"])
    assert joy.colour != happy.colour
    assert (joy, happy.label) == (Mark("joy", "Jo", 2), "happy")
