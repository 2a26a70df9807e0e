"""e2v in a notebook: audio → posteriors and embeddings, equal to those of ``e2v predict`` within its tolerances.

Files are read, cut into batches and encoded as by the command. The last bits of results are the command's, too, where
PyTorch computes in one thread, as each of the command's workers does: ``torch.set_num_threads(1)``.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeGuard, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2v_cli.analysis.labels.closed_sets import close_head
from e2v_cli.audio.arrays import to_samples
from e2v_cli.audio.decode import AudioOptions, make_waveform
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.prefetch import decode_ahead
from e2v_cli.audio.sources import is_pipe
from e2v_cli.corpus.blocks import BlockPlan
from e2v_cli.errors import E2vError, UsageError
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
    Shard,
)
from e2v_cli.records import SAMPLE_RATE, Batch, Failure, Prediction, Utterance, Waveform
from e2v_cli.results.spans import Span
from e2v_cli.results.timeline import make_spans
from e2v_cli.system.spool import whole
from e2v_cli.workers.devices import check_precision, choose_devices

Audio = ArrayLike | os.PathLike[str]
"""A path or a URL, or samples: (samples,)."""

OnFailure = Literal["raise", "return"]

Classes = Sequence[str] | Mapping[str, Sequence[str]]
"""Labels of a closed set; a mapping also has the labels that are merged into each."""

DECODERS = 4
"""Threads that decode files."""

MIN_RATE = 1000
"""The lowest sample rate, in Hz: a lower one is in kHz."""

_PYTHON_OPTIONS = "classes|device|hub|model|precision|revision|timeline"
"""Options of the command that are arguments here."""

_OPTION = re.compile(
    r"'e2v [^']*'"  # a command, to be run as it is
    r"|--merge (?P<source>[^\s=]+)=(?P<target>[^\s:]+)"
    rf"|--(?P<name>{_PYTHON_OPTIONS}) (?P<value>'[^']*'|[^\s,;]*[^\s,;:])"
    rf"|; [^;]*--(?!{_PYTHON_OPTIONS})[a-z][^;]*"  # advice that can't be followed here
)

_computing = threading.local()
"""State of the computing thread: ``stop``, an event that ends its computation."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The result of a recording."""

    label: str | None
    """The most probable label; None if the model has no head."""
    score: float | None
    """The probability of the label."""
    probabilities: Mapping[str, float]
    """Probability of each label (of the closed set, if chosen), in the model's order; empty if there is no head."""
    posteriors: NDArray[np.float32] | None
    """The probabilities as an array, (labels,); None if the model has no head."""
    embedding: NDArray[np.float32]
    """(dim,), the mean over frames; (frames, dim) with ``granularity="frame"``, 50 frames a second."""
    duration: float
    """Seconds of the audio that was read."""
    timeline: tuple[Span, ...] | None = None
    """Spans with ``start``, ``end``, ``label``, ``score`` and ``posteriors``; None unless asked for."""

    def __repr__(self) -> str:
        parts = [f"{self.label} {self.score:.2f}"] if self.label is not None else []
        parts += [f"{self.duration:.2f} s", f"embedding {self.embedding.shape}"]
        if self.timeline is not None:
            parts.append(f"timeline of {len(self.timeline)}")
        return f"Result({', '.join(parts)})"


class PredictionError(ValueError):
    """The reason why a recording has no result; ``errors="return"`` puts it in the place of the result."""

    def __init__(self, index: int, reason: str, detail: str) -> None:
        super().__init__(index, reason, detail)
        self.index = index
        """The recording's index in the list, counted from 0."""
        self.reason = reason
        """A few words, as in ``failures.tsv``: ``missing``, ``too short``."""
        self.detail = detail

    def __str__(self) -> str:
        return f"audio {self.index}: {self.reason}: {self.detail}"


def load(
    model: str | os.PathLike[str] = "emotion2vec_plus_base",
    *,
    hub: HubName = "ms",
    revision: str | None = None,
    offline: bool = False,
    device: str = "auto",
    precision: Precision = "fp32",
    labels: LabelLanguage = "en",
) -> Recognizer:
    """Load a model; the arguments are the options of ``e2v predict``.

    Examples:
        >>> model = load("emotion2vec_plus_large", device="cuda:1")
        >>> model = load("models/plus_base", offline=True)

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
        ValueError: an argument is not one of its choices.
    """
    name = os.fspath(model)
    if not name:
        raise ValueError("the model has no name")
    _check_choice("hub", hub, get_args(HubName))
    _check_choice("precision", precision, get_args(Precision))
    _check_choice("labels", labels, get_args(LabelLanguage))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"device is {device!r}; choose one of auto, cpu, cuda, or a GPU as in cuda:1")
    compute = ComputeOptions(device=device, jobs=1, precision=precision)
    try:
        chosen = choose_devices(compute)[0]
        check_precision(compute, chosen)
        request = ModelRequest(name, hub, revision, offline, labels)
        return Recognizer(read_model(name, find_model(request), labels), chosen, compute)
    except E2vError as error:
        raise type(error)(_in_python(str(error))) from None


class Recognizer:
    """A model, ready for audio. ``load`` makes one."""

    def __init__(self, model: Model, device: str, compute: ComputeOptions) -> None:
        self.labels: tuple[str, ...] = model.labels
        """The labels of the posteriors, in their order; none if the model has no head."""
        self._model = model
        self._compute = compute
        self._network = place_network(model, prepare_weights(model), device, compute)
        for layer in self._network.modules():
            layer.register_forward_pre_hook(_end_if_stopped)

    @overload
    def predict(
        self,
        audio: Iterable[Audio],
        sample_rate: int | None = None,
        granularity: Granularity = "utterance",
        resampler: ResamplerName = "soxr",
        timeline: float | None = None,
        errors: Literal["raise"] = "raise",
        classes: Classes | None = None,
    ) -> list[Result]: ...

    @overload
    def predict(
        self,
        audio: Iterable[Audio],
        sample_rate: int | None = None,
        granularity: Granularity = "utterance",
        resampler: ResamplerName = "soxr",
        timeline: float | None = None,
        *,
        errors: OnFailure,
        classes: Classes | None = None,
    ) -> list[Result | PredictionError]: ...

    def predict(
        self,
        audio: Iterable[Audio],
        sample_rate: int | None = None,
        granularity: Granularity = "utterance",
        resampler: ResamplerName = "soxr",
        timeline: float | None = None,
        errors: OnFailure = "raise",
        classes: Classes | None = None,
    ) -> Sequence[Result | PredictionError]:
        """Recognise the emotion of recordings, each exactly as if it were alone.

        Examples:
            >>> model.predict(["a.wav", Path("b.mp3"), "https://example.org/c.flac"])
            [Result(happy 0.93, 2.53 s, embedding (768,)), Result(sad 0.61, …), …]
            >>> model.predict(Path("calls").glob("*.wav"), timeline=1.0, errors="return")
            [Result(neutral 0.81, 7.20 s, embedding (768,), timeline of 8), PredictionError(1, 'empty', …), …]
            >>> model.predict(["a.wav"], classes=["angry", "happy", "neutral", "sad"])
            >>> model.predict(["a.wav"], classes={"happy": ["surprised"], "negative": ["angry", "sad"]})
            >>> samples, rate = soundfile.read("a.wav")
            >>> model.predict([samples], sample_rate=rate)

        Args:
            audio: paths, URLs and waveforms in any mix. A file is read as by ``e2v predict``, and its channels are
                averaged. A waveform is (samples,), mono: floats of about ±1, or int16.
            sample_rate: of all waveforms, in Hz; files have their own.
            granularity: ``"utterance"``: an embedding is one vector; ``"frame"``: a vector for each frame.
            resampler: how other sample rates become 16 kHz: ``"soxr"``, or ``"torchaudio"``, which need not be
                installed.
            timeline: seconds of the spans of a timeline; None: no timeline.
            errors: ``"raise"``: raise the PredictionError of the first recording without a result; ``"return"``: return
                it in the place of the result.
            classes: labels of a closed set, in any order: the softmax is over these alone. A mapping has, for each,
                the labels whose probabilities are added to it; a key that is no label is a new class. None: all labels.

        Returns:
            The result of each, in their order.

        Raises:
            PredictionError: audio can't be used, leads to NaN in the model, or is too long for the memory of the GPU.
            ValueError: an argument can't be used.
            OSError: this machine fails, not a file.
        """
        given = _list_recordings(audio, sample_rate)
        _check_choice("resampler", resampler, get_args(ResamplerName))
        _check_choice("errors", errors, get_args(OnFailure))
        wanted, model = self._make_options(granularity, timeline), self._close_model(classes)
        read = InputOptions(inputs=(), resampler=resampler)
        items = _read(given, sample_rate, AudioOptions(read, self._compute, self._network.config.receptive_field))
        results: dict[int, Result | PredictionError] = {}

        def keep(outcome: Prediction | Failure) -> None:
            result = _make_result(outcome, wanted, model.labels)
            if isinstance(result, PredictionError) and errors == "raise":
                raise result
            results[outcome.utterance.index] = result

        self._recognise(items, len(given), E2vEngine(model, self._network, self._compute, wanted), keep)
        return [results[index] for index in range(len(given))]

    def _make_options(self, granularity: Granularity, timeline: float | None) -> ResultOptions:
        """Make the options of results, and check that the model has what they need."""
        _check_choice("granularity", granularity, get_args(Granularity))
        frame = self._model.config.hop / SAMPLE_RATE
        if timeline is not None and not self.labels:
            raise ValueError(f"{self._model.name} has no head, which a timeline needs: leave out timeline")
        if timeline is not None and timeline < frame:
            raise ValueError(f"timeline is {timeline:g}; no span can be shorter than a frame, {frame:g} s")
        try:
            return ResultOptions(granularity=granularity, timelines=() if timeline is None else (timeline,))
        except UsageError as error:
            raise ValueError(_in_python(str(error))) from None

    def _close_model(self, classes: Classes | None) -> Model:
        """Choose the classes of the model."""
        if classes is None:
            return self._model
        if isinstance(classes, str) or not classes:
            raise ValueError(f"classes is {classes!r}; it must be a list of labels, or a mapping to lists of labels")
        if not self.labels:
            raise ValueError(f"{self._model.name} has no head, which classes need: leave out classes")
        merged = classes if isinstance(classes, Mapping) else {}
        merges = [(label, name) for name, labels in merged.items() for label in labels]
        try:
            return close_head(self._model, tuple(classes), merges)
        except UsageError as error:
            raise ValueError(_in_python(str(error))) from None

    def _recognise(
        self,
        items: Generator[Waveform | Failure, None, None],
        count: int,
        engine: E2vEngine,
        keep: Callable[[Prediction | Failure], None],
    ) -> None:
        """Compute the results of ``count`` items, in the blocks and batches of the command, and keep each.

        A thread of its own has none of the caller's settings, such as autocast. The threads that PyTorch starts for it
        flush denormals as it does, and end with it. If the caller is interrupted, it ends before its next layer.
        """
        seconds = self._compute.batch_seconds_on(engine.device.type)
        stop = threading.Event()
        with (
            closing(items),
            ThreadPoolExecutor(1, "predict", initializer=setattr, initargs=(_computing, "stop", stop)) as thread,
        ):
            # started before anything is computed: an interrupt between its start and its entry in the pool's list of
            # threads would leave it running when the pool ends
            thread.submit(threading.get_ident).result()
            try:
                for block in BlockPlan(np.arange(count)).deal_blocks(Shard(1, 1)):
                    waveforms = _keep_failures(islice(items, len(block.indices)), keep)
                    for batch in make_batches(waveforms, seconds):
                        for result in thread.submit(_compute, engine, batch).result():
                            keep(result)
            finally:
                stop.set()


def _make_result(
    outcome: Prediction | Failure, options: ResultOptions, labels: Sequence[str]
) -> Result | PredictionError:
    if isinstance(outcome, Failure):
        return PredictionError(outcome.utterance.index, outcome.reason, _in_python(outcome.detail))
    embedding, duration, posteriors = whole(outcome.embedding), outcome.duration, outcome.posteriors
    if posteriors is None:
        return Result(None, None, {}, None, embedding, duration)
    best = int(posteriors.argmax())
    probabilities = dict(zip(labels, posteriors.tolist(), strict=True))
    timeline = None
    for seconds, spans in zip(options.timelines, outcome.timelines, strict=True):  # one at most
        timeline = tuple(make_spans(spans, seconds, duration, labels))
    return Result(labels[best], float(posteriors[best]), probabilities, posteriors, embedding, duration, timeline)


def _compute(engine: E2vEngine, batch: Batch) -> list[Prediction | Failure]:
    return engine.start(batch)()


def _end_if_stopped(*_: object) -> None:
    """End the computation of this thread if its caller was interrupted; called before each layer."""
    stop = getattr(_computing, "stop", None)
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt


def _keep_failures(
    items: Iterable[Waveform | Failure], keep: Callable[[Prediction | Failure], None]
) -> Iterator[Waveform]:
    """Yield waveforms, and keep failures."""
    for item in items:
        if isinstance(item, Waveform):
            yield item
        else:
            keep(item)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _list_recordings(audio: Iterable[Audio], sample_rate: int | None) -> Sequence[Any]:
    """List the recordings; check that they are a list, and that waveforms have a sample rate."""
    example = "predict([x], sample_rate=rate)"
    if _is_path(audio):
        raise ValueError(f"predict takes a list, also of one: predict([{os.fspath(audio)!r}])")
    if getattr(audio, "ndim", 1) > 1:
        raise ValueError(f"predict takes a list, also of one: {example}, or list(x) if each row of x is one")
    given: list[Any] = list(audio)
    if given and (isinstance(given[0], (float, int)) or getattr(given[0], "ndim", 1) == 0):
        raise ValueError(f"predict takes a list, also of one: {example}")
    index = next((index for index, item in enumerate(given) if not _is_path(item)), None)
    if sample_rate is None and index is not None:
        raise ValueError(
            f"audio {index} is an array, which has no sample rate of its own: predict(…, sample_rate=rate), in Hz, "
            "as in x, rate = soundfile.read(path)"
        )
    if sample_rate is not None and (not isinstance(sample_rate, (int, np.integer)) or sample_rate < MIN_RATE):
        raise ValueError(f"sample_rate is {sample_rate!r}; it must be a whole number of Hz, such as 16000")
    return given


def _is_path(item: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(item, (str, os.PathLike))


def _read(
    given: Sequence[Any], sample_rate: int | None, options: AudioOptions
) -> Generator[Waveform | Failure, None, None]:
    """Read recordings in their order; files in threads, a few ahead of their use."""
    utterances = [
        Utterance(index, str(index), os.fsdecode(item) if _is_path(item) else "") for index, item in enumerate(given)
    ]
    files = ((utterance,) for utterance in utterances if utterance.source and not is_pipe(utterance.source))
    with closing(decode_ahead(files, options, DECODERS, stopping=lambda: False)) as decoded:
        for utterance, item in zip(utterances, given, strict=True):
            if is_pipe(utterance.source):
                yield Failure(utterance, "audio", "not allowed", f"{item!r} is a command; only e2v predict runs those")
            elif utterance.source:
                yield next(decoded)
            else:
                yield _read_array(utterance, item, sample_rate or SAMPLE_RATE, options)


def _read_array(utterance: Utterance, array: Any, rate: int, options: AudioOptions) -> Waveform | Failure:
    try:
        return make_waveform(utterance, to_samples(array), rate, options)
    except AudioError as error:
        return Failure(utterance, "audio", error.reason, str(error))


def _in_python(message: str) -> str:
    """Replace the options of the command in a message by arguments: ``--hub hf`` by ``hub='hf'``."""

    def replace(match: re.Match[str]) -> str:
        if match["source"]:
            return f"classes={ {match['target']: [match['source']]} }"
        if match["name"]:
            is_literal = match["name"] == "timeline" or match["value"].startswith("'")
            return f"{match['name']}={match['value'] if is_literal else repr(match['value'])}"
        return match[0] if match[0].startswith("'") else ""

    return _OPTION.sub(replace, message)
