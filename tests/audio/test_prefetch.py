"""Recordings are decoded a few ahead of their use, in the order of the list."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.audio_files import RATE, encode, noisy_tone
from support.processes import wait_until

from e2v_cli.audio import prefetch
from e2v_cli.audio.decode import AudioOptions
from e2v_cli.audio.prefetch import AHEAD_WAVEFORMS, decode_ahead
from e2v_cli.options import ComputeOptions, InputOptions
from e2v_cli.records import Failure, Segment, Utterance, Waveform
from e2v_cli.system.spool import DiskWaveform

OPTIONS = AudioOptions(InputOptions(()), ComputeOptions(), min_samples=400)
TONE = noisy_tone(2 * RATE)

Recording = tuple[Utterance, ...]
Load = Callable[[Sequence[Utterance], AudioOptions, Callable[[], bool]], Iterator[Waveform | Failure]]


def never_stop() -> bool:
    """Never stop."""
    return False


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Forty utterances, of growing length; every third is missing."""
    for index in range(40):
        if index % 3:
            (tmp_path / f"{index}.wav").write_bytes(encode(TONE[: 400 + index]))
    return [Utterance(index, f"utt{index}", str(tmp_path / f"{index}.wav")) for index in range(40)]


@pytest.fixture
def recordings(utterances: list[Utterance]) -> list[Recording]:
    """Each utterance as a recording of its own."""
    return [(utterance,) for utterance in utterances]


def waveform(utterance: Utterance, num_samples: int = 400) -> Waveform:
    return Waveform(utterance, np.zeros(num_samples, np.float32), num_samples / RATE)


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


def load_with(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "load_waveforms", load)


@pytest.mark.parametrize("num_threads", [1, 2, 8, 100])
def test_order_is_kept_and_failures_are_passed_on(num_threads: int, recordings: list[Recording]) -> None:
    results = list(decode_ahead(recordings, OPTIONS, num_threads, never_stop))

    assert [result.utterance for (result, recording) in zip(results, recordings, strict=True)] == [
        utterance for (utterance,) in recordings
    ]
    lengths = [len(result.samples) if isinstance(result, Waveform) else result.reason for result in results]
    assert lengths == [400 + index if index % 3 else "missing" for index in range(40)]
    assert decoding_threads() == []


@pytest.mark.parametrize("num_threads", [1, 2, 8])
def test_segments_keep_the_order_of_recordings(num_threads: int, tmp_path: Path) -> None:
    """Each recording has more segments than its queue holds."""
    recordings = []
    for number in range(5):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(encode(TONE))
        segments = [Segment(0.05 * (19 - index), 0.05 * (20 - index)) for index in range(20)]
        recordings.append(
            tuple(Utterance(20 * number + index, "", str(path), segment=part) for index, part in enumerate(segments))
        )

    results = list(decode_ahead(recordings, OPTIONS, num_threads, never_stop))

    assert [result.utterance.index // 20 for result in results] == sorted(list(range(5)) * 20)
    assert {result.utterance.index for result in results} == set(range(100))
    assert all(isinstance(result, Waveform) for result in results)


def test_order_is_kept_if_later_recordings_are_ready_first(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    third_is_ready = threading.Event()

    def load(part: Sequence[Utterance], _: AudioOptions, __: Callable[[], bool]) -> Iterator[Waveform]:
        if part == recordings[1]:
            assert third_is_ready.wait(10)
        if part == recordings[2]:
            third_is_ready.set()
        yield from map(waveform, part)

    load_with(load, monkeypatch)

    results = decode_ahead(recordings, OPTIONS, 2, never_stop)
    assert [(result.utterance,) for result in results] == recordings
    assert third_is_ready.is_set()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_at_most_two_recordings_per_thread_are_ahead(num_threads: int, recordings: list[Recording]) -> None:
    asked: list[Recording] = []

    def source() -> Iterator[Recording]:
        for recording in recordings * 100:
            asked.append(recording)
            yield recording

    decoded = decode_ahead(source(), OPTIONS, num_threads, never_stop)
    for _ in range(5):
        next(decoded)
    decoded.close()

    assert 5 < len(asked) <= 5 + 2 * num_threads


def test_no_recording_begins_while_many_samples_wait(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded samples take memory, even those of few files."""
    asked: list[Recording] = []
    decoded_parts: list[Sequence[Utterance]] = []

    def load(part: Sequence[Utterance], _: AudioOptions, __: Callable[[], bool]) -> Iterator[Waveform]:
        yield waveform(part[0], 600)
        decoded_parts.append(part)

    def source() -> Iterator[Recording]:
        for recording in recordings:
            asked.append(recording)
            yield recording
            wait_until(lambda: len(decoded_parts) == len(asked))

    load_with(load, monkeypatch)

    decoded = decode_ahead(source(), OPTIONS, 8, never_stop, ahead_samples=1000)
    next(decoded)
    decoded.close()

    assert 2 <= len(asked) <= 8  # threads alone would allow 17


def test_queue_of_one_recording_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading continues when waveforms are taken."""
    made: list[int] = []
    segments = tuple(Utterance(index, f"utt{index}", "a.wav", segment=Segment(0, None)) for index in range(100))

    def load(part: Sequence[Utterance], _: AudioOptions, __: Callable[[], bool]) -> Iterator[Waveform]:
        for utterance in part:
            made.append(utterance.index)
            yield waveform(utterance)

    load_with(load, monkeypatch)
    decoded = decode_ahead([segments], OPTIONS, 2, never_stop)
    assert next(decoded).utterance.index == 0
    wait_until(lambda: len(made) == AHEAD_WAVEFORMS + 2)  # one was taken, one waits for a slot in the queue
    time.sleep(0.1)
    assert len(made) == AHEAD_WAVEFORMS + 2
    assert [result.utterance.index for result in decoded] == list(range(1, 100))


def test_waveforms_on_disk_are_passed_on(utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk = DiskWaveform()
    on_disk.append(np.zeros(5000, np.float32))
    load_with(lambda part, _, __: iter([Waveform(part[0], on_disk, 5000 / RATE)]), monkeypatch)

    (result,) = decode_ahead([(utterances[0],)], OPTIONS, 1, never_stop)

    assert isinstance(result, Waveform)
    assert result.samples is on_disk


@pytest.mark.parametrize("segments", [1, 50])
def test_threads_end_when_the_iterator_is_closed(segments: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings that wait are not read, also if a thread waits for a slot in its queue."""
    read: list[int] = []
    recordings = [
        tuple(Utterance(segments * number + index, "", f"{number}.wav") for index in range(segments))
        for number in range(40)
    ]

    def slowly(part: Sequence[Utterance], _: AudioOptions, stopping: Callable[[], bool]) -> Iterator[Waveform]:
        read.append(part[0].index)
        if part[0].index:
            wait_until(stopping)
        yield from map(waveform, part)

    load_with(slowly, monkeypatch)
    decoded = decode_ahead(recordings, OPTIONS, 2, never_stop)
    next(decoded)
    decoded.close()

    assert decoding_threads() == []
    assert len(read) <= 3  # the one that was taken, and one in each thread


def test_slow_source_is_told_to_stop(recordings: list[Recording], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a command or a download."""
    stopped: list[bool] = []
    begun = threading.Event()

    def endless(part: Sequence[Utterance], _: AudioOptions, stopping: Callable[[], bool]) -> Iterator[Waveform]:
        if part[0].index == 0:
            yield waveform(part[0])
            return
        begun.set()
        wait_until(stopping)
        stopped.append(True)

    load_with(endless, monkeypatch)
    decoded = decode_ahead(recordings, OPTIONS, 2, never_stop)
    next(decoded)
    assert begun.wait(10)
    decoded.close()

    assert decoding_threads() == []
    assert stopped


def test_no_recordings_give_no_results() -> None:
    assert list(decode_ahead([], OPTIONS, 2, never_stop)) == []


def test_stopping_does_not_wait_for_a_command(tmp_path: Path) -> None:
    waiting = Utterance(0, "utt", f"touch {tmp_path}/begun; sleep 60; cat a.wav |")
    begun = time.monotonic()

    options = dataclasses.replace(OPTIONS, input=InputOptions((), pipe_seconds=60.0))
    assert list(decode_ahead([(waiting,)], options, 1, (tmp_path / "begun").exists)) == []

    assert time.monotonic() - begun < 50
    assert decoding_threads() == []


@pytest.mark.parametrize("error", [MemoryError("a.wav"), OSError(28, "No space left on device", "/scratch")])
def test_error_of_the_machine_is_raised_to_the_caller(
    error: Exception, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(part: Sequence[Utterance], _: AudioOptions, __: Callable[[], bool]) -> Iterator[Waveform]:
        if part[0].index == 3:
            raise error
        yield from map(waveform, part)

    load_with(fail, monkeypatch)
    decoded = decode_ahead(recordings, OPTIONS, 2, never_stop)

    assert [next(decoded).utterance.index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error)) as caught:
        next(decoded)
    assert caught.value is error
    assert decoding_threads() == []


def test_error_of_the_input_iterator_ends_the_threads(recordings: list[Recording]) -> None:
    def source() -> Iterator[Recording]:
        yield from recordings[:2]
        raise KeyError("list")

    with pytest.raises(KeyError, match="list"):
        list(decode_ahead(source(), OPTIONS, 2, never_stop))
    assert decoding_threads() == []
