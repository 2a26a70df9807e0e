"""The lists of the sample corpus agree with each other."""

from __future__ import annotations

import pytest
from support.processes import ROOT


def read_table(name: str) -> dict[str, str]:
    lines = (ROOT / "sample_data" / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


@pytest.mark.parametrize("folder", ["", "long/"])
def test_every_speaker_has_a_gender_and_utterances(folder: str) -> None:
    genders = read_table(f"{folder}spk2gender")

    assert {speaker: speaker[0] for speaker in read_table(f"{folder}spk2utt")} == genders
    assert sorted(set(read_table(f"{folder}utt2spk").values())) == list(genders)


def test_each_fold_has_a_speaker_of_each_gender() -> None:
    folds, genders = read_table("spk2fold"), read_table("spk2gender")

    assert folds.keys() == genders.keys()
    for fold in ("1", "2"):
        assert sorted(genders[speaker] for speaker, own in folds.items() if own == fold) == ["f", "m"]
