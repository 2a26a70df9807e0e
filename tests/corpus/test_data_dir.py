"""Durations and channels of recordings come from files beside the lists."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from support.corpora import pipe_to_stdin, read_corpus, touch, write_scp, write_segments

from e2v_cli.corpus.data_dir import read_durations
from e2v_cli.corpus.ids import hash_keys
from e2v_cli.errors import CorpusError


@pytest.mark.parametrize("line", ["r1 call", "r1 call I", "r1 call 0", "r1 call 9", "r1 call A A"])
def test_malformed_line_of_reco2file_and_channel_is_named(line: str) -> None:
    message = "data/reco2file_and_channel:1: a line is: recording-id file A, or B, 1, 2 …"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([write_segments("a r1 0 1\n", recording_channels=line)])


def test_byte_order_mark_within_reco2file_and_channel_is_named() -> None:
    """Lists with such marks were joined."""
    folder = write_segments("a r1 0 1\n", recording_channels="\ufeffr1 call A\r\n\ufeffr2 call B")

    message = "data/reco2file_and_channel:2: white space or control characters in utt-id '\\ufeffr2'; rename it"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([folder])


def durations(*inputs: str) -> list[float | None]:
    """Read the durations of utterances; None where unknown."""
    found = read_corpus(inputs, allow_pipes=True).durations
    assert found.dtype == np.float64
    return [None if np.isnan(duration) else duration for duration in found.tolist()]


def test_durations_are_read_from_utt2dur_beside_a_list() -> None:
    """Its lines may have any order and other ids; a missing one gives None."""
    folder = write_segments("", "a 1.wav\nb 2.wav\nc cat 3.wav |\nd 4.wav\n")
    Path("data/segments").unlink()
    assert durations(folder) == [None, None, None, None]

    write_scp("d 4\nx 99\n\n b\t.25 \r\na 1e2", "data/utt2dur")
    assert durations(folder) == [100.0, 0.25, None, 4.0]
    assert durations("data/wav.scp") == [100.0, 0.25, None, 4.0]


def test_durations_of_all_inputs_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single files, files in folders and lists on standard input have none."""
    folder = write_segments("a r1 0.5 2\nb r2 1 -1\n")
    write_scp("b 3.5\nc 99\nd 99\nz 99\n", "data/utt2dur")
    write_scp("c 3.wav\n", "c.scp")
    write_scp("d 7\nz 8\n", "utt2dur")
    write_scp("d 4.wav\n", "d.scp")
    touch("found/z.wav", "y.wav")
    pipe_to_stdin("e 5.wav\n", monkeypatch)

    assert durations(folder, "c.scp", "d.scp", "found", "y.wav", "-") == [1.5, 3.5, None, 7.0, None, None, None]


def test_durations_of_a_list_of_paths_are_found_by_id() -> None:
    Path("data").mkdir()
    write_scp("one.wav\ntwo.wav\n", "data/list.scp")
    write_scp("two 2\n", "data/utt2dur")

    assert durations("data/list.scp") == [None, 2.0]


def test_duration_of_a_segment_comes_from_its_times() -> None:
    """``utt2dur`` counts only for segments that end with their recording."""
    folder = write_segments("a r1 0 1.5\nb r1 2 -1\nc r1 2 -1.0 A\nd r2 1e1 12.25 1\ne r9 0 4\n")
    write_scp("a 99\nb 8\nd 99\nr1 99\n", "data/utt2dur")

    assert durations(folder) == [1.5, 8.0, None, 2.25, 4.0]


@pytest.mark.parametrize("times", ["2 2", "3 2", "0 1e300", "0 1e999", "1e999 1e999", "-1e300 1", "0 1000000001"])
def test_invalid_segment_has_duration_zero(times: str) -> None:
    """It fails alone, and must not fill a shard."""
    assert durations(write_segments(f"good r1 0 1\nbad r1 {times}\n")) == [1.0, 0.0]


def test_durations_are_capped() -> None:
    """Costs are sums of durations."""
    Path("data").mkdir()
    write_scp("a 1.wav\nb 2.wav\nc 3.wav\n", "data/wav.scp")
    write_scp("a 1e9\nb 1e300\nc 1e999\n", "data/utt2dur")

    assert durations("data") == [1e9, 1e9, 1e9]


def test_durations_are_looked_up_in_chunks() -> None:
    Path("data").mkdir()
    write_scp("".join(f"u{number} {number}\n" for number in range(12, 1, -1)), "data/utt2dur")

    found = read_durations(Path("data"), hash_keys(b"u%d" % number for number in range(10)), chunk_bytes=20)

    np.testing.assert_array_equal(found, [np.nan, np.nan, *range(2, 10)])


@pytest.mark.parametrize("seed", range(20))
def test_durations_may_be_in_any_order(seed: int) -> None:
    """The order of the list, the same in part, or another; with other ids and blank lines between."""
    generator = random.Random(seed)
    chunk_bytes = generator.choice([1, 10, 50, 1000])
    known = {f"u{number}": round(generator.uniform(0, 30), 2) for number in range(40)}
    listed = [key for key in known if generator.random() < 0.9]
    said = [key for key in known if seed % 4 == 0 or generator.random() < 0.9]
    if seed % 2:
        tail = said[20:]
        generator.shuffle(tail)
        said[20:] = tail
    lines = [f"{key} {known[key]}\n" for key in said]
    if seed % 3 == 0:
        lines.insert(generator.randrange(len(lines)), " \n")
        lines[0] = "\ufeff" + lines[0]
    Path("data").mkdir()
    write_scp("".join(lines), "data/utt2dur")

    found = read_durations(Path("data"), hash_keys(map(str.encode, listed)), chunk_bytes)

    np.testing.assert_array_equal(found, [known[key] if key in said else np.nan for key in listed])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"a", "'a'"),
        (b"a long", "'a long'"),
        (b"a 1 2", "'a 1 2'"),
        (b"a -1", "'a -1'"),
        (b"a nan", "'a nan'"),
        (b"a inf", "'a inf'"),
        (b"a 1,5", "'a 1,5'"),
        (b"a caf\xe9", r"'a caf\\xe9'"),
    ],
)
def test_malformed_durations_are_named(line: bytes, shown: str) -> None:
    Path("data").mkdir()
    write_scp("a 1.wav\nb 2.wav\n", "data/wav.scp")
    write_scp(b"\xef\xbb\xbfb 2\n\n" + line + b"\n", "data/utt2dur")
    corpus = read_corpus(["data"])  # durations are read on first use

    message = f"data/utt2dur:3: {shown}; a line is: utt-id seconds"
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        _ = corpus.durations


def test_unreadable_utt2dur_is_named() -> None:
    Path("data/utt2dur").mkdir(parents=True)
    write_scp("a 1.wav\n", "data/wav.scp")

    with pytest.raises(CorpusError, match=r"^data/utt2dur: Is a directory; a list must be a file that can be read$"):
        _ = read_corpus(["data"]).durations
