"""e2v in a notebook: waveforms → posteriors and embeddings, those of ``e2v predict`` within its exactness."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2v_cli.audio.decode import AudioOptions, make_waveform
from e2v_cli.audio.errors import AudioError
from e2v_cli.inference.batches import make_batches
from e2v_cli.inference.engine import E2vEngine
from e2v_cli.inference.load import place_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.models.hub import find_model
from e2v_cli.models.weights import prepare_weights
from e2v_cli.options import (
    ComputeOptions,
    Granularity,
    HubName,
    InputOptions,
    LabelLanguage,
    ModelRequest,
    Precision,
    ResamplerName,
    ResultOptions,
)
from e2v_cli.records import SAMPLE_RATE, Batch, Failure, Prediction, Utterance, Waveform
from e2v_cli.system.spool import whole
from e2v_cli.workers.devices import check_precision, choose_devices


@dataclass(frozen=True)
class Result:
    """The result of a waveform."""

    label: str | None
    """The most probable one; None if the model has no head."""
    score: float | None
    """The probability of the label."""
    posteriors: NDArray[np.float32] | None
    """(labels,), in the order of ``Recognizer.labels``."""
    embedding: NDArray[np.float32]
    """(dim,), the mean over frames; (frames, dim) with ``granularity="frame"``, 50 frames a second."""


def load(
    model: str = "emotion2vec_plus_base",
    *,
    hub: HubName = "ms",
    revision: str | None = None,
    offline: bool = False,
    device: str = "auto",
    precision: Precision = "fp32",
    labels: LabelLanguage = "en",
) -> Recognizer:
    """Load a model; the arguments are the options of ``e2v predict``.

    Args:
        model: a name of the family, an id on a hub, or a local folder; ``"sample"`` is the toy in the package.
        hub: the hub from which it is downloaded if it is not on this machine: ``"ms"`` (ModelScope) or ``"hf"``
            (Hugging Face).
        revision: a branch, tag or commit.
        offline: use only what is on this machine.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        precision: ``"fp32"`` is exact; ``"tf32"``, ``"bf16"`` and ``"fp16"`` are faster on GPUs that have them.
        labels: ``"en"``, ``"zh"``, or ``"both"`` as in the model's ``tokens.txt``.

    Raises:
        E2vError: there is no such model or device; the message tells what to do.
        ValueError: an argument is none of its choices.
    """
    if not model:
        raise ValueError("the model has no name")
    _check_choice("hub", hub, get_args(HubName))
    _check_choice("precision", precision, get_args(Precision))
    _check_choice("labels", labels, get_args(LabelLanguage))
    compute = ComputeOptions(device=device, jobs=1, precision=precision)
    chosen = choose_devices(compute)[0]
    check_precision(compute, chosen)
    request = ModelRequest(model, hub, revision, offline, labels)
    return Recognizer(read_model(model, find_model(request), request.labels), chosen, compute)


class Recognizer:
    """A model, ready for waveforms. ``load`` makes one."""

    def __init__(self, model: Model, device: str, compute: ComputeOptions) -> None:
        self.labels: tuple[str, ...] = model.labels
        """The labels of the posteriors, in their order; none if the model has no head."""
        self._model = model
        self._compute = compute
        self._network = place_network(model, prepare_weights(model), device, compute)

    def predict(
        self,
        waveforms: Sequence[ArrayLike],
        sample_rate: int = SAMPLE_RATE,
        granularity: Granularity = "utterance",
        resampler: ResamplerName = "soxr",
    ) -> list[Result]:
        """Recognise the emotion of waveforms, each exactly as if it were alone.

        Args:
            waveforms: each (samples,), mono, floats of about ±1, of any length from 25 ms up: arrays or CPU tensors.
            sample_rate: of all of them, in Hz.
            granularity: ``"utterance"``: an embedding is one vector; ``"frame"``: a vector for each frame.
            resampler: how other sample rates become 16 kHz, as ``--resampler``: ``"soxr"``, or ``"torchaudio"``,
                which need not be installed.

        Returns:
            The result of each, in their order.

        Raises:
            ValueError: one is no such waveform, leads to NaN in the model, or is too long for the memory of the GPU;
                the message tells which one, and why.
        """
        _check_choice("granularity", granularity, get_args(Granularity))
        _check_choice("resampler", resampler, get_args(ResamplerName))
        if not isinstance(sample_rate, (int, np.integer)) or sample_rate <= 0:
            raise ValueError(f"sample_rate is {sample_rate!r}; it must be a positive whole number")
        read = InputOptions(inputs=(), resampler=resampler)
        audio = AudioOptions(read, self._compute, self._network.config.receptive_field)
        made = [_to_waveform(index, waveform, sample_rate, audio) for index, waveform in enumerate(waveforms)]
        engine = E2vEngine(self._model, self._network, self._compute, ResultOptions(granularity=granularity))
        results: dict[int, Result] = {}
        # A thread of its own has none of the caller's settings, such as autocast. The threads that PyTorch starts for
        # it flush denormals as it does, and end with it.
        with ThreadPoolExecutor(1, thread_name_prefix="predict") as thread:
            for batch in make_batches(made, self._compute.batch_seconds_on(engine.device.type)):
                for result in thread.submit(_compute, engine, batch).result():
                    results[result.utterance.index] = self._make_result(result)
        return [results[index] for index in range(len(made))]

    def _make_result(self, result: Prediction | Failure) -> Result:
        if isinstance(result, Failure):
            raise ValueError(f"waveform {result.utterance.index}: {result.reason}: {result.detail}")
        embedding, posteriors = whole(result.embedding), result.posteriors
        if posteriors is None:
            return Result(None, None, None, embedding)
        best = int(posteriors.argmax())
        return Result(self.labels[best], float(posteriors[best]), posteriors, embedding)


def _compute(engine: E2vEngine, batch: Batch) -> list[Prediction | Failure]:
    return engine.start(batch)()


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _to_waveform(index: int, waveform: ArrayLike, sample_rate: int, audio: AudioOptions) -> Waveform:
    try:
        samples = np.asarray(waveform)
    except (TypeError, ValueError, RuntimeError) as error:  # a ragged list, a tensor on a GPU
        raise ValueError(f"waveform {index}: {error}") from None
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"waveform {index}: {samples.dtype} of shape {samples.shape}; it must be floats, (samples,)")
    with np.errstate(over="ignore"):  # infinite samples are found later
        samples = samples.astype(np.float32)
    try:
        return make_waveform(Utterance(index, str(index), ""), samples, sample_rate, audio)
    except AudioError as error:
        raise ValueError(f"waveform {index}: {error.reason}: {error}") from None
