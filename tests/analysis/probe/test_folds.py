"""Folds of examples: files, groups of speakers, and the guards against leaks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from support.embedded import EMOTIONS, make_corpus, means_of, write_arrays, write_reference
from support.labelled import write_map

from e2v_cli.analysis.probe.examples import Examples, find_examples
from e2v_cli.analysis.probe.folds import (
    assign_folds,
    check_classes,
    choose_validation,
    refuse_shared_speakers,
    split_speakers,
)
from e2v_cli.analysis.probe.options import LabelOptions
from e2v_cli.errors import CorpusError, UsageError

MADE = make_corpus()


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    return load(tmp_path)


def load(folder: Path, labels: Iterable[str] | None = None, sessions: bool = True, speakers: bool = True) -> Examples:
    made = MADE if labels is None else replace(MADE, labels=tuple(labels))
    reference = write_reference(folder / "data", made, sessions, speakers)
    return find_examples(str(write_arrays(folder / "npy", means_of(made))), str(reference), LabelOptions())


def counts_of(examples: Examples, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count (folds, classes)."""
    size = len(examples.classes)
    return np.bincount(codes * size + examples.labels).reshape(-1, size)


def test_folds_of_the_reference_count(examples: Examples, tmp_path: Path) -> None:
    folds = assign_folds(examples, None, seed=0)

    assert folds.names == ("Ses01", "Ses02", "Ses03", "Ses04", "Ses05")
    assert [folds.names[code] for code in folds.codes] == [utt_id[:5] for utt_id in examples.ids]
    assert folds.source == f"{tmp_path}/data/spk2fold"


@pytest.mark.parametrize(("wanted", "count"), [(None, 5), ("speakers", 5), ("2", 2), ("10", 10)])
def test_groups_of_speakers_are_stratified(wanted: str | None, count: int, tmp_path: Path) -> None:
    examples = load(tmp_path, sessions=wanted is not None)

    folds = assign_folds(examples, wanted, seed=3)

    assert folds.names == tuple(map(str, range(1, count + 1)))
    assert folds.source == f"{count} groups of speakers, seed 3"
    assert refuse_shared_speakers(examples, folds, allowed=False) == 0
    assert (counts_of(examples, folds.codes) == 40 // count).all()
    assert (assign_folds(examples, wanted, seed=3).codes == folds.codes).all()


@pytest.mark.parametrize("seed", range(5))
def test_speakers_of_a_class_are_in_different_folds(seed: int) -> None:
    """Ten speakers, of whom pairs have the same class; scikit-learn's own folds, since it shuffles well."""
    speakers = np.repeat(np.arange(10), 4)
    labels = speakers // 2

    folds = split_speakers(labels, speakers, 2, seed)

    assert np.bincount(2 * labels + folds).tolist() == [4] * 10
    if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8):
        splitter = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
        for fold, (_, tested) in enumerate(splitter.split(labels, labels, speakers)):
            assert np.flatnonzero(folds == fold).tolist() == tested.tolist()


def test_groups_of_utterances_where_speakers_are_not_known(tmp_path: Path) -> None:
    examples = load(tmp_path, sessions=False, speakers=False)

    folds = assign_folds(examples, None, seed=0)

    assert folds.source == "5 groups of utterances, seed 0"
    assert (counts_of(examples, folds.codes) == 8).all()


def test_folds_of_a_file(examples: Examples, tmp_path: Path) -> None:
    path = write_map(tmp_path / "utt2half", ["a" if name < "Ses03" else "b" for name in MADE.ids], MADE.ids)

    assert assign_folds(examples, str(path), seed=0).names == ("a", "b")


def test_invalid_folds_are_refused(examples: Examples, tmp_path: Path) -> None:
    one = write_map(tmp_path / "one", ["a"] * len(MADE.ids), MADE.ids)
    some = write_map(tmp_path / "some", ["a", "b"], MADE.ids[:2])

    for wanted in ("0", "1", "11"):
        with pytest.raises(UsageError) as caught:
            assign_folds(examples, wanted, seed=0)
        assert str(caught.value) == (
            f"--folds {wanted}: 10 speakers, and 40 utterances of the largest class, allow from 2 to 10 folds; choose "
            "--folds FILE"
        )
    with pytest.raises(UsageError, match="--folds nowhere: no such file; choose speakers, a number, or a file"):
        assign_folds(examples, "nowhere", seed=0)
    with pytest.raises(CorpusError, match="all utterances are in one fold, a; use --folds speakers"):
        assign_folds(examples, str(one), seed=0)
    with pytest.raises(CorpusError, match=r"158 of the 160 utterances have no line.*use --folds speakers"):
        assign_folds(examples, str(some), seed=0)


def test_one_speaker_allows_no_folds(tmp_path: Path) -> None:
    reference = write_reference(tmp_path / "data", MADE, False, False)
    write_map(reference / "utt2spk", ["alone"] * len(MADE.ids), MADE.ids)
    examples = find_examples(str(write_arrays(tmp_path / "npy", means_of(MADE))), str(reference), LabelOptions())

    with pytest.raises(UsageError) as caught:
        assign_folds(examples, None, seed=0)

    assert str(caught.value) == (
        "--folds speakers: 1 speaker, and 40 utterances of the largest class, allow no folds; choose --folds FILE"
    )


def test_shared_speakers_are_refused_by_name(examples: Examples, tmp_path: Path) -> None:
    names = [f"{int(utt_id[-3:]) % 2}" if utt_id < "Ses03" else "1" for utt_id in MADE.ids]
    folds = assign_folds(examples, str(write_map(tmp_path / "leak", names, MADE.ids)), seed=0)

    with pytest.raises(CorpusError) as caught:
        refuse_shared_speakers(examples, folds, allowed=False)

    assert str(caught.value) == (
        f"{tmp_path}/leak: speakers in more than one fold, and so in training and test: Ses01F (0, 1), Ses01M (0, 1), "
        "Ses02F (0, 1) and 1 others; a score would be of voices that are known: use --folds speakers, or mark it by "
        "--allow-shared-speakers"
    )
    assert refuse_shared_speakers(examples, folds, allowed=True) == 4


def test_rare_classes_are_reported(tmp_path: Path) -> None:
    labels = list(MADE.labels)
    labels[1], labels[40], labels[90] = "fearful", "fearful", "fearful"
    kept = [
        label if label != "sad" or utt_id > "Ses02" else "angry" for label, utt_id in zip(labels, MADE.ids, strict=True)
    ]
    examples = load(tmp_path, kept)

    notes = check_classes(examples, assign_folds(examples, None, seed=0))

    assert notes == ["fearful has 3 utterances, fewer than the 5 folds", "no sad in fold Ses01"]


def test_class_without_training_is_refused(tmp_path: Path) -> None:
    labels = [
        "fearful" if utt_id < "Ses01M" and label == "sad" else label
        for utt_id, label in zip(MADE.ids, MADE.labels, strict=True)
    ]
    examples = load(tmp_path, labels)

    with pytest.raises(CorpusError) as caught:
        check_classes(examples, assign_folds(examples, None, seed=0))

    assert str(caught.value) == (
        f"{tmp_path}/data/spk2fold: all 4 utterances of fearful are in fold Ses01, which has none to train on; use "
        "other --folds, or leave the class out with --classes"
    )


def test_one_class_is_refused(tmp_path: Path) -> None:
    examples = load(tmp_path, ["happy"] * len(MADE.ids))

    with pytest.raises(CorpusError, match="all examples are happy; a probe needs 2 classes"):
        check_classes(examples, assign_folds(examples, None, seed=0))


def test_validation_shares_no_speaker(examples: Examples) -> None:
    folds = assign_folds(examples, None, seed=0)
    train = np.flatnonzero(folds.codes != 2)

    rest, valid = choose_validation(examples, train, seed=1)

    assert sorted([*rest, *valid]) == train.tolist()
    assert not set(examples.speakers[rest]) & set(examples.speakers[valid])
    assert len(valid) in (16, 32)  # one or two of the eight speakers
    assert set(examples.labels[rest]) == set(range(len(EMOTIONS)))
    assert not all(np.array_equal(valid, choose_validation(examples, train, seed)[1]) for seed in range(2, 7))


def test_one_speaker_can_not_be_validated(examples: Examples) -> None:
    train = np.flatnonzero(examples.speakers == 0)

    with pytest.raises(CorpusError, match="its 1 training speaker can't be split so that validation shares none"):
        choose_validation(examples, train, seed=0)
