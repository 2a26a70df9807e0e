"""The worker's end of the pipe to its launcher, and the loop between them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest
from support.noting import AUDIO, BATCH_SECONDS, BATCHES, NotingEngine, NotingWriter, cut

from e2v_cli.errors import OutputError
from e2v_cli.records import Block, DoneRecord, Failure, Place, Utterance
from e2v_cli.workers.messages import BlockDone, Crash, Fatal, Results
from e2v_cli.workers.pipeline import work
from e2v_cli.workers.worker import LauncherGoneError, LauncherLine


@pytest.fixture
def pipe() -> Iterator[tuple[LauncherLine, Connection]]:
    """A worker's end of the pipe, and its launcher's."""
    here, there = Pipe()
    with here, there:
        yield LauncherLine(there), here


def receive(connection: Connection) -> object:
    assert connection.poll(10)
    message: object = connection.recv()
    return message


BLOCKS = [Block(number, (Utterance(number, f"utt{number}", f"{number}.wav"),), frozenset()) for number in range(3)]


def test_request_is_answered_with_a_block(pipe: tuple[LauncherLine, Connection]) -> None:
    line, launcher = pipe
    launcher.send(BLOCKS[0])
    launcher.send(None)

    assert line.ask("first") == BLOCKS[0]
    assert line.ask("next") is None

    assert [receive(launcher), receive(launcher)] == ["first", "next"]


def test_missing_next_block_does_not_mean_stop(pipe: tuple[LauncherLine, Connection]) -> None:
    line, launcher = pipe
    launcher.send(None)
    assert line.ask("next") is None

    assert not line.stopping()
    launcher.send(BLOCKS[1])
    assert line.ask("first") == BLOCKS[1]


def test_answer_without_a_request_means_stop(pipe: tuple[LauncherLine, Connection]) -> None:
    """From then on the worker requests nothing, but it can still report results."""
    line, launcher = pipe
    assert not line.stopping()

    launcher.send(None)

    assert line.stopping()
    assert line.stopping()
    assert line.ask("first") is None
    assert line.ask("next") is None
    assert not launcher.poll()
    line.report(BlockDone(3))
    assert receive(launcher) == BlockDone(3)


def test_end_of_the_launcher_is_noticed(pipe: tuple[LauncherLine, Connection]) -> None:
    line, launcher = pipe
    launcher.close()

    assert line.stopping()
    with pytest.raises(LauncherGoneError):
        line.report(BlockDone(0))


def test_end_of_the_launcher_during_a_request_is_noticed(pipe: tuple[LauncherLine, Connection]) -> None:
    line, launcher = pipe
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(line.ask, "first")
        assert receive(launcher) == "first"
        launcher.close()
        with pytest.raises(LauncherGoneError):
            asked.result(10)


def test_two_threads_may_send_at_once() -> None:
    """One asks for blocks while the other reports results, which may be longer than a pipe holds."""
    here, there = Pipe()
    line = LauncherLine(there)
    spoken = [
        [Results((DoneRecord(index, f"{thread}" * 100_000, 1.0, 49, 1, "", (), None),), ()) for index in range(20)]
        for thread in range(2)
    ]

    def speak(messages: list[Results]) -> None:
        for message in messages:
            line.report(message)

    def listen() -> list[object]:
        with here:  # so that no thread waits for a listener that has failed
            return [receive(here) for _ in range(40)]

    with there, ThreadPoolExecutor(3) as pool:
        heard = pool.submit(listen)
        for speaker in [pool.submit(speak, messages) for messages in spoken]:
            speaker.result(60)
        there.close()
        messages = heard.result(60)

    for messages_of_one in spoken:
        assert [message for message in messages if message in messages_of_one] == messages_of_one


@pytest.mark.parametrize(
    "message",
    [
        Results(
            (DoneRecord(1, "a", 2.0, 49, 1, "sad", (0.75, 0.25), None, (Place("timeline.1-of-1.1", 0, 7),)),),
            (Failure(BLOCKS[0].utterances[0], "audio", "empty", "0 bytes"),),
        ),
        BlockDone(-1),
        Fatal(OutputError("a: No space left on device")),
        Crash("RuntimeError: broken"),
    ],
)
def test_messages_arrive_unchanged(
    message: Results | BlockDone | Fatal | Crash, pipe: tuple[LauncherLine, Connection]
) -> None:
    line, launcher = pipe

    line.report(message)

    arrived = receive(launcher)
    assert type(arrived) is type(message)
    if isinstance(arrived, Fatal) and isinstance(message, Fatal):
        assert type(arrived.error) is OutputError
        assert (str(arrived.error), arrived.error.exit_code) == (str(message.error), 1)
    else:
        assert arrived == message


def serve(launcher: Connection, blocks: Iterator[Block], stop_after: int | None = None) -> list[object]:
    """Answer requests as a launcher does, and send a stop after ``stop_after`` results."""
    heard: list[object] = []
    while True:
        try:
            message = receive(launcher)
        except (EOFError, ConnectionResetError):
            return heard
        match message:
            case "first" | "next":
                heard.append(message)
                launcher.send(next(blocks, None))
            case Results():
                heard.append([record.index for record in message.done])
                if len([item for item in heard if isinstance(item, list)]) == stop_after:
                    blocks = iter([])
                    launcher.send(None)
            case BlockDone():
                heard.append(message.number)


def work_for(launcher: Connection, engine: NotingEngine) -> None:
    """Request blocks and compute them, as the worker process does."""
    line = LauncherLine(launcher)
    with launcher:
        while block := line.ask("first"):
            blocks = chain([block], iter(lambda: line.ask("next"), None))
            work(blocks, engine, NotingWriter(), line, AUDIO, BATCH_SECONDS, 2)


def test_worker_requests_blocks_until_there_are_no_more(utterances: list[Utterance]) -> None:
    here, there = Pipe()
    engine = NotingEngine()
    with here, ThreadPoolExecutor(1) as pool:
        heard = pool.submit(serve, here, iter(cut(utterances)))
        work_for(there, engine)

        assert engine.batches == BATCHES
        messages = heard.result(10)
        wishes = [message for message in messages if isinstance(message, str)]
        assert wishes == ["first", "next", "next", "next", "first"]  # a few utterances ahead; the last "next" gets none
        assert (messages[:2], messages[-1]) == (["first", "next"], "first")
        reports = [message for message in messages if not isinstance(message, str)]
        assert reports == [*([0, 1], [4], [2], 0), *([6, 9, 7], [5], [8], 1), *([11], 2)]


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_stopped_worker_computes_at_most_one_more_batch(stop_after: int, utterances: list[Utterance]) -> None:
    here, there = Pipe()
    engine = NotingEngine(at_start=lambda number: number < stop_after or there.poll(10))  # until the stop has arrived
    with here, ThreadPoolExecutor(1) as pool:
        heard = pool.submit(serve, here, iter(cut(utterances)), stop_after)
        work_for(there, engine)

        assert engine.batches == BATCHES[: len(engine.batches)]
        assert stop_after <= len(engine.batches) <= stop_after + 1
        # the missing file after the sixth batch may have been reported, too
        assert [item for item in heard.result(10) if isinstance(item, list) and item] == engine.batches
