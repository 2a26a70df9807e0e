"""The timeline in other formats: their bytes, and reading by a tool of each field."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from praatio import textgrid  # type: ignore[import-untyped]
from pyannote.database.util import load_rttm
from support.timelines import DURATION, ODD_LABELS, SPANS, odd_spans, times

from e2v_cli.results.spans import Span, join_spans, parse_rows, span_rows
from e2v_cli.results.timeline import TimelineFiles, timeline_rows
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

EVERY = ("rttm", "audacity", "textgrid")

ODD_IDS = ("../x", "my%20call", "ü/喂", "x" * 300, "utt1")


def write(
    folder: Path, utterances: dict[str, tuple[float, Sequence[Span]]], formats: Sequence[str] = EVERY
) -> dict[str, bytes]:
    """Write utterances, and return the content of all files."""
    with ExitStack() as stack:

        def create(name: str) -> BinaryIO:
            return stack.enter_context(published(folder / name))

        files = TimelineFiles(folder, formats, create)
        for utt_id, (duration, spans) in utterances.items():
            files.add(utt_id, duration, spans)
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
    assert {name: content.decode() for name, content in write(tmp_path, {"my%20call": (DURATION, SPANS)}).items()} == {
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
    write(tmp_path, {"u": (DURATION, SPANS)}, formats)

    assert set(os.listdir(tmp_path)) == names


def test_list_formats_hold_all_utterances(tmp_path: Path) -> None:
    files = write(tmp_path, {"my%20call": (DURATION, SPANS), "b": (2.0, [Span(0.0, 2.0, "sad", 1.0, (0.0, 1.0))])})

    assert files["timeline.rttm"].decode() == RTTM + "SPEAKER b 1 0.0000 2.0000 <NA> <NA> sad 1.000000 <NA>\n"
    assert files["audacity/b.txt"] == b"0.000000\t2.000000\tsad\n"


def test_ids_become_safe_file_names(tmp_path: Path) -> None:
    files = write(tmp_path, dict.fromkeys(ODD_IDS, (DURATION, SPANS[:1])))

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

    assert len(write(tmp_path, {"x" * 300: (DURATION, SPANS)})) == 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("join", [False, True])
def test_praat_reads_text_grids(seed: int, join: bool, tmp_path: Path) -> None:
    spans = join_spans(odd_spans(seed)) if join else odd_spans(seed)
    end = spans[-1].end

    write(tmp_path, {"u": (end, spans)})

    assert read_text_grid(tmp_path / "textgrid/u.TextGrid") == (
        end,
        [(span.start, span.end, span.label) for span in spans],
    )


def test_text_grid_of_one_interval(tmp_path: Path) -> None:
    write(tmp_path, {"u": (0.025, [Span(0.0, 0.025, '"', 1.0, (0.0, 1.0))])})

    assert b'\n            text = """" \n' in (tmp_path / "textgrid/u.TextGrid").read_bytes()
    assert read_text_grid(tmp_path / "textgrid/u.TextGrid") == (0.025, [(0, 0.025, '"')])


@pytest.mark.parametrize("seed", range(5))
def test_diarisation_tools_read_rttm(seed: int, tmp_path: Path) -> None:
    utterances = {"my%20call": odd_spans(seed), "b": odd_spans(seed + 100)}

    write(tmp_path, {utt_id: (spans[-1].end, spans) for utt_id, spans in utterances.items()})

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

    files = write(tmp_path, {"u": (spans[-1].end, spans)})

    rttm = list(read_rttm(files["timeline.rttm"]))
    edges = [line[2] for line in rttm] + [Decimal(f"{spans[-1].end:.4f}")]
    assert edges[0] == 0
    assert [start + length for _, _, start, length, _, _ in rttm] == edges[1:]
    assert all(line[3] > 0 for line in rttm)
    assert [line[5] for line in rttm] == [f"{span.score:.6f}" for span in spans]


def test_lengths_are_differences_of_rounded_times(tmp_path: Path) -> None:
    """A third rounds to 0.3333, so one length is 0.3334 to leave no gap."""
    thirds = [Span(k / 3, (k + 1) / 3, "sad", 1.0, (0.0, 1.0)) for k in range(3)]

    files = write(tmp_path, {"u": (1.0, thirds)})

    assert files["timeline.rttm"].decode() == (
        "SPEAKER u 1 0.0000 0.3333 <NA> <NA> sad 1.000000 <NA>\n"
        "SPEAKER u 1 0.3333 0.3334 <NA> <NA> sad 1.000000 <NA>\n"
        "SPEAKER u 1 0.6667 0.3333 <NA> <NA> sad 1.000000 <NA>\n"
    )
    assert files["audacity/u.txt"] == (b"0.000000\t0.333300\tsad\n0.333300\t0.666700\tsad\n0.666700\t1.000000\tsad\n")


@pytest.mark.parametrize("seed", range(5))
def test_audacity_reads_labels(seed: int, tmp_path: Path) -> None:
    spans = odd_spans(seed)

    files = write(tmp_path, {"u": (spans[-1].end, spans)})

    lines = [line.split("\t") for line in files["audacity/u.txt"].decode().split("\n")[:-1]]
    assert [(float(start), float(end), label) for start, end, label in lines] == [
        (span.start, span.end, span.label) for span in spans
    ]


def test_write_error_names_the_file_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    files = TimelineFiles(tmp_path, ["audacity"], lambda _: BytesIO())
    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="No space left") as caught:
        files.add("../x", DURATION, SPANS)
    assert caught.value.filename == str(tmp_path / "audacity/%2E.%2Fx.txt")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_of_an_earlier_publication_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, {"u": (DURATION, SPANS)})

    files = write(tmp_path, {"u": (DURATION, join_spans(SPANS))})

    assert len(files) == 3
    assert files["audacity/u.txt"].count(b"\n") == 3


def test_an_hour_of_short_spans_is_fast(tmp_path: Path) -> None:
    """Each step with 36,000 spans of nine classes takes far below a second."""
    labels = tuple(f"class {number}" for number in range(9))
    posteriors = np.random.default_rng(0).dirichlet(np.ones(9), 36_000).astype(np.float32)
    began = time.process_time()

    text = "".join(timeline_rows("u", posteriors, 0.1, 3600.0, labels))
    spans = parse_rows(text.encode())
    files = write(tmp_path, {"u": (3600.0, spans), "joined": (3600.0, join_spans(spans))})

    assert time.process_time() - began < 10
    assert "".join(span_rows("u", spans)) == text
    assert files["audacity/u.txt"].count(b"\n") == len(spans) == 36_000
    assert len(join_spans(spans)) == files["audacity/joined.txt"].count(b"\n") < 36_000
