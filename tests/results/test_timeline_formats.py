"""The timeline in other formats: their bytes, and reading by a tool of each field."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from praatio import textgrid  # type: ignore[import-untyped]
from pyannote.database.util import load_rttm
from support.timelines import ODD_LABELS, SPANS, odd_spans, predicted, times

from e2v_cli.records import Cut, Tier
from e2v_cli.results.spans import Span, Track, in_recording, join_spans, span_rows
from e2v_cli.results.timeline import TimelineFiles, parse_rows, timeline_rows
from e2v_cli.system import files as durable
from e2v_cli.system.files import published

RTTM = (
    "SPEAKER my%20call 1 0.0000 0.5000 <NA> <NA> angry 0.750000 <NA>\n"
    "SPEAKER my%20call 1 0.5000 0.5000 <NA> <NA> sad 0.875000 <NA>\n"
    "SPEAKER my%20call 1 1.0000 0.5000 <NA> <NA> angry 0.500000 <NA>\n"
    "SPEAKER my%20call 1 1.5000 0.2346 <NA> <NA> angry 1.000000 <NA>\n"
)
AUDACITY = (
    "0.000000\t0.500000\tangry\n"
    "0.500000\t1.000000\tsad\n"
    "1.000000\t1.500000\tangry\n"
    "1.500000\t1.734600\tangry\n"
)  # fmt: skip
TEXT_GRID = """\
File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0_
xmax = 1.7346_
tiers? <exists>_
size = 1_
item []:_
    item [1]:
        class = "IntervalTier"_
        name = "emotion"_
        xmin = 0_
        xmax = 1.7346_
        intervals: size = 4_
        intervals [1]:
            xmin = 0_
            xmax = 0.5_
            text = "angry"_
        intervals [2]:
            xmin = 0.5_
            xmax = 1_
            text = "sad"_
        intervals [3]:
            xmin = 1_
            xmax = 1.5_
            text = "angry"_
        intervals [4]:
            xmin = 1.5_
            xmax = 1.7346_
            text = "angry"_
""".replace("_\n", " \n")

SPEAKERS = """\
File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0_
xmax = 4.5_
tiers? <exists>_
size = 2_
item []:_
    item [1]:
        class = "IntervalTier"_
        name = "an""na"" channel 1"_
        xmin = 0_
        xmax = 4.5_
        intervals: size = 4_
        intervals [1]:
            xmin = 0_
            xmax = 0.25_
            text = ""_
        intervals [2]:
            xmin = 0.25_
            xmax = 1.25_
            text = "sad"_
        intervals [3]:
            xmin = 1.25_
            xmax = 2.25_
            text = "angry"_
        intervals [4]:
            xmin = 2.25_
            xmax = 4.5_
            text = ""_
    item [2]:
        class = "IntervalTier"_
        name = "bob channel 2"_
        xmin = 0_
        xmax = 4.5_
        intervals: size = 2_
        intervals [1]:
            xmin = 0_
            xmax = 3.5_
            text = ""_
        intervals [2]:
            xmin = 3.5_
            xmax = 4.5_
            text = "sad"_
""".replace("_\n", " \n")

EVERY = ("rttm", "audacity", "textgrid")

ODD_IDS = ("../x", "my%20call", "ü/喂", "x" * 300, "utt1")


def write(
    folder: Path, utterances: Mapping[str, Sequence[Span]], formats: Sequence[str] = EVERY, suffix: str = ""
) -> dict[str, bytes]:
    """Write utterances, each a recording, and return the content of all files."""
    return write_recordings(
        folder,
        {key: [Track(Tier(), in_recording(Cut(key), spans))] for key, spans in utterances.items()},
        formats,
        suffix,
    )


def write_recordings(
    folder: Path, recordings: Mapping[str, Sequence[Track]], formats: Sequence[str] = EVERY, suffix: str = ""
) -> dict[str, bytes]:
    """Write recordings, and return the content of all files."""
    with ExitStack() as stack:

        def create(name: str) -> BinaryIO:
            return stack.enter_context(published(folder / name))

        files = TimelineFiles(folder, suffix, formats, create)
        for recording, tracks in recordings.items():
            for track in tracks:
                files.add(recording, track)
            files.write(recording, tracks)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_text_grid(path: Path) -> tuple[float, list[tuple[float, float, str]]]:
    """Read a TextGrid with praatio; return its end and the intervals of its tier."""
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    assert grid.tierNames == ("emotion",)
    assert grid.minTimestamp == 0
    tier = grid.getTier("emotion")
    assert (tier.minTimestamp, tier.maxTimestamp) == (0, grid.maxTimestamp)
    return grid.maxTimestamp, [tuple(interval) for interval in tier.entries]


def read_rttm(text: bytes) -> Iterator[tuple[str, str, Decimal, Decimal, str, str]]:
    for line in text.decode().split("\n")[:-1]:
        kind, utt_id, channel, start, length, *nothing, label, score, _ = line.split()  # splits at any white space
        assert (kind, nothing) == ("SPEAKER", ["<NA>", "<NA>"])
        yield utt_id, channel, Decimal(start), Decimal(length), label, score


def test_bytes_of_every_format(tmp_path: Path) -> None:
    assert {name: content.decode() for name, content in write(tmp_path, {"my%20call": SPANS}).items()} == {
        "timeline.rttm": RTTM,
        "audacity/my%2520call.txt": AUDACITY,
        "textgrid/my%2520call.TextGrid": TEXT_GRID,
    }


@pytest.mark.parametrize(
    ("formats", "names"),
    [
        ((), set()),
        (("rttm",), {"timeline.rttm"}),
        (("rttm", "rttm"), {"timeline.rttm"}),
        (("audacity",), {"audacity"}),
        (("textgrid", "rttm"), {"textgrid", "timeline.rttm"}),
    ],
)
def test_only_chosen_formats_are_written(formats: tuple[str, ...], names: set[str], tmp_path: Path) -> None:
    write(tmp_path, {"u": SPANS}, formats)

    assert set(os.listdir(tmp_path)) == names


# -- segments ----------------------------------------------------------------------------------------------------------


def segment(start: float, *labels: str, speaker: str = "", channel: int | None = None) -> Track:
    """Make a segment with a span of a second for each label."""
    spans = [Span(number, number + 1, label, 1.0, (1.0,)) for number, label in enumerate(labels)]
    return Track(Tier(channel, speaker), in_recording(Cut("call", start), spans))


def read_tiers(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    """Read the tiers of a TextGrid with praatio, which refuses overlapping intervals; check that they have no gaps."""
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    tiers = {name: [tuple(interval) for interval in grid.getTier(name).entries] for name in grid.tierNames}
    for intervals in tiers.values():
        assert (intervals[0][0], intervals[-1][1]) == (0, grid.maxTimestamp)
        assert all(before[1] == after[0] for before, after in pairwise(intervals))
    return {name: [interval for interval in intervals if interval[2]] for name, intervals in tiers.items()}


def test_bytes_of_a_recording_with_two_speakers(tmp_path: Path) -> None:
    """Segments come in any order, and with another channel."""
    tracks = [segment(3.5, "sad", speaker="bob", channel=1), segment(0.25, "sad", "angry", speaker='an"na"', channel=0)]

    files = write_recordings(tmp_path, {"call": tracks})

    assert files["timeline.rttm"].decode() == (
        "SPEAKER call 2 3.5000 1.0000 <NA> <NA> sad 1.000000 <NA>\n"
        "SPEAKER call 1 0.2500 1.0000 <NA> <NA> sad 1.000000 <NA>\n"
        "SPEAKER call 1 1.2500 1.0000 <NA> <NA> angry 1.000000 <NA>\n"
    )
    assert files["audacity/call.txt"] == (
        b"0.250000\t1.250000\tsad\n1.250000\t2.250000\tangry\n3.500000\t4.500000\tsad\n"
    )
    assert files["textgrid/call.TextGrid"].decode() == SPEAKERS


def test_segments_that_overlap_go_to_tiers_of_their_own(tmp_path: Path) -> None:
    tracks = [segment(start, label) for start, label in ((0.0, "a"), (2.0, "b"), (0.5, "c"), (0.9, "d"), (1.5, "e"))]

    write_recordings(tmp_path, {"call": [*tracks, segment(0.5, "f", speaker="anna")]}, ("textgrid",))

    assert read_tiers(tmp_path / "textgrid/call.TextGrid") == {
        "anna": [(0.5, 1.5, "f")],
        "emotion": [(0, 1, "a"), (1.5, 2.5, "e")],
        "emotion (2)": [(0.5, 1.5, "c"), (2, 3, "b")],
        "emotion (3)": [(0.9, 1.9, "d")],
    }


def test_segments_that_touch_share_a_tier(tmp_path: Path) -> None:
    """Rounded times may overlap by the length of a sample: the later interval begins where the earlier one ends."""
    tracks = [segment(0.0, "a"), segment(0.9999, "b"), segment(2.0003, "c")]

    write_recordings(tmp_path, {"call": tracks}, ("textgrid",))

    assert read_tiers(tmp_path / "textgrid/call.TextGrid") == {
        "emotion": [(0, 1, "a"), (1, 1.9999, "b"), (2.0003, 3.0003, "c")]
    }


@pytest.mark.parametrize("seed", range(10))
def test_tiers_never_overlap_and_lose_nothing(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    tracks = [
        segment(start, *"abc"[: random.integers(1, 4)], speaker=str(random.choice(["", "anna", "bob"])))
        for start in random.uniform(0, 60, 40)
    ]

    write_recordings(tmp_path, {"call": tracks}, ("textgrid",))

    read = [interval for tier in read_tiers(tmp_path / "textgrid/call.TextGrid").values() for interval in tier]
    expected = [(span.start, span.end, span.label) for track in tracks for span in track.spans]
    assert np.array([interval[:2] for interval in sorted(read)]) == pytest.approx(
        np.array([interval[:2] for interval in sorted(expected)]), abs=0.001
    )
    assert sorted(label for _, _, label in read) == sorted(label for _, _, label in expected)


@pytest.mark.parametrize(
    ("tier", "name"),
    [
        (Tier(), "emotion"),
        (Tier(speaker="anna"), "anna"),
        (Tier(1), "channel 2"),
        (Tier(0, "anna"), "anna channel 1"),
    ],
)
def test_names_of_tiers(tier: Tier, name: str) -> None:
    assert tier.name == name


def test_diarisation_tools_read_segments_by_recording(tmp_path: Path) -> None:
    write_recordings(tmp_path, {"call": [segment(3.5, "sad"), segment(0.25, "sad", "angry")], "b": [segment(9, "sad")]})

    read = load_rttm(tmp_path / "timeline.rttm")  # type: ignore[no-untyped-call]

    found = {
        uri: [(*segment, label) for segment, _, label in annotation.itertracks(yield_label=True)]
        for uri, annotation in read.items()
    }
    assert found == {"call": [(0.25, 1.25, "sad"), (1.25, 2.25, "angry"), (3.5, 4.5, "sad")], "b": [(9, 10, "sad")]}


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_of_one_of_several_timelines_have_its_length_in_their_names(tmp_path: Path) -> None:
    assert write(tmp_path, {"u": SPANS}, suffix="-0.5").keys() == {
        *("timeline-0.5.rttm", "audacity-0.5/u.txt", "textgrid-0.5/u.TextGrid")
    }


def test_folders_are_made_for_files_alone(tmp_path: Path) -> None:
    assert write(tmp_path, {}).keys() == {"timeline.rttm"}

    assert os.listdir(tmp_path) == ["timeline.rttm"]


def test_list_formats_hold_all_utterances(tmp_path: Path) -> None:
    files = write(tmp_path, {"my%20call": SPANS, "b": [Span(0.0, 2.0, "sad", 1.0, (0.0, 1.0))]})

    assert files["timeline.rttm"].decode() == RTTM + "SPEAKER b 1 0.0000 2.0000 <NA> <NA> sad 1.000000 <NA>\n"
    assert files["audacity/b.txt"] == b"0.000000\t2.000000\tsad\n"


def test_ids_become_safe_file_names(tmp_path: Path) -> None:
    files = write(tmp_path, dict.fromkeys(ODD_IDS, SPANS[:1]))

    assert [line[0] for line in read_rttm(files["timeline.rttm"])] == list(ODD_IDS)
    names = {name.removeprefix("textgrid/").removesuffix(".TextGrid") for name in files if "textgrid/" in name}
    assert {name.removeprefix("audacity/").removesuffix(".txt") for name in files if "audacity/" in name} == names
    (long,) = (name for name in names if len(name) > 100)
    assert names == {"%2E.%2Fx", "my%2520call", "ü%2F喂", "utt1", long}
    assert long.startswith("x" * 100)
    assert len(long) <= 200


def test_long_ids_and_host_names_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a draft holds that of the host, and file names end at 255 bytes."""
    monkeypatch.setattr(durable, "HOST", "h" * 64)

    assert len(write(tmp_path, {"x" * 300: SPANS})) == 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("join", [False, True])
def test_praat_reads_text_grids(seed: int, join: bool, tmp_path: Path) -> None:
    spans = join_spans(odd_spans(seed)) if join else odd_spans(seed)
    end = spans[-1].end

    write(tmp_path, {"u": spans})

    assert read_text_grid(tmp_path / "textgrid/u.TextGrid") == (
        end,
        [(span.start, span.end, span.label) for span in spans],
    )


def test_text_grid_of_one_interval(tmp_path: Path) -> None:
    write(tmp_path, {"u": [Span(0.0, 0.025, '"', 1.0, (0.0, 1.0))]})

    assert b'\n            text = """" \n' in (tmp_path / "textgrid/u.TextGrid").read_bytes()
    assert read_text_grid(tmp_path / "textgrid/u.TextGrid") == (0.025, [(0, 0.025, '"')])


@pytest.mark.parametrize("seed", range(5))
def test_diarisation_tools_read_rttm(seed: int, tmp_path: Path) -> None:
    utterances = {"my%20call": odd_spans(seed), "b": odd_spans(seed + 100)}

    write(tmp_path, utterances)

    read = load_rttm(tmp_path / "timeline.rttm")  # type: ignore[no-untyped-call]
    labels = dict(zip(ODD_LABELS, ("a%20b", 'so-"so"', "悲%20伤", "wü%E2%80%A8tend"), strict=True))
    assert read.keys() == {"my%20call", "b"}
    for utt_id, spans in utterances.items():
        annotation = read[utt_id]
        found = [(segment, label) for segment, _, label in annotation.itertracks(yield_label=True)]
        assert [label for _, label in found] == [labels[span.label] for span in spans]
        assert [tuple(segment) for segment, _ in found] == pytest.approx(np.array(times(spans)), abs=1e-9)
        assert tuple(annotation.get_timeline().extent()) == pytest.approx((0, spans[-1].end), abs=1e-9)
        assert annotation.label_duration(labels[spans[0].label]) == pytest.approx(
            sum(span.end - span.start for span in spans if span.label == spans[0].label)
        )


@pytest.mark.parametrize("seed", range(5))
def test_start_plus_length_is_exactly_the_next_start(seed: int, tmp_path: Path) -> None:
    spans = odd_spans(seed)

    files = write(tmp_path, {"u": spans})

    rttm = list(read_rttm(files["timeline.rttm"]))
    edges = [line[2] for line in rttm] + [Decimal(f"{spans[-1].end:.4f}")]
    assert edges[0] == 0
    assert [start + length for _, _, start, length, _, _ in rttm] == edges[1:]
    assert all(line[3] > 0 for line in rttm)
    assert [line[5] for line in rttm] == [f"{span.score:.6f}" for span in spans]


def test_lengths_are_differences_of_rounded_times(tmp_path: Path) -> None:
    """A third rounds to 0.3333, so one length is 0.3334 to leave no gap."""
    thirds = [Span(k / 3, (k + 1) / 3, "sad", 1.0, (0.0, 1.0)) for k in range(3)]

    files = write(tmp_path, {"u": thirds})

    assert files["timeline.rttm"].decode() == (
        "SPEAKER u 1 0.0000 0.3333 <NA> <NA> sad 1.000000 <NA>\n"
        "SPEAKER u 1 0.3333 0.3334 <NA> <NA> sad 1.000000 <NA>\n"
        "SPEAKER u 1 0.6667 0.3333 <NA> <NA> sad 1.000000 <NA>\n"
    )
    assert files["audacity/u.txt"] == (b"0.000000\t0.333300\tsad\n0.333300\t0.666700\tsad\n0.666700\t1.000000\tsad\n")


@pytest.mark.parametrize("seed", range(5))
def test_audacity_reads_labels(seed: int, tmp_path: Path) -> None:
    spans = odd_spans(seed)

    files = write(tmp_path, {"u": spans})

    lines = [line.split("\t") for line in files["audacity/u.txt"].decode().split("\n")[:-1]]
    assert [(float(start), float(end), label) for start, end, label in lines] == [
        (span.start, span.end, span.label) for span in spans
    ]


def test_write_error_names_the_file_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    files = TimelineFiles(tmp_path, "", ["audacity"], lambda _: BytesIO())
    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="No space left") as caught:
        files.write("../x", [Track(Tier(), SPANS)])
    assert caught.value.filename == str(tmp_path / "audacity/%2E.%2Fx.txt")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_of_an_earlier_publication_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, {"u": SPANS})

    files = write(tmp_path, {"u": join_spans(SPANS)})

    assert len(files) == 3
    assert files["audacity/u.txt"].count(b"\n") == 3


def test_an_hour_of_short_spans_is_fast(tmp_path: Path) -> None:
    """Each step with 36,000 spans of nine classes takes far below a second."""
    labels = tuple(f"class {number}" for number in range(9))
    posteriors = np.random.default_rng(0).dirichlet(np.ones(9), 36_000).astype(np.float32)
    began = time.process_time()

    text = "".join(timeline_rows(predicted(3600.0), posteriors, 0.1, labels))
    cut, spans = parse_rows(text.encode())
    files = write(tmp_path, {"u": spans, "joined": join_spans(spans)})

    assert time.process_time() - began < 10
    assert "".join(span_rows("u", cut, spans)) == text
    assert files["audacity/u.txt"].count(b"\n") == len(spans) == 36_000
    assert len(join_spans(spans)) == files["audacity/joined.txt"].count(b"\n") < 36_000
