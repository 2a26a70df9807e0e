"""``e2v check``: our engine against upstream's own code, and batched against one by one, on this machine.

Upstream's network gets the checkpoint's tensors by its own names; ours the copy that a run would use. So whatever may
go wrong between a model's folder and a number is between them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from e2v_cli.audio.decode import AudioOptions
from e2v_cli.audio.prefetch import decode_ahead
from e2v_cli.corpus.blocks import BlockPlan, group_recordings
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.inputs import read_corpus
from e2v_cli.errors import CorpusError
from e2v_cli.inference.batches import BATCH_SECONDS, make_batches
from e2v_cli.inference.engine import Engine
from e2v_cli.inference.load import load_engine
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.models.weights import prepare_weights
from e2v_cli.options import DEFAULT_WINDOW, EngineOptions, ModelRequest, Precision, ProgressStyle
from e2v_cli.records import Batch, Failure, Prediction, Waveform
from e2v_cli.system.text import columns
from e2v_cli.system.progress import Progress
from e2v_cli.system.spool import DiskWaveform, whole
from e2v_cli.workers.devices import check_precision, choose_devices

logger = logging.getLogger(__name__)

FEATURES = 1e-4
"""How much a frame feature may differ (they are about ±5) …"""

PROBABILITIES = 1e-5
"""… and a probability."""


@dataclass(frozen=True)
class CheckOptions:
    """The options of ``e2v check``: those of ``e2v predict`` that matter here."""

    inputs: tuple[str, ...]
    model: ModelRequest
    device: str
    precision: Precision
    pipe_seconds: float | None
    progress: ProgressStyle


@dataclass(frozen=True)
class Verdict:
    """What came of it."""

    text: str
    is_exact: bool
    """Whether all differences are within the tolerances, and the weights those of the checkpoint."""


@dataclass
class _Tally:
    """How long one way of computing takes, and how far its results are from upstream's."""

    name: str
    seconds: float = 0.0
    features: float = 0.0
    feature_sum: float = 0.0
    """Of all differences."""
    num_features: int = 0
    probabilities: float = 0.0
    compared: int = 0
    same_label: int = 0
    excess: float = 0.0
    worst: str = ""
    """The utterance with the largest difference, measured by its tolerance, and how large that is."""

    def encode(self, engine: Engine, batches: Iterable[Batch]) -> list[Prediction | Failure]:
        """Compute the predictions of batches, in order, and take the time."""
        started = time.perf_counter()
        results = [result for batch in batches for result in engine.start(batch)()]
        self.seconds += time.perf_counter() - started
        return results

    def compare(self, results: Iterable[Prediction | Failure], references: Iterable[Prediction | Failure]) -> None:
        """Compare results with upstream's; what upstream has no numbers for is not compared."""
        for result, reference in zip(results, references, strict=True):
            if isinstance(reference, Prediction):
                self._compare(result, reference)

    def _compare(self, result: Prediction | Failure, reference: Prediction) -> None:
        feature = probability = np.inf
        if isinstance(result, Prediction):
            differences = np.abs(whole(result.embedding) - whole(reference.embedding))
            feature, probability = float(differences.max()), 0.0
            self.feature_sum += float(differences.sum(dtype=np.float64))
            self.num_features += differences.size
            if result.posteriors is not None and reference.posteriors is not None:
                probability = float(np.abs(result.posteriors - reference.posteriors).max())
                self.same_label += int(result.posteriors.argmax() == reference.posteriors.argmax())
        self.compared += 1
        self.features = max(self.features, feature)
        self.probabilities = max(self.probabilities, probability)
        excess = max(feature / FEATURES, probability / PROBABILITIES)
        if excess > self.excess or not self.worst:
            self.excess, self.worst = excess, reference.utterance.utt_id

    @property
    def is_exact(self) -> bool:
        """Whether all differences are within the tolerances."""
        return self.features <= FEATURES and self.probabilities <= PROBABILITIES


@dataclass
class _Extent:
    """What was compared."""

    seconds: float = 0.0
    left_out: int = 0


def check(options: CheckOptions) -> Verdict:
    """Compute all utterances by upstream's code, by ours one by one, and by ours in batches, and compare.

    Raises:
        CorpusError: the input can't be read, or has no utterance that can be compared.
        ModelError: there is no such model, or it can't be used.
        DeviceError: there is no such device.
    """
    import torch

    corpus = read_corpus(options.inputs, allow_pipes=options.pipe_seconds is not None)
    model = read_model(options.model.name, find_model(options.model))
    device = torch.device(choose_devices(options.device, 1)[0])
    if options.precision != "bf16":  # which any CPU can, if slowly
        check_precision(options.precision, device.type)
    if device.type == "cpu":
        torch.set_num_threads(1)  # as a worker has
    weights = prepare_weights(model)
    upstream = load_engine("funasr", model, weights, device, EngineOptions("frame", DEFAULT_WINDOW, None))
    ours = load_engine("e2v", model, weights, device, EngineOptions("frame", DEFAULT_WINDOW, None, options.precision))
    audio = AudioOptions(model.config.receptive_field, DEFAULT_WINDOW, "mix", options.pipe_seconds)

    extent, reference, alone, batched = _Extent(), _Tally("FunASR"), _Tally("e2v, one by one"), _Tally("e2v, batched")
    with closing(Progress(len(corpus), options.progress)) as progress:
        for batch in make_batches(_comparable(corpus, audio, extent), BATCH_SECONDS[device.type]):
            singles = [Batch((waveform,)) for waveform in batch.waveforms]
            if not extent.seconds:  # what is done once must not count
                for engine in (upstream, ours):
                    engine.start(batch)()
            references = reference.encode(upstream, singles)
            _leave_out([result for result in references if isinstance(result, Failure)], extent)
            alone.compare(alone.encode(ours, singles), references)
            batched.compare(batched.encode(ours, [batch]), references)
            seconds = sum(waveform.duration for waveform in batch.waveforms)
            extent.seconds += seconds
            progress.advance(len(batch.waveforms), seconds)
    if not batched.worst:
        raise CorpusError(f"no utterance could be compared, of {len(corpus)}")
    left_out = f" ({extent.left_out} left out)" if extent.left_out else ""
    plural = "" if batched.compared == 1 else "s"
    head = (
        f"{model.name} on {device}, {options.precision}: "
        f"{batched.compared} utterance{plural}{left_out}, {extent.seconds:.1f} s of audio\n"
    )
    table = _table(reference, alone, batched, extent, has_head=bool(model.labels))
    is_exact = alone.is_exact and batched.is_exact
    where = "within" if is_exact else "BEYOND"
    conclusion = f"{where} the tolerances; the largest difference is that of {batched.worst}\n"
    if weights.was_damaged:
        conclusion += f"DAMAGED: {weights.copy} was changed since e2v wrote it; it is mended\n"
    return Verdict("\n".join([head, table, conclusion]), is_exact and not weights.was_damaged)


def _comparable(corpus: Corpus, audio: AudioOptions, extent: _Extent) -> Iterator[Waveform]:
    """Read the utterances that can be compared: not those that e2v encodes in windows, which upstream doesn't know."""
    for item in _read(corpus, audio):
        if isinstance(item, Waveform) and isinstance(item.samples, DiskWaveform):
            detail = f"longer than {DEFAULT_WINDOW:g} s"
            item = Failure(item.utterance, "model", "encoded in windows", detail)
        if isinstance(item, Waveform):
            yield item
        else:
            _leave_out([item], extent)


def _leave_out(failures: Iterable[Failure], extent: _Extent) -> None:
    """Say what can't be compared."""
    for failure in failures:
        logger.warning("%s is left out: %s: %s", failure.utterance.utt_id, failure.reason, failure.detail)
        extent.left_out += 1


def _read(corpus: Corpus, audio: AudioOptions) -> Iterator[Waveform | Failure]:
    utterances = (corpus[int(place)] for place in BlockPlan(np.arange(len(corpus)), corpus.recording_groups).members)
    with closing(decode_ahead(group_recordings(utterances), audio, 1, stopping=lambda: False)) as decoded:
        yield from decoded


def _table(reference: _Tally, alone: _Tally, batched: _Tally, extent: _Extent, has_head: bool) -> str:
    """Lay out what was found."""
    rows: list[Sequence[str]] = [
        ("", "frame features", "", "probabilities", "labels", "speed"),
        ("", "largest", "mean", "largest", "that agree", "× real time"),
        (reference.name, "", "", "", "", f"{extent.seconds / reference.seconds:.1f}"),
    ]
    for tally in (alone, batched):
        probabilities = f"{tally.probabilities:.1e}" if has_head else "–"
        labels = f"{tally.same_label} of {tally.compared}" if has_head else "–"
        mean = tally.feature_sum / tally.num_features if tally.num_features else np.nan
        speed = f"{extent.seconds / tally.seconds:.1f}"
        rows.append((tally.name, f"{tally.features:.1e}", f"{mean:.1e}", probabilities, labels, speed))
    rows.append(("tolerance", f"{FEATURES:.1e}", "", f"{PROBABILITIES:.1e}" if has_head else "–", "", ""))
    return columns(rows, numbers=True)
