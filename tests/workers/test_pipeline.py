"""The worker's loop, with stand-ins for engine, writer and launcher that record their calls."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from support.noting import (
    AUDIO,
    BATCH_INDICES,
    BATCH_SECONDS,
    BATCHES,
    REPORTS,
    NotingEngine,
    NotingReporter,
    NotingWriter,
    cut,
)

from e2v_cli.audio.decode import AudioOptions
from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.formats import open_audio
from e2v_cli.options import ComputeOptions
from e2v_cli.records import Block, DoneRecord, Failure, Place, Segment, Utterance
from e2v_cli.workers.messages import BlockDone, Results
from e2v_cli.workers.pipeline import FINISHING, work
from e2v_cli.workers.worker import LauncherGoneError


def raise_at(broken: int) -> Callable[[int], None]:
    """Return a hook that raises at a batch."""

    def hook(number: int) -> None:
        if number == broken:
            raise RuntimeError("broken")

    return hook


def run(
    blocks: Iterable[Block],
    engine: NotingEngine | None = None,
    reporter: NotingReporter | None = None,
    writer: NotingWriter | None = None,
    batch_seconds: float = BATCH_SECONDS,
    audio: AudioOptions = AUDIO,
) -> tuple[NotingEngine, NotingReporter, NotingWriter]:
    """Run the loop, and check that its threads have ended."""
    engine, reporter, writer = engine or NotingEngine(), reporter or NotingReporter(), writer or NotingWriter()
    try:
        work(blocks, engine, writer, reporter, audio, batch_seconds, 2)
    finally:
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "finish"))]
    return engine, reporter, writer


def test_blocks_are_batched_by_length_and_reported(utterances: list[Utterance]) -> None:
    """Audio that can't be decoded is reported once, with the next batch."""
    engine, reporter, writer = run(cut(utterances))

    assert engine.batches == BATCHES
    assert writer.written == BATCHES
    assert reporter.reports == REPORTS


def test_no_blocks_mean_no_work() -> None:
    engine, reporter, _ = run([])

    assert (engine.batches, reporter.messages) == ([], [])


def test_done_records_are_reported_as_the_writer_made_them(utterances: list[Utterance]) -> None:
    _, reporter, _ = run([Block(7, (utterances[1],), frozenset())])

    record = DoneRecord(1, "utt1", 2.0, 49, 1, "happy", (0.25, 0.75), Place("embeddings/utt1.npy"))
    assert reporter.messages == [Results((record,), ()), BlockDone(7)]


def test_batches_have_the_requested_length(utterances: list[Utterance]) -> None:
    engine, _, _ = run(cut(utterances), batch_seconds=100.0)

    assert engine.batches == [[0, 1, 4, 2], [6, 9, 7, 5, 8], [11]]


def test_utterance_without_a_frame_fails(utterances: list[Utterance]) -> None:
    """One second is too short for a model that needs more."""
    engine, reporter, _ = run(cut(utterances), audio=dataclasses.replace(AUDIO, min_samples=16_001))

    assert engine.batches == [[1, 4], [2], [7], [5], [8], [11]]
    assert next(report for report in reporter.reports if isinstance(report, tuple)) == ([1, 4], [0, 3])


@pytest.mark.parametrize("finished_batches", range(len(BATCHES) + 1))
def test_finished_batches_are_skipped_and_others_unchanged(finished_batches: int, utterances: list[Utterance]) -> None:
    finished = [index for batch in BATCHES[:finished_batches] for index in batch]

    engine, reporter, writer = run(cut(utterances, [*finished, 3]))

    assert engine.batches == BATCHES[finished_batches:]
    assert writer.written == BATCHES[finished_batches:]
    assert [index for report in reporter.reports if isinstance(report, tuple) for index in report[1]] == [10]
    assert [report for report in reporter.reports if isinstance(report, int)] == [0, 1, 2]


def test_only_the_rest_of_a_partly_finished_batch_is_reported(utterances: list[Utterance]) -> None:
    everything_but_9 = set(range(12)) - {9}

    engine, reporter, writer = run(cut(utterances, everything_but_9))

    assert engine.batches == [[6, 9, 7]]
    assert writer.written == [[9]]
    assert reporter.reports == [0, ([9], []), 1, 2]


def test_block_of_only_failures_is_reported(utterances: list[Utterance]) -> None:
    engine, reporter, writer = run([Block(5, (utterances[3], utterances[10]), frozenset())])

    assert (engine.batches, writer.written) == ([], [])
    assert reporter.messages == [
        Results(
            (),
            tuple(
                Failure(utterance, "audio", "missing", f"{utterance.source}: no such file")
                for utterance in (utterances[3], utterances[10])
            ),
        ),
        BlockDone(5),
    ]


def test_failure_after_the_last_batch_comes_before_the_end_of_its_block(
    utterances: list[Utterance],
) -> None:
    """A block is decoded in portions, and a long utterance is one of its own."""
    audio = dataclasses.replace(AUDIO, compute=ComputeOptions(window=1.0))

    _, reporter, _ = run([Block(0, tuple(utterances[index] for index in (0, 10, 1, 3)), frozenset())], audio=audio)

    assert [index for report in reporter.reports if isinstance(report, tuple) for index in report[0]] == [0, 1]
    assert [index for report in reporter.reports if isinstance(report, tuple) for index in report[1]] == [10, 3]
    assert reporter.reports[-1] == 0


def test_failures_of_the_model_are_reported_once(utterances: list[Utterance]) -> None:
    engine, reporter, writer = run(cut(utterances)[1:2], NotingEngine(fails=[9, 5]))

    assert engine.batches == BATCHES[3:6]
    assert writer.written == [[6, 7], [8]]
    assert reporter.reports == [([6, 7], [9]), ([], [5]), ([8], []), 1]


def test_finished_failures_are_not_reported_again(utterances: list[Utterance]) -> None:
    """Neither those of audio nor those of the model; the latter still take part in batches."""
    engine, reporter, _ = run(cut(utterances, [3, 9, 5]), NotingEngine(fails=[9, 5]))

    assert engine.batches == [batch for batch in BATCHES if batch != [5]]
    assert reporter.reports == [
        *(([0, 1], []), ([4], []), ([2], []), 0),
        *(([6, 7], []), ([8], []), 1),
        *(([11], [10]), 2),
    ]


def test_missing_audio_of_a_finished_utterance_is_no_failure(utterances: list[Utterance]) -> None:
    Path(utterances[4].source).unlink()

    engine, reporter, _ = run(cut(utterances, [4, 3])[:1])

    assert engine.batches == [[0, 1], [2]]
    assert reporter.reports == [([0, 1], []), ([2], []), 0]


def test_results_of_a_probe_are_discarded(utterances: list[Utterance]) -> None:
    engine, reporter, writer = run(cut(utterances, probe=True), NotingEngine(fails=[9]))

    assert engine.batches == BATCHES
    assert writer.written == []
    assert reporter.reports == [0, 1, 2]


def test_probes_are_told_from_blocks(utterances: list[Utterance]) -> None:
    block, probe, other = cut(utterances)
    probe = Block(-1, probe.utterances, probe.finished, probe=True)

    engine, reporter, writer = run([block, probe, other])

    assert engine.batches == BATCHES
    assert writer.written == [*BATCHES[:3], BATCHES[6]]
    assert reporter.reports == [*REPORTS[:4], -1, *REPORTS[8:]]


def test_small_blocks_decoded_ahead_are_kept_apart(utterances: list[Utterance]) -> None:
    """Decoding is blocks ahead; finished, probed and done utterances stay with their blocks."""
    blocks = [
        Block(20, (utterances[0],), frozenset()),
        Block(21, (utterances[1],), frozenset([1])),
        Block(22, (utterances[3],), frozenset()),
        Block(-1, (utterances[6],), frozenset(), probe=True),
        Block(23, (utterances[4], utterances[7]), frozenset([4])),
    ]

    engine, reporter, writer = run(blocks)

    assert engine.batches == [[0], [6], [4, 7]]
    assert writer.written == [[0], [7]]
    assert reporter.reports == [([0], []), 20, 21, ([], [3]), 22, -1, ([7], []), 23]


@pytest.mark.parametrize("stop_after", range(len(BATCHES) + 1))
def test_loop_stops_after_the_current_batch(stop_after: int, utterances: list[Utterance]) -> None:
    """Results of that batch are kept, but no block is reported as done any more."""
    stopped = threading.Event()
    engine = NotingEngine(at_end=lambda number: number + 1 < stop_after or stopped.wait(10))

    def stop() -> bool:
        if len(engine.batches) >= stop_after:
            stopped.set()
        return stopped.is_set()

    reporter = NotingReporter(stop)

    _, _, writer = run(cut(utterances), engine, reporter)

    assert engine.batches == writer.written == BATCHES[:stop_after]
    expected = [report for report in REPORTS if isinstance(report, tuple)][:stop_after]
    assert [report for report in reporter.reports if isinstance(report, tuple)] == expected
    ends_of_blocks = [3, 6, 7]
    assert [report for report in reporter.reports if isinstance(report, int)] == [
        number for number, end in enumerate(ends_of_blocks) if stop_after > end
    ]


def test_loop_stops_while_decoding(utterances: list[Utterance]) -> None:
    """The next run finds the failures again."""
    decoded: list[int] = []

    def stop() -> bool:
        decoded.append(len(decoded))
        return len(decoded) > 4  # at the missing one

    engine, reporter, writer = run(cut(utterances), reporter=NotingReporter(stop))

    assert (engine.batches, reporter.messages, writer.written) == ([], [], [])


def test_full_disk_ends_the_loop_without_a_report(utterances: list[Utterance]) -> None:
    reporter = NotingReporter()

    message = "[Errno 28] No space left on device: 'embeddings.ark'"
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        run(cut(utterances), reporter=reporter, writer=NotingWriter(full=range(12)))

    assert reporter.messages == []


@pytest.mark.parametrize("full", range(len(BATCHES)))
def test_no_report_follows_results_that_do_not_fit_on_disk(full: int, utterances: list[Utterance]) -> None:
    """Neither smaller results, which might have room, nor the end of their block."""
    reporter, writer = NotingReporter(), NotingWriter(full=BATCHES[full])

    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: 'embeddings.ark'$"):
        run(cut(utterances), reporter=reporter, writer=writer)

    assert writer.written == BATCHES[:full]
    assert reporter.reports == REPORTS[: BATCH_INDICES[full]]


@pytest.mark.parametrize("broken", range(len(BATCHES)))
def test_error_of_the_engine_ends_the_loop(broken: int, utterances: list[Utterance]) -> None:
    """Results of earlier batches are kept."""
    engine, reporter = NotingEngine(at_start=raise_at(broken)), NotingReporter()

    with pytest.raises(RuntimeError, match=r"^broken$"):
        run(cut(utterances), engine, reporter)

    assert engine.batches == BATCHES[: broken + 1]
    assert reporter.reports == REPORTS[: BATCH_INDICES[broken]]


@pytest.mark.parametrize("broken", range(len(BATCHES)))
def test_late_error_of_the_engine_ends_the_loop(broken: int, utterances: list[Utterance]) -> None:
    """As on a GPU: the block is not reported as done, and so it is computed again."""
    engine, reporter = NotingEngine(at_end=raise_at(broken)), NotingReporter()

    with pytest.raises(RuntimeError, match=r"^broken$"):
        run(cut(utterances), engine, reporter)

    assert len(engine.batches) <= broken + 1 + FINISHING
    assert reporter.reports == REPORTS[: BATCH_INDICES[broken]]


def test_probe_with_a_late_error_does_not_pass(utterances: list[Utterance]) -> None:
    reporter = NotingReporter()

    with pytest.raises(RuntimeError, match=r"^broken$"):
        run([Block(-1, (utterances[0],), frozenset(), probe=True)], NotingEngine(at_end=raise_at(0)), reporter)

    assert reporter.messages == []


@pytest.mark.parametrize("last", [Results, BlockDone])
def test_loop_ends_without_a_launcher(
    last: type[Results | BlockDone], utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = NotingReporter()

    def report(message: Results | BlockDone) -> None:
        if isinstance(message, last):
            raise LauncherGoneError

    monkeypatch.setattr(reporter, "report", report)

    with pytest.raises(LauncherGoneError):
        run(cut(utterances)[:1], reporter=reporter)


def test_next_batch_is_computed_while_results_are_pending(utterances: list[Utterance]) -> None:
    """Also across blocks; results are still reported in the order of their batches."""
    begun = [threading.Event() for _ in BATCHES]

    def wait_for_next(number: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert begun[min(number + 1, len(begun) - 1)].wait(10)

    engine = NotingEngine(at_start=lambda number: begun[number].set(), at_end=wait_for_next)

    _, reporter, writer = run(cut(utterances), engine)

    assert engine.batches == writer.written == BATCHES
    assert reporter.reports == REPORTS


def test_number_of_pending_batches_is_limited(utterances: list[Utterance]) -> None:
    """Their results take memory."""
    begun = [threading.Event() for _ in utterances]

    def hold_first(number: int) -> None:
        if number == 0:
            assert begun[FINISHING].wait(10)
            assert not begun[FINISHING + 1].wait(0.3)

    engine = NotingEngine(at_start=lambda number: begun[number].set(), at_end=hold_first)

    _, reporter, _ = run([Block(0, tuple(utterances), frozenset())], engine, batch_seconds=0.1)

    assert engine.batches == [[0], [6], [9], [1], [4], [7], [2], [5], [8], [11]]
    assert reporter.reports == [([0], [3, 10]), *(([index], []) for index in (6, 9, 1, 4, 7, 2, 5, 8, 11)), 0]


def test_next_block_is_requested_while_one_is_computed(utterances: list[Utterance]) -> None:
    """Its audio is decoded meanwhile. It is not requested too early: another worker may be free."""
    engine = NotingEngine()
    asked: list[int] = []

    def blocks() -> Iterator[Block]:
        for block in cut(utterances):
            asked.append(len(engine.batches))
            yield block

    run(blocks(), engine)

    assert engine.batches == BATCHES
    assert asked == [0, 0, 3]


def cut_segments(source: str, *times: tuple[float, float], first: int = 0) -> tuple[Utterance, ...]:
    """Make segments of a recording."""
    return tuple(
        Utterance(first + number, f"utt{first + number}", source, segment=Segment(*time))
        for number, time in enumerate(times)
    )


def test_segments_of_a_recording_are_decoded_together(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block may hold several recordings and whole files; batches are still by length."""
    opened: list[str] = []

    def note(path: str, at_a_glance: bool = False) -> Decoder:
        opened.append(Path(path).name)
        return open_audio(path, at_a_glance)

    monkeypatch.setattr("e2v_cli.audio.decode.open_audio", note)
    one, other = utterances[2].source, utterances[5].source
    segments = cut_segments(one, (2.0, 3.0), (0.0, 1.5), (5.0, 6.0))
    others = cut_segments(other, (0.0, 0.5), (0.25, 2.25), first=4)
    whole = Utterance(3, "utt3", utterances[0].source)

    engine, reporter, writer = run(
        [
            Block(0, (*segments, whole, *others), frozenset()),
            Block(1, cut_segments(one, (0.0, 1.0), first=6), frozenset()),
        ]
    )

    assert engine.batches == [[4, 0, 3, 1], [5], [6]]
    assert writer.written == engine.batches
    assert reporter.reports == [([4, 0, 3, 1], [2]), ([5], []), 0, ([6], []), 1]
    assert sorted(opened) == ["0.wav", "2.wav", "2.wav", "5.wav"]


def test_utterance_longer_than_a_window_is_encoded_alone(utterances: list[Utterance]) -> None:
    engine, reporter, _ = run(
        cut(utterances), batch_seconds=100.0, audio=dataclasses.replace(AUDIO, compute=ComputeOptions(window=2.0))
    )

    alone = [[2], [5], [8], [11]]
    assert [batch for batch in engine.batches if batch in alone] == alone
    assert sorted(chain(*engine.batches)) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 11]
    assert [report for report in reporter.reports if isinstance(report, int)] == [0, 1, 2]
