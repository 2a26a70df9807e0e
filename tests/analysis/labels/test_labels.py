"""Labels: spellings, names of a model's own, maps, merges and closed sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes import ROOT

from e2v_cli.analysis.labels.labels import (
    CLASSES,
    DROPPED,
    KNOWN,
    LabelSet,
    Translation,
    canonical_name,
    close_labels,
    nearest_label,
    parse_merge,
    read_map,
)
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.models.folder import read_model
from e2v_cli.options import LabelLanguage

CHINESE = ("生气", "厌恶", "恐惧", "开心", "中立", "其他", "难过", "吃惊", "<unk>")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("angry", "angry anger ang Ang ANGRY 生气 生气/angry"),
        ("disgusted", "disgust disgusted dis Disgust 厌恶 厌恶/disgusted"),
        ("fearful", "fea fear fearful Fear 恐惧"),
        ("happy", "hap happy happiness joy Joy 开心"),
        ("neutral", "neu neutral neutrality Neutral 中立"),
        ("other", "other oth 其他"),
        ("sad", "sad sadness Sad 难过"),
        ("surprised", "sur surprise surprised Surprise 吃惊"),
        ("unknown", "unknown <unk> unk"),
        ("excited", "exc excited Excited"),
        ("contempt", "contempt Contempt"),
        ("calm", "calm"),
        ("frustrated", "fru frustration"),
    ],
)
def test_spellings_of_corpora_mean_one_emotion(name: str, words: str) -> None:
    assert {canonical_name(word) for word in words.split()} == {name}


@pytest.mark.parametrize("word", ["s", "S", "A", "n", "1", "0", "07", "", "xxx", "fear/disgust", "happily"])
def test_letters_numbers_and_other_words_are_unknown(word: str) -> None:
    assert canonical_name(word) is None


@pytest.mark.parametrize("language", ["en", "zh", "both"])
def test_classes_of_published_models_are_known_in_every_language(language: LabelLanguage) -> None:
    labels = read_model("sample", ROOT / "e2v_cli" / "sample", language).labels

    assert tuple(map(canonical_name, labels)) == CLASSES
    assert set(CLASSES) <= set(KNOWN)
    assert [LabelSet(labels).find(name) for name in CLASSES] == list(labels)


def test_classes_of_any_model_are_found_by_every_word_for_them() -> None:
    labels = LabelSet(["ang", "hap", "neu", "Sad"])

    words = ["ang", "angry", "Anger", "happy", "neutral", "SAD", "生气", "fear", "a"]
    assert [labels.find(word) for word in words] == ["ang", "ang", "ang", "hap", "neu", "Sad", "ang", None, None]


def test_two_classes_of_the_same_emotion_stay_apart() -> None:
    labels = LabelSet(["joy", "happy", "sad"])

    assert [labels.find(word) for word in ("joy", "Joy", "happy", "hap", "sadness")] == [
        *("joy", "joy", "happy", "happy", "sad")
    ]
    assert LabelSet(["joy", "happiness"]).find("hap") is None


def test_classes_that_are_no_emotions_are_found_by_their_names() -> None:
    labels = LabelSet(["A", "a", "H1", "straße"])

    assert [labels.find(word) for word in ("A", "a", "h1", "STRASSE", "b")] == ["A", "a", "H1", "straße", None]


def test_excited_is_happy_only_where_merged() -> None:
    assert Translation(CLASSES).find("exc") == "excited"
    assert Translation(CLASSES, merges=[("excited", "happy")]).find("exc") == "happy"
    assert Translation(CLASSES, merges=[("exc", "Joy")]).find("Excited") == "happy"


def test_merge_of_two_words_for_one_class_changes_nothing() -> None:
    assert Translation(CLASSES, merges=[("joy", "hap"), ("exc", "joy")]).find("exc") == "happy"


def test_merges_follow_each_other_in_any_order() -> None:
    merges = [("angry", "active"), ("excited", "happy"), ("happy", "active")]

    for given in (merges, merges[::-1]):
        words = Translation(CLASSES, merges=given)
        assert [words.find(word) for word in ("ang", "exc", "joy", "sad")] == ["active", "active", "active", "sad"]


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([("sad", "happy"), ("Sad", "angry")], "--merge Sad=angry: sad is merged into happy already"),
        ([("sad", "happy"), ("hap", "sad")], "--merge hap=sad: sad is merged into happy already"),
    ],
)
def test_merges_that_contradict_each_other_are_refused(merges: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Translation(CLASSES, merges=merges)

    assert str(caught.value) == message


def test_map_goes_before_names(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes("\ufeffs sad\r\n\r\nA\tanger\npleasant surprise\tsur\nx -\nhappy  Smiling".encode())

    mapping = read_map(path)
    words = Translation(CLASSES, mapping, [("surprised", "happy")])

    assert mapping == {
        "s": "sad",
        "A": "angry",
        "pleasant surprise": "surprised",
        "x": DROPPED,
        "happy": "Smiling",
    }
    assert [words.find(word) for word in ("s", "A", "pleasant surprise", "x", "happy", "joy", "a")] == [
        *("sad", "angry", "happy", DROPPED, "Smiling", "happy", None)
    ]


def test_map_names_the_classes_of_a_model_by_any_word(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text("1 anger\n2 happiness\n")

    words = Translation(["ang", "hap"], read_map(path))

    assert [words.find(word) for word in ("1", "2", "angry")] == ["ang", "hap", "ang"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s sad\n\nf\n", "map:3: 'f'; a line is: word class, or word - to leave it out"),
        ("pleasant surprise sur\n", "map:1: 'pleasant surprise sur'; a line is: word class, or word - to leave it out"),
        ("s\t\n", "map:1: 's'; a line is: word class, or word - to leave it out"),
        ("s sad\nf fear\ns sad\n", 'map:3: "s" again (first on line 1)'),
    ],
)
def test_bad_lines_of_a_map_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "map").write_text(text)

    with pytest.raises(CorpusError) as caught:
        read_map(tmp_path / "map")

    assert str(caught.value) == f"{tmp_path}/{message}"


def test_map_must_be_text_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"s sad\n\xff happy\n")

    with pytest.raises(CorpusError, match=r"map:2: not UTF-8; save the map as UTF-8$"):
        read_map(tmp_path / "map")
    with pytest.raises(CorpusError, match=r"other: No such file or directory"):
        read_map(tmp_path / "other")


@pytest.mark.parametrize("text", ["excited", "=happy", "a=", "a=b=c", " = "])
def test_merges_have_two_sides(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_merge(text)

    assert str(caught.value) == f"--merge {text}: not of the form a=b, which makes class a a part of b"


def test_closed_set_keeps_the_order_of_the_model() -> None:
    closed = close_labels(CLASSES, ["sad", "hap", "anger", "sadness"], [], "a model")

    assert (closed.names, closed.groups) == (("angry", "happy", "sad"), ((0,), (3,), (6,)))


def test_merged_classes_are_groups_of_labels() -> None:
    merges = [parse_merge("surprised=happy"), parse_merge("disgusted=negative"), parse_merge("fear = negative")]

    closed = close_labels(CLASSES, ["negative", "happy"], merges, "a model")
    whole = close_labels(CLASSES, [], merges, "a model")

    assert (closed.names, closed.groups) == (("negative", "happy"), ((1, 2), (3, 7)))
    assert whole.names == ("angry", "negative", "happy", "neutral", "other", "sad", "unknown")


@pytest.mark.parametrize("labels", [CHINESE, ("A", "a", "joy", "happy")])
def test_closed_set_of_all_classes_changes_nothing(labels: tuple[str, ...]) -> None:
    groups = tuple((index,) for index in range(len(labels)))

    for classes in ((), labels):
        closed = close_labels(labels, classes, [], "a model")
        assert (closed.names, closed.groups) == (labels, groups)


@pytest.mark.parametrize(
    ("classes", "merges", "message"),
    [
        (["exc"], [], "--classes exc: no class exc; m has angry, happy, sad"),
        (["hapy", "sad"], [], "--classes hapy: no class hapy (is happy meant?); m has angry, happy, sad"),
        (["sadnes"], [], "--classes sadnes: no class sadnes (is sad meant?); m has angry, happy, sad"),
        (
            ["sad"],
            [("sad", "neg"), ("angry", "neg")],
            "--classes sad: no class sad; m has angry, happy, sad, merged into neg, happy",
        ),
        ([], [("excited", "happy")], "--merge excited=happy: no class excited; m has angry, happy, sad"),
    ],
)
def test_missing_classes_are_refused_with_the_known_ones(
    classes: list[str], merges: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        close_labels(("angry", "happy", "sad"), classes, merges, "m")

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("hapy", "happy"), ("Neutrl", "neutral"), ("ange", "ang"), ("furprise", None), ("s", None), ("1", None)],
)
def test_nearest_label_is_a_known_label(word: str, nearest: str | None) -> None:
    assert nearest_label(word, LabelSet(["ang", "happy", "neutral"])) == nearest
