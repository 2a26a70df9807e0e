"""Batch → Prediction on one device: the interface of engines, and e2v's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain, pairwise
from operator import itemgetter
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2v_cli.inference.kept import KeptWindows
from e2v_cli.inference.layers import LayerEmbeddings
from e2v_cli.inference.pooling import MeanPooling, TimelinePooling
from e2v_cli.inference.windows import cut_windows, kept_edges, window_frames
from e2v_cli.models.folder import Model
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.options import ComputeOptions, Precision, ResultOptions
from e2v_cli.records import SAMPLE_RATE, Batch, Failure, Prediction, Waveform
from e2v_cli.system.spool import DiskArray, DiskWaveform

Pending = Callable[[], list[Prediction | Failure]]
"""A function that waits for the results of a batch, and returns them in its order."""


class Engine(Protocol):
    """An object that computes predictions on one device."""

    device: torch.device
    busy_seconds: float
    """Time of computing those batches whose results were waited for."""

    def start(self, batch: Batch) -> Pending:
        """Start computing the predictions of a batch: a GPU computes on after this returns, a CPU is ready."""


LOWER: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The types of the encoder's weights where they are not float32."""


SWITCHES = Lock()
"""Held by the engine that computes, since PyTorch's switches are those of the whole process."""


@contextmanager
def multiplying(precision: Precision, device: torch.device) -> Iterator[None]:
    """Choose how float32 matrices are multiplied: exactly, or as TensorFloat-32, which keeps 10 bits of the mantissa.

    By default PyTorch's switch for convolutions on GPUs is on, and a notebook may have allowed CPUs to multiply as
    bfloat16. The switches of the device are set back when the block ends. Until then other engines wait.
    """
    backends: Any = torch.backends
    setting, switches = "ieee", [backends.mkldnn.matmul, backends.mkldnn.conv]
    if device.type == "cuda":
        # That of cuDNN is for all of CUDA: the others follow it unless they have a setting of their own.
        switches = [backends.cudnn, backends.cuda.matmul, backends.cudnn.conv]
        setting = "tf32" if precision == "tf32" else "ieee"
    changed: list[tuple[Any, str]] = []
    with SWITCHES:
        try:
            for switch in switches:
                if switch.fp32_precision != setting:
                    changed.append((switch, switch.fp32_precision))
                    switch.fp32_precision = setting
            yield
        finally:
            for switch, before in changed:
                switch.fp32_precision = "none"  # which follows a more general switch, as it may have done before
                if switch.fp32_precision != before:
                    switch.fp32_precision = before


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Flush numbers below 1e-38 to zero: a CPU may take twenty times as long for them, and attention makes many."""
    were_kept = bool(torch.full((), 1e-40, dtype=torch.float32, device="cpu") * 1 != 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if were_kept:
            torch.set_flush_denormal(False)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one of this thread until the block ends.

    Every thread has one, by default the first. Events, pinned memory and waiting use it, wherever the tensors are.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class E2vEngine:
    """e2v's own engine: the whole batch at once."""

    def __init__(self, model: Model, network: Emotion2vec, compute: ComputeOptions, results: ResultOptions) -> None:
        self.device = network.device
        self.busy_seconds = 0.0
        self.network = network
        self.classes = torch.tensor(model.classes, dtype=torch.long, device=self.device)
        self.merged = model.merged
        self.compute = compute
        self.results = results
        self.span_samples = [round(seconds * SAMPLE_RATE) for seconds in results.timelines]

    @torch.inference_mode()
    def start(self, batch: Batch) -> Pending:
        """Start computing the predictions of a batch; one too large for the GPU's memory is halved."""
        try:
            with on_device(self.device), multiplying(self.compute.precision, self.device), _without_denormals():
                stopwatch = _Stopwatch(self.device)
                results = self._start(batch.waveforms)
                stopwatch.stop()
        except torch.OutOfMemoryError:
            pass  # the tensors of the attempt are free as soon as the error is
        else:

            def finish() -> list[Prediction | Failure]:
                with on_device(self.device):
                    self.busy_seconds += stopwatch.wait()
                return results()

            return finish
        with on_device(self.device):
            torch.cuda.empty_cache()
        if len(batch.waveforms) == 1:
            (waveform,) = batch.waveforms
            detail = f"{waveform.duration:.1f} s are too long for the memory of {self.device}; try a smaller --window"
            failure = Failure(waveform.utterance, "model", "out of memory", detail)
            return lambda: [failure]
        middle = len(batch.waveforms) // 2
        halves = [self.start(Batch(half)) for half in (batch.waveforms[:middle], batch.waveforms[middle:])]
        return lambda: [result for half in halves for result in half()]

    def _start(self, waveforms: Sequence[Waveform]) -> Pending:
        """Start encoding utterances together, each of them whole; or one that is longer than a window."""
        first = waveforms[0]
        if isinstance(first.samples, DiskWaveform):  # it is alone in its batch
            result = self._encode_windows(first, first.samples)
            return lambda: [result]
        wants_frames, choices = self.results.granularity == "frame", self.results.layers
        chosen = LayerEmbeddings(choices, _all_frames if wants_frames else _mean_frame)
        features = self.network([torch.from_numpy(waveform.whole) for waveform in waveforms], chosen.taps)
        means = [_mean_frame(frames) for frames in features]
        posteriors = _fetch(self._posteriors(torch.stack(means))) if len(self.classes) else None
        embeddings = _fetch_each(features if wants_frames and not choices else means)
        layers = [_fetch_each(tensors) for tensors in chosen.of_choices()]
        timelines = [self._make_timelines(frames) for frames in features]
        num_frames = [len(frames) for frames in features]
        return lambda: [
            make_prediction(
                waveform,
                num_frames[index],
                None if posteriors is None else posteriors[index].numpy(),
                embeddings[index].numpy(),
                timelines[index],
                layers=tuple(tensors[index].numpy() for tensors in layers),
            )
            for index, waveform in enumerate(waveforms)
        ]

    def _encode_windows(self, waveform: Waveform, samples: DiskWaveform) -> Prediction | Failure:
        """Encode a long utterance window by window, from the first that no earlier run has done, and pool over all."""
        config, output_dir = self.network.config, self.results.output_dir
        num_frames = config.num_frames(len(samples))
        windows = list(cut_windows(num_frames, *window_frames(config, self.compute.window)))
        choices, wants_frames = self.results.layers, self.results.granularity == "frame"
        mean, timelines = MeanPooling(config.embed_dim, self.device), self._open_timelines()
        means = [MeanPooling(config.embed_dim, self.device, choice.name) for choice in choices if not wants_frames]
        poolings: list[MeanPooling | TimelinePooling] = [mean, *means, *timelines]
        kept = None
        if output_dir and len(windows) > 1:
            kept = KeptWindows(output_dir, waveform.utterance.utt_id, f"{samples.sha256} {self.span_samples}")
        all_frames = [
            DiskArray((config.embed_dim,), kept.frames_path(number) if kept else None)
            for number in range((len(choices) or 1) if wants_frames else 0)
        ]
        num_done, state = kept.load(all_frames) if kept else (0, {})
        if num_done:
            for pooling in poolings:
                pooling.restore(state)
        for number, window in enumerate(windows[num_done:], num_done + 1):
            part = torch.from_numpy(samples.read(window.samples(config)))
            chosen = LayerEmbeddings(choices, itemgetter(window.kept))
            (frames,) = self.network.encode([self.network.normalize(part, samples.mean, samples.variance)], chosen.taps)
            frames = frames[window.kept]
            mean.add(frames)
            embedded = [tensors[0] for tensors in chosen.of_choices()] or [frames]
            for pooling, tensor in zip(means, embedded, strict=False):
                pooling.add(tensor)
            for array, tensor in zip(all_frames, embedded, strict=False):
                array.append(tensor.cpu().numpy())
            for timeline in timelines:
                timeline.add(window.first_kept, frames)
            if kept and kept.is_due():
                states = chain.from_iterable(pooling.state().items() for pooling in poolings)
                kept.keep(number, dict(states), all_frames)
        pooled = mean.mean()
        posteriors = self._posteriors(pooled[None])[0].cpu().numpy() if len(self.classes) else None
        spans = tuple(timeline.posteriors() for timeline in timelines)
        prediction = make_prediction(waveform, num_frames, posteriors, pooled.cpu().numpy(), spans, len(windows))
        if isinstance(prediction, Failure):
            return prediction
        if choices:
            return replace(prediction, layers=tuple(all_frames or [pooling.mean().cpu().numpy() for pooling in means]))
        return replace(prediction, embedding=all_frames[0]) if wants_frames else prediction

    @torch.inference_mode()
    def make_timelines(self, frames: NDArray[np.float32], num_windows: int) -> tuple[NDArray[np.float32], ...]:
        """Make the timelines of an utterance from its frames, as when it was encoded: (spans, labels) each.

        Args:
            frames: (frames, dim), in memory or on disk.
            num_windows: number of windows in which it was encoded.
        """
        with on_device(self.device), multiplying(self.compute.precision, self.device), _without_denormals():
            timelines = self._open_timelines()
            for first, end in pairwise(kept_edges(len(frames), num_windows)):
                part = torch.from_numpy(np.array(frames[first:end])).to(self.device)
                for timeline in timelines:
                    timeline.add(first, part)
            return tuple(timeline.posteriors() for timeline in timelines)

    def _posteriors(self, pooled: Tensor) -> Tensor:
        """Apply the head to means of frames, (spans, dim): (spans, labels).

        A softmax over the classes in use is upstream's, which sets the logits of the others to -inf. Probabilities of
        merged classes are summed.
        """
        posteriors = self.network.logits(pooled)[:, self.classes].softmax(dim=1)
        if not self.merged:
            return posteriors
        return torch.stack([posteriors[:, list(columns)].sum(dim=1) for columns in self.merged], dim=1)

    def _open_timelines(self) -> list[TimelinePooling]:
        """Begin the timelines of an utterance."""
        dim, hop = self.network.config.embed_dim, self.network.config.hop
        return [TimelinePooling(dim, self.device, hop, samples, self._posteriors) for samples in self.span_samples]

    def _make_timelines(self, frames: Tensor) -> tuple[NDArray[np.float32], ...]:
        """Make the timelines of a whole utterance: (spans, labels) each."""
        timelines = self._open_timelines()
        for timeline in timelines:
            timeline.add(0, frames)
        return tuple(timeline.posteriors() for timeline in timelines)


def _mean_frame(frames: Tensor) -> Tensor:
    """Return the mean of frames, (frames, dim): (dim,)."""
    return frames.mean(dim=0)


def _all_frames(frames: Tensor) -> Tensor:
    return frames


def _fetch_each(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Copy tensors to the CPU: vectors, which have the same size, at once."""
    if tensors[0].dim() == 1:
        return _fetch(torch.stack(list(tensors))).unbind()
    return [_fetch(tensor) for tensor in tensors]


def _fetch(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU; from a GPU, it is complete once its stopwatch has stopped."""
    return tensor.to("cpu", non_blocking=True)


class _Stopwatch:
    """A measurement of the time that a device takes from now on for what this thread gives it."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[Any] = []
        if device.type == "cuda":
            cuda: Any = torch.cuda
            self._stream = cuda.current_stream(device)
            self._events = [cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record(self._stream)
        self._started, self._stopped = time.perf_counter(), 0.0

    def stop(self) -> None:
        """Stop after all work that the device has been given."""
        self._stopped = time.perf_counter()
        if self._events:
            self._events[1].record(self._stream)

    def wait(self) -> float:
        """Wait for the end of the work, and return its time in seconds."""
        if not self._events:
            return self._stopped - self._started
        started, stopped = self._events
        stopped.synchronize()
        return float(started.elapsed_time(stopped)) / 1000


def make_prediction(
    waveform: Waveform,
    num_frames: int,
    posteriors: NDArray[np.float32] | None,
    embedding: NDArray[np.float32],
    timelines: tuple[NDArray[np.float32], ...],
    num_windows: int = 1,
    layers: tuple[NDArray[np.float32], ...] = (),
) -> Prediction | Failure:
    """Make a prediction of a network's output, or a failure if that is not finite.

    A value that is not finite in a layer makes all later layers not finite, so the last is enough to check.
    """
    if not np.isfinite(embedding).all() or (posteriors is not None and not np.isfinite(posteriors).all()):
        return Failure(waveform.utterance, "model", "not finite", "the model's output has NaN or infinite values")
    return Prediction(
        waveform.utterance, waveform.duration, num_frames, num_windows, posteriors, embedding, timelines, layers
    )
