"""Engines on one of several GPUs: results are waited for on their own, and nothing touches another one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from support.audio_files import encode, noisy_tone
from support.engines import limit_memory, make_batch, make_long
from support.gpus import Gpus
from support.noting import AUDIO, NotingReporter, NotingWriter
from support.upstream import upstream_alone

from e2v_cli.inference.engine import E2vEngine
from e2v_cli.inference.load import load_engine, prepare_process
from e2v_cli.models.folder import Model
from e2v_cli.models.weights import Weights
from e2v_cli.options import ComputeOptions, ResultOptions
from e2v_cli.records import Batch, Block, DoneRecord, Failure, Prediction, Utterance
from e2v_cli.system.spool import whole
from e2v_cli.workers.pipeline import work


def load_on(device: str, model: Model, weights: Weights, results: ResultOptions | None = None) -> E2vEngine:
    engine = load_engine(model, weights, device, ComputeOptions(window=4.0), results or ResultOptions())
    assert isinstance(engine, E2vEngine)
    return engine


def assert_close(results: Sequence[Prediction | Failure], expected: Sequence[Prediction | Failure]) -> None:
    assert [result.utterance for result in results] == [result.utterance for result in expected]
    for result, other in zip(results, expected, strict=True):
        assert isinstance(result, Prediction)
        assert isinstance(other, Prediction)
        np.testing.assert_allclose(whole(result.embedding), whole(other.embedding), rtol=0, atol=1e-4)
        for one, two in zip((result.posteriors, *result.timelines), (other.posteriors, *other.timelines), strict=True):
            assert (one is None) == (two is None)
            if one is not None and two is not None:
                np.testing.assert_allclose(one, two, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "batch", [make_batch([1.0, 0.4, 0.41, 1.0]), Batch((make_long(7.0)[1],))], ids=["short", "long"]
)
@pytest.mark.parametrize("kind", ["pooled", "frames", "timeline"])
@pytest.mark.parametrize("number", [0, 1])
def test_results_are_complete_in_a_thread_that_waits_for_them(
    number: int, kind: str, batch: Batch, tmp_path: Path, model: Model, weights: Weights, gpus: Gpus
) -> None:
    results = {
        "pooled": ResultOptions(),
        "frames": ResultOptions(granularity="frame"),
        "timeline": ResultOptions(tmp_path, timelines=(0.5,)),
    }[kind]
    expected = load_on("cpu", model, weights, results).start(batch)()
    prepare_process(f"cuda:{number}")
    assert gpus.current == number
    engine = load_on(f"cuda:{number}", model, weights, results)

    pending = engine.start(batch)
    with ThreadPoolExecutor(1) as thread:
        assert_close(thread.submit(pending).result(), expected)

    assert engine.busy_seconds > 0
    assert gpus.contexts == {number}


@pytest.mark.parametrize("number", [0, 1])
def test_batch_too_large_for_its_gpu_is_halved_there(
    number: int, model: Model, weights: Weights, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch([0.3, 0.4, 0.5])
    expected = load_on("cpu", model, weights).start(batch)()
    engine = load_on(f"cuda:{number}", model, weights)
    limit_memory(engine.network, lambda waveforms: len(waveforms) == 1, monkeypatch)

    assert_close(engine.start(batch)(), expected)

    assert (gpus.contexts, gpus.current) == ({number}, 0)


@pytest.mark.parity
def test_upstreams_engine_uses_its_gpu_alone(model: Model, weights: Weights, gpus: Gpus) -> None:
    batch = make_batch([1.0, 0.4])
    prepare_process("cuda:1")
    with upstream_alone():
        engine = load_engine(model, weights, "cuda:1", ComputeOptions(engine="funasr"), ResultOptions())

    assert_close(engine.start(batch)(), load_on("cpu", model, weights).start(batch)())

    assert (engine.device, gpus.contexts) == (torch.device("cuda:1"), {1})


class KeepingWriter(NotingWriter):
    """A writer that keeps what it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Prediction] = []

    def write(self, predictions: Sequence[Prediction]) -> tuple[DoneRecord, ...]:
        self.kept += predictions
        return super().write(predictions)


@pytest.mark.parametrize("number", [0, 1])
def test_worker_of_each_gpu_writes_what_a_cpu_computes(
    number: int, tmp_path: Path, model: Model, weights: Weights, gpus: Gpus
) -> None:
    """The pipeline waits for results in a thread of its own, while the next batch is computed."""
    utterances = tuple(Utterance(index, f"utt{index}", str(tmp_path / f"{index}.wav")) for index in range(6))
    for utterance in utterances:
        Path(utterance.source).write_bytes(encode(noisy_tone(8_000 + 1_000 * utterance.index)))
    written = []

    for device in ("cpu", f"cuda:{number}"):
        if device != "cpu":
            prepare_process(device)
        writer = KeepingWriter()
        block = Block(0, utterances, frozenset())
        work([block], load_on(device, model, weights), writer, NotingReporter(), AUDIO, 1.0, 1)
        written.append(writer.kept)

    assert len(written[0]) == 6
    assert_close(written[1], written[0])
    assert gpus.contexts == {number}
