"""``e2v check``: e2v's engine against upstream's own code, and batched against one by one, on this machine.

Upstream's network loads the checkpoint by its own names, e2v's network the copy that a run uses. So the comparison
covers every step from a model's folder to a number. Upstream computes from e2v's samples, and once more from the paths
of files, which it reads and resamples itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from e2v_cli.audio.decode import AudioOptions, HeaderInfo, inspect_headers
from e2v_cli.audio.prefetch import decode_ahead
from e2v_cli.audio.sources import find_path
from e2v_cli.corpus.blocks import BlockPlan, group_recordings
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.inputs import read_corpus
from e2v_cli.errors import CorpusError
from e2v_cli.inference.batches import make_batches
from e2v_cli.inference.load import load_engine, load_upstream, prepare_process
from e2v_cli.journal.journal import Machine
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.models.weights import prepare_weights
from e2v_cli.options import ComputeOptions, InputOptions, ModelRequest, ResultOptions
from e2v_cli.records import SAMPLE_RATE, Batch, Failure, Prediction, Utterance, Waveform
from e2v_cli.system.progress import Progress, ProgressStyle
from e2v_cli.system.spool import DiskWaveform, whole
from e2v_cli.system.text import columns, counted
from e2v_cli.workers.devices import check_precision, choose_devices, describe_machine

if TYPE_CHECKING:
    from e2v_cli.inference.engine import Engine
    from e2v_cli.inference.upstream import FunasrEngine

logger = logging.getLogger(__name__)

FEATURES = 1e-4
"""The tolerance of a frame feature; they are about ±5."""

PROBABILITIES = 1e-5
"""The tolerance of a probability."""


@dataclass(frozen=True)
class CheckOptions:
    """The options of ``e2v check``: those of ``e2v predict`` that matter here."""

    input: InputOptions
    model: ModelRequest
    compute: ComputeOptions
    """Options of e2v's engine; upstream's computes in fp32 only."""
    progress: ProgressStyle


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check."""

    text: str
    """The table and the conclusion."""
    is_exact: bool
    """Whether all differences are within the tolerances, and the weights those of the checkpoint."""


@dataclass
class _Method:
    """One way of computing: the time that it takes, and the distance of its results from upstream's."""

    name: str
    seconds: float = 0.0
    features: float = 0.0
    feature_sum: float = 0.0
    """Sum of all differences of frame features."""
    num_features: int = 0
    probabilities: float = 0.0
    compared: int = 0
    same_label: int = 0
    excess: float = 0.0
    worst: str = ""
    """``excess``: the largest difference divided by its tolerance; ``worst``: the id of that utterance."""

    def encode(self, engine: Engine, batches: Iterable[Batch]) -> list[Prediction | Failure]:
        """Compute the predictions of batches, in order, and measure the time."""
        started = time.perf_counter()
        results = [result for batch in batches for result in engine.start(batch)()]
        self.seconds += time.perf_counter() - started
        return results

    def compare(self, results: Iterable[Prediction | Failure], references: Iterable[Prediction | Failure]) -> None:
        """Compare results with upstream's, as far as upstream has any."""
        for result, reference in zip(results, references, strict=True):
            if isinstance(reference, Prediction):
                self._compare(result, reference)

    def _compare(self, result: Prediction | Failure, reference: Prediction) -> None:
        feature = probability = np.inf
        if isinstance(result, Prediction) and result.embedding.shape == reference.embedding.shape:
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


class _Comparison:
    """Upstream's engine and e2v's, and the outcome of the ways of computing with them."""

    def __init__(self, upstream: FunasrEngine, ours: Engine, audio: AudioOptions) -> None:
        self.upstream, self.ours, self.audio = upstream, ours, audio
        self.reference = _Method("FunASR")
        self.alone, self.batched = _Method("e2v, one by one"), _Method("e2v, batched")
        self.files = _Method(f"FunASR, reading the files itself ({upstream.resampler})")
        """Upstream's results from the paths of files, against e2v's, one by one."""
        self.seconds, self.left_out = 0.0, 0
        """Seconds of audio that was compared, and the number of utterances that could not be compared."""
        self.resampled = 0
        """Files of other sample rates that upstream read."""

    def add(self, batch: Batch) -> None:
        """Compute a batch in all ways, and compare; utterances on which upstream fails are left out."""
        if not self.seconds:  # the first pass of an engine takes longer, and must not count
            for engine in (self.upstream, self.ours):
                engine.start(batch)()
        outcomes = self.reference.encode(self.upstream, _alone(batch.waveforms))
        self.leave_out(outcome for outcome in outcomes if isinstance(outcome, Failure))
        pairs = zip(batch.waveforms, outcomes, strict=True)
        waveforms = tuple(waveform for waveform, outcome in pairs if isinstance(outcome, Prediction))
        if not waveforms:
            return
        references = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        results = self.alone.encode(self.ours, _alone(waveforms))
        self.alone.compare(results, references)
        self.batched.compare(self.batched.encode(self.ours, [Batch(waveforms)]), references)
        self.seconds += sum(waveform.duration for waveform in waveforms)
        for waveform, result in zip(waveforms, results, strict=True):
            self._add_file(waveform, result)

    def _add_file(self, waveform: Waveform, result: Prediction | Failure) -> None:
        """Compare a result with upstream's from the path of the file, if the utterance is a file by itself."""
        utterance = waveform.utterance
        path = _find_whole_file(utterance)
        if path is None:
            return
        try:
            reference = self.upstream.predict_file(waveform, path)
        except Exception as error:  # upstream's libraries raise errors of their own
            logger.warning("%s: FunASR can't read %s itself: %s", utterance.utt_id, path, error)
            return
        self.files.compare([result], [reference])
        for info in inspect_headers([utterance], self.audio):
            self.resampled += isinstance(info, HeaderInfo) and info.rate != SAMPLE_RATE

    def leave_out(self, failures: Iterable[Failure]) -> None:
        """Count utterances that can't be compared, and log why."""
        for failure in failures:
            logger.warning("%s is left out: %s: %s", failure.utterance.utt_id, failure.reason, failure.detail)
            self.left_out += 1

    @property
    def is_exact(self) -> bool:
        """Whether all differences are within the tolerances."""
        return self.alone.is_exact and self.batched.is_exact and self.files.is_exact

    @property
    def worst(self) -> str:
        """The id of the utterance whose difference is the largest multiple of its tolerance."""
        return max((self.batched, self.alone, self.files), key=lambda method: method.excess).worst

    @property
    def advice(self) -> str:
        """The option with which e2v resamples as upstream does here; empty if it does, or nothing was resampled."""
        theirs, ours = self.upstream.resampler, self.audio.input.resampler
        if not self.resampled or theirs == ours:
            return ""
        return f"FunASR resamples by {theirs} here, and e2v by {ours}: add --resampler {theirs}\n"


def check(options: CheckOptions) -> Verdict:
    """Compute all utterances by upstream's code, by ours one by one, and by ours in batches, and compare.

    Raises:
        CorpusError: the input can't be read, or has no utterance that can be compared.
        ModelError: there is no such model, or it can't be used.
        DeviceError: there is no such device.
    """
    corpus = read_corpus(options.input)
    model = read_model(options.model.name, find_model(options.model), options.model.labels)
    device = choose_devices(replace(options.compute, jobs=1))[0]
    if options.compute.precision != "bf16":  # which any CPU can, if slowly
        check_precision(options.compute, device)
    prepare_process(device)
    weights = prepare_weights(model)
    audio = AudioOptions(options.input, options.compute, model.config.receptive_field)
    comparison = _Comparison(
        load_upstream(model, weights, device, ResultOptions(granularity="frame")),
        load_engine(model, weights, device, options.compute, ResultOptions(granularity="frame")),
        audio,
    )
    batch_seconds = options.compute.batch_seconds_on(comparison.ours.device.type)
    with closing(Progress(len(corpus), options.progress)) as progress:
        for batch in make_batches(_comparable(corpus, audio, comparison), batch_seconds):
            comparison.add(batch)
            progress.advance(len(batch.waveforms), sum(waveform.duration for waveform in batch.waveforms))
    if not comparison.batched.worst:
        raise CorpusError(f"none of the {len(corpus)} utterances could be compared; see above for the reasons")
    subject = f"{model.name} on {device}, {options.compute.precision}"
    machine = describe_machine([device], options.compute, with_funasr=True)
    traits = f"weights: SHA-256 {weights.sha256}\n{_describe_software(machine)}"
    text = _describe_comparison(comparison, subject, traits, has_head=bool(model.labels))
    if weights.was_damaged:
        text += f"DAMAGED: {weights.copy} was changed since e2v wrote it, and is replaced\n"
    return Verdict(text, comparison.is_exact and not weights.was_damaged)


def _comparable(corpus: Corpus, audio: AudioOptions, comparison: _Comparison) -> Iterator[Waveform]:
    """Read the utterances that can be compared: not those that e2v encodes in windows, which upstream doesn't know."""
    for item in _read_waveforms(corpus, audio):
        if isinstance(item, Waveform) and isinstance(item.samples, DiskWaveform):
            detail = f"longer than {audio.compute.window:g} s"
            item = Failure(item.utterance, "model", "encoded in windows", detail)
        if isinstance(item, Waveform):
            yield item
        else:
            comparison.leave_out([item])


def _find_whole_file(utterance: Utterance) -> str | None:
    """Find the file that holds an utterance and nothing else; None: it is a segment, a channel, or fetched."""
    if utterance.segment or utterance.channel is not None or utterance.recording_channel is not None:
        return None
    return find_path(utterance.source, utterance.folder)


def _read_waveforms(corpus: Corpus, audio: AudioOptions) -> Iterator[Waveform | Failure]:
    utterances = (corpus[int(index)] for index in BlockPlan(np.arange(len(corpus)), corpus.recording_groups).members)
    with closing(decode_ahead(group_recordings(utterances), audio, 1, stopping=lambda: False)) as decoded:
        yield from decoded


def _alone(waveforms: Iterable[Waveform]) -> list[Batch]:
    """Make a batch of each waveform."""
    return [Batch((waveform,)) for waveform in waveforms]


def _describe_software(machine: Machine) -> str:
    """Format the versions that decide the numbers, and the hardware."""
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("e2v", "python", "torch", "funasr"))
    return f"{versions}\n{', '.join([*machine.gpus, machine.cpu])}, products of {machine.products}\n"


def _describe_comparison(comparison: _Comparison, subject: str, traits: str, has_head: bool) -> str:
    """Format the outcome: what was compared and by what, the table, and the conclusion."""
    batched = comparison.batched
    left_out = f" ({comparison.left_out} left out)" if comparison.left_out else ""
    compared = counted(batched.compared, "utterance")
    head = f"{subject}: {compared}{left_out}, {comparison.seconds:.1f} s of audio\n{traits}"
    where = "within" if comparison.is_exact else "BEYOND"
    files = f"FunASR read {comparison.files.compared} of {batched.compared} files itself"
    if comparison.resampled:
        files += f", and resampled {comparison.resampled} of them"
    conclusion = f"{files}\n{where} the tolerances; the largest difference is that of {comparison.worst}\n"
    return "\n".join([head, _format_table(comparison, has_head), conclusion + comparison.advice])


def _format_table(comparison: _Comparison, has_head: bool) -> str:
    """Format the table of differences and speeds."""
    seconds = comparison.seconds
    rows: list[Sequence[str]] = [
        ("", "frame features", "", "probabilities", "labels", "speed"),
        ("", "largest", "mean", "largest", "that agree", "× real time"),
        (comparison.reference.name, "", "", "", "", f"{seconds / comparison.reference.seconds:.1f}"),
    ]
    for method in (comparison.alone, comparison.batched):
        rows.append((method.name, *_format_differences(method, has_head), f"{seconds / method.seconds:.1f}"))
    rows.append((comparison.files.name, *_format_differences(comparison.files, has_head), ""))
    rows.append(("tolerance", f"{FEATURES:.1e}", "", f"{PROBABILITIES:.1e}" if has_head else "–", "", ""))
    return columns(rows, numbers=True)


def _format_differences(method: _Method, has_head: bool) -> tuple[str, str, str, str]:
    """Format the cells of a method's differences."""
    if not method.compared:
        return ("–", "–", "–", "–")
    mean = method.feature_sum / method.num_features if method.num_features else np.nan
    features = (f"{method.features:.1e}", f"{mean:.1e}")
    if not has_head:
        return (*features, "–", "–")
    return (*features, f"{method.probabilities:.1e}", f"{method.same_label} of {method.compared}")
