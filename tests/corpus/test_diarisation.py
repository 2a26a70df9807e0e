"""Turns of a diarisation become utterances; errors name the line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.corpora import all_ids, read_corpus, touch, write_scp, write_segments

from e2v_cli.corpus.corpus import Corpus
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.records import Segment, Tier, Utterance

PYANNOTE = """SPEAKER r1 1 0.498 1.250 <NA> <NA> SPEAKER_00 <NA> <NA>
SPEAKER r1 1 1.402 0.1 <NA> <NA> SPEAKER_01 <NA> <NA>
"""
NEMO = """SPEAKER r1 1   0.498   1.250 <NA> <NA> SPEAKER_00 <NA> <NA>
SPEAKER r1 1   1.402   0.100 <NA> <NA> SPEAKER_01 <NA> <NA>
"""
KALDI = """SPEAKER r1 0   0.498   1.250 <NA> <NA> SPEAKER_00 <NA> <NA>
SPEAKER r1 0   1.402   0.100 <NA> <NA> SPEAKER_01 <NA> <NA>
"""
NIST = """;; a comment
SPKR-INFO r1 1 <NA> <NA> <NA> adult_female SPEAKER_00 <NA>
SPEAKER r1 <NA> .498 1.25 <NA> <NA> SPEAKER_00 <NA>
\tNON-SPEECH r1 1 0 1 <NA> noise <NA> <NA>

SPEAKER\tr1\t1\t1.402\t1e-1\t<NA>\t<NA>\tSPEAKER_01\t0.9\t<NA>\r
LEXEME r1 1 0.5 0.2 hello lex SPEAKER_00 0.9
"""


def read(rttm: str | bytes, *inputs: str) -> Corpus:
    """Read an RTTM of two recordings, or of inputs."""
    write_scp(rttm, "d.rttm")
    return read_corpus(inputs or [write_scp("r1 1.wav\nr2 2.mp3\n")], segments_rttm=Path("d.rttm"))


@pytest.mark.parametrize("rttm", [PYANNOTE, NEMO, KALDI, NIST])
def test_turns_of_any_tool_become_the_same_utterances(rttm: str) -> None:
    corpus = read(rttm)

    first, second = "r1-SPEAKER_00-0000498-0001748", "r1-SPEAKER_01-0001402-0001502"
    assert [corpus[0], corpus[1]] == [
        Utterance(0, first, "1.wav", ".", Segment(0.498, 1.748), recording_id="r1"),
        Utterance(1, second, "1.wav", ".", Segment(1.402, 1.502), recording_id="r1"),
    ]
    assert list(corpus.tiers()) == [Tier(None, "r1-SPEAKER_00"), Tier(None, "r1-SPEAKER_01")]
    assert corpus.durations.tolist() == pytest.approx([1.25, 0.1])


def test_ends_are_sums_of_decimals() -> None:
    """Sums of floats would be 0.30000000000000004 and 1.2999999999999998."""
    corpus = read("SPEAKER r1 1 0.1 0.2 <NA> <NA> a <NA> <NA>\nSPEAKER r1 1 1.1 0.2 <NA> <NA> a <NA> <NA>\n")

    assert [corpus[index].segment for index in range(2)] == [Segment(0.1, 0.3), Segment(1.1, 1.3)]


def test_recordings_may_come_from_anywhere() -> None:
    touch("calls/x.wav", "y.flac")
    turns = "".join(f"SPEAKER {name} 1 0 1 <NA> <NA> A <NA> <NA>\n" for name in ("y", "x", "r2"))

    corpus = read(turns, "calls", "y.flac", write_scp("r1 1.wav\nr2 2.mp3\n"))

    assert [corpus[index].source for index in range(3)] == ["y.flac", "calls/x.wav", "2.mp3"]


def test_channels_count_where_a_file_has_several() -> None:
    corpus = read("SPEAKER r1 2 0 1 <NA> <NA> A <NA> <NA>\nSPEAKER r1 1 0 1 <NA> <NA> B <NA> <NA>\n")

    assert [corpus[index].channel for index in range(2)] == [1, 0]
    assert list(corpus.tiers()) == [Tier(1, "r1-A"), Tier(0, "r1-B")]
    with pytest.raises(CorpusError, match=r"^d.rttm:1: channel 0, but other lines have channels, counted from 1$"):
        read("SPEAKER r1 0 0 1 <NA> <NA> A <NA> <NA>\nSPEAKER r1 2 0 1 <NA> <NA> B <NA> <NA>\n")


def test_names_of_speakers_are_made_words() -> None:
    corpus = read("SPEAKER r1 1 0 1 <NA> <NA> 50%\u3000Bär <NA> <NA>\nSPEAKER r1 1 1 1 <NA> <NA> <NA> <NA> <NA>\n")

    assert [tier.speaker for tier in corpus.tiers() if tier] == ["r1-50%25%E3%80%80Bär", "r1-unknown"]
    assert all_ids(corpus)[1] == b"r1-unknown-0001000-0002000"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("SPEAKER r3 1 0 1 <NA> <NA> A <NA> <NA>", 'd.rttm:4: recording "r3" is not in INPUT'),
        ("SPEAKER r1 1 1.5 0 <NA> <NA> A <NA> <NA>", "d.rttm:4: from 1.5 to 1.5 s: not 0 <= start < end <= 1e9"),
    ],
)
def test_turn_that_can_not_be_cut_fails_alone(line: str, fault: str) -> None:
    """Its line is counted among all lines."""
    corpus = read(f";; comment\nSPEAKER r1 1 0 1 <NA> <NA> A <NA> <NA>\n\n{line}\n")

    assert (corpus[0].fault, corpus[1].fault) == ("", fault)


@pytest.mark.parametrize(
    "line",
    [
        "SPEAKER r1 1 0 1 <NA> <NA>",
        "SPEAKER r1 1 <NA> 1 <NA> <NA> A <NA> <NA>",
        "SPEAKER r1 1 -0.5 1 <NA> <NA> A <NA> <NA>",
        "SPEAKER r1 1 0 -1 <NA> <NA> A <NA> <NA>",
        "SPEAKER r1 1 0 1e400 <NA> <NA> A <NA> <NA>",
        "SPEAKER r1 mix 0 1 <NA> <NA> A <NA> <NA>",
        "speaker r1 1 0 1 <NA> <NA> A <NA> <NA>",
        "utt1 r1 0.0 1.0",
    ],
)
def test_malformed_line_is_named(line: str) -> None:
    message = (
        f"d.rttm:3: {line!r}; a line is: SPEAKER recording-id channel start length <NA> <NA> speaker <NA> <NA>, "
        "in seconds"
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read(f"SPEAKER r1 1 0 1 <NA> <NA> A <NA> <NA>\n\n{line}\n")


def test_duplicate_turn_is_refused() -> None:
    line = "SPEAKER r1 1 0 1 <NA> <NA> A <NA> <NA>\n"

    with pytest.raises(CorpusError, match=r'^d.rttm:3: utt-id "r1-A-0000000-0001000" again \(first on line 1\)$'):
        read(f"{line};; again\n{line}")


def test_file_without_turns_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"^d.rttm: no line of type SPEAKER, so there is no utterance$"):
        read(";; nothing\n")
    with pytest.raises(CorpusError, match=r"^gone.rttm: No such file or directory; a list must be a file"):
        read_corpus([write_scp("r1 1.wav\n")], segments_rttm=Path("gone.rttm"))


def test_input_with_segments_of_its_own_is_refused() -> None:
    message = (
        "--segments-rttm d.rttm: INPUT has segments of its own; name recordings: audio, a folder of it, or wav.scp"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        read(PYANNOTE, write_segments("a r1 0 1\n"))
    assert len(read(PYANNOTE, "data/wav.scp")) == 2
