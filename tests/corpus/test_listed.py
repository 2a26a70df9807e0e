"""Utterances of every kind of list, as lines of a Kaldi data directory; sources that are the same in any folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.corpora import read_corpus, touch, write_scp, write_segments

from e2v_cli.audio.sources import absolute_source
from e2v_cli.corpus.channels import split_channels
from e2v_cli.corpus.listed import Listed


def test_lines_in_any_order() -> None:
    """Of several lists; neighbours are read together, and others are not."""
    write_scp("".join(f"utt{number}\t{number}.wav  \n" for number in range(100)), "a.scp")
    write_scp("".join(f"x{number} dir/{number} b.wav\n\n" for number in range(10)), "b.scp")
    corpus = read_corpus(["a.scp", "b.scp"])
    indices = np.random.default_rng(0).permutation(110)[:60]

    listed = corpus.listed(indices)

    assert listed == [
        Listed(f"utt{index}".encode(), b"", f"{index}.wav".encode(), ".")
        if index < 100
        else Listed(f"x{index - 100}".encode(), b"", f"dir/{index - 100} b.wav".encode(), ".")
        for index in indices.tolist()
    ]
    assert corpus.listed(np.arange(0)) == []


def test_segments_keep_their_times() -> None:
    folder = write_segments("s1 r1 0.50 1.0 A\ns2 r2 2 -1\ns3 r1 1e1 12\n", recording_channels="r2 x B\n")

    assert read_corpus([folder]).listed(np.array([2, 1, 0])) == [
        Listed(b"s3", b"r1", b"1.wav", "data", b"1e1 12"),
        Listed(b"s2", b"r2", b"2.mp3", "data", b"2 -1", recording_channel=1),
        Listed(b"s1", b"r1", b"1.wav", "data", b"0.50 1.0", channel=0),
    ]


def test_other_lists() -> None:
    lines: list[dict[str, object]] = [
        {"audio_filepath": "x/a b.wav", "offset": 0.25, "duration": 2},
        {"audio_filepath": "x/c.wav", "offset": 1},
        {"audio_filepath": "x/d.wav"},
    ]
    Path("list.json").write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert read_corpus(["list.json"]).listed(np.arange(3)) == [
        Listed(b"a%20b-0000250-0002250", b"x/a%20b.wav", b"x/a b.wav", ".", b"0.25 2.25"),
        Listed(b"c-0001000-end", b"x/c.wav", b"x/c.wav", ".", b"1 -1"),
        Listed(b"d", b"", b"x/d.wav", "."),
    ]


def test_channels_of_their_own() -> None:
    corpus = split_channels(read_corpus([write_scp("a 1.wav\nb 2.wav\n")]), lambda u, _: 2 - u.index, num_threads=1)

    assert corpus.listed(np.arange(3)) == [
        Listed(b"a-1", b"", b"1.wav", ".", channel=0),
        Listed(b"a-2", b"", b"1.wav", ".", channel=1),
        Listed(b"b", b"", b"2.wav", "."),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/x/a.wav", "/x/a.wav"),
        ("a.wav", "HERE/a.wav"),
        ("../a.wav", "HERE/data/../a.wav"),
        ("b.wav", "HERE/data/b.wav"),
        ("missing.wav", "HERE/missing.wav"),
        ("a.ark:17", "HERE/a.ark:17"),
        ("b.ark:3[0:9]", "HERE/data/b.ark:3[0:9]"),
        ("c.ark:5", "HERE/c.ark:5"),
        ("http://host/a.wav", "http://host/a.wav"),
        ("sox a.wav -t wav - |", "sox a.wav -t wav - |"),
    ],
)
def test_paths_get_absolute(name: str, expected: str) -> None:
    """As they would be found: in the current folder, else beside the list."""
    touch("a.wav", "data/a.wav", "data/b.wav", "a.ark", "data/b.ark", "c.ark:5")

    assert absolute_source(name, "data") == expected.replace("HERE", os.getcwd())
