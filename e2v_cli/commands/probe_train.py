"""``e2v probe train``: embeddings and labels → a model folder with a head of these classes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_cli._version import __version__
from e2v_cli.analysis.metrics.metrics import compute_metrics
from e2v_cli.analysis.probe.examples import Examples, find_examples
from e2v_cli.analysis.probe.facts import describe_data
from e2v_cli.analysis.probe.linear import CANDIDATES, LinearFit, fit_linear, mean_loss
from e2v_cli.analysis.probe.options import FitOptions, LabelOptions
from e2v_cli.analysis.reading.vectors import EmbeddingOrigin
from e2v_cli.analysis.score.groups import name_metrics
from e2v_cli.commands.new_folder import new_folder, refuse_existing
from e2v_cli.errors import CorpusError, ModelError, UsageError
from e2v_cli.models.folder import Model
from e2v_cli.network.layers import LAST_LAYER
from e2v_cli.system.text import columns, counted
from e2v_cli.training.probe_folder import find_encoder, make_tokens, write_probe

_LIBRARIES = ("numpy", "scikit-learn", "scipy")


@dataclass(frozen=True)
class TrainedProbe:
    """The result of ``e2v probe train``."""

    text: str
    notes: tuple[str, ...]
    """Notes for the user."""


def train(
    sources: tuple[str, str], target: Path, labels: LabelOptions, options: FitOptions, model: str | None
) -> TrainedProbe:
    """Fit a head, and write the model folder.

    Args:
        sources: EMBEDDINGS and REFERENCE.
        target: MODEL.
        labels: options of reading the reference's labels.
        options: how the head is fitted.
        model: the encoder; None: that of the run of the embeddings.

    Raises:
        CorpusError: an input can't be used.
        ModelError: the encoder can't be found, or the embeddings are of another one.
        OutputConflictError: MODEL exists.
        UsageError: an option does not fit the inputs.
        OSError: MODEL can't be written.
    """
    refuse_existing(target)
    examples = find_examples(*sources, labels)
    encoder, sha256 = _find_encoder(examples, model)
    layer = _find_layer(examples.origin, encoder)
    make_tokens(examples.classes)  # what can't be a label is refused before the head is fitted
    fit = fit_linear(examples.vectors, examples.labels, len(examples.classes), examples.speakers, options)
    validation = _describe_validation(examples, fit)
    facts = {
        "e2v": __version__,
        "versions": {name: version(name) for name in _LIBRARIES},
        "encoder": _describe_encoder(encoder, sha256, layer, examples.origin),
        "data": describe_data(examples, labels),
        "fit": _describe_fit(fit, options),
        "validation": validation,
    }
    with new_folder(target) as draft:
        write_probe(draft, encoder, layer, (fit.head.weight, fit.head.bias), examples.classes, facts)
    kept = "" if layer == encoder.config.num_layers else f"layers 1 to {layer} of {encoder.config.num_layers}, "
    text = _format_probe(examples, fit, validation, target, kept)
    return TrainedProbe(text, (*examples.notes, *_describe_rare(examples, fit)))


def _find_encoder(examples: Examples, model: str | None) -> tuple[Model, str]:
    """Find the encoder of the embeddings, and the SHA-256 of its weights.

    Raises:
        ModelError: it can't be found, or they are of another one.
        UsageError: it is not known which it is.
    """
    origin = examples.origin
    name = model or origin.model
    if name is None:
        raise UsageError(f"{origin.name}: which model computed them is not known: name it with -m")
    encoder, sha256 = find_encoder(name, origin.model_sha256, origin.name)
    dim = examples.vectors.shape[1]
    if dim != encoder.config.embed_dim:
        raise ModelError(
            f"{encoder.folder}: its vectors have {encoder.config.embed_dim} numbers, but those of {origin.name} have "
            f"{dim}: name the model that computed them with -m"
        )
    return encoder, sha256


def _find_layer(origin: EmbeddingOrigin, encoder: Model) -> int:
    """Find the layer of the embeddings, which becomes the last of the model.

    Raises:
        CorpusError: no model ends with it.
        ModelError: the encoder lacks it.
    """
    last = encoder.config.num_layers
    if origin.layer is None:
        return last
    if origin.layer.startswith("mean"):
        raise CorpusError(
            f"{origin.name}: means of layers {origin.layer.removeprefix('mean')}, but the head of a model is on one: "
            "train on embeddings of a single layer, or measure these: e2v probe eval"
        )
    layer = int(origin.layer)
    if not 1 <= layer <= last:
        raise ModelError(
            f"{encoder.folder}: its layers are 1 to {last}, but the embeddings of {origin.name} are of layer {layer}: "
            "name the model that computed them with -m"
        )
    if layer < last and encoder.config.layer_norm_first:
        raise CorpusError(
            f"{origin.name}: embeddings of layer {layer}, but {encoder.folder} has layer_norm_first, so that a model "
            f"which ends there has a norm after them: train on embeddings of layer {last}, the last, or measure "
            "these: e2v probe eval"
        )
    return layer


def _describe_encoder(encoder: Model, sha256: str, layer: int, origin: EmbeddingOrigin) -> dict[str, Any]:
    return {
        "name": encoder.name,
        "sha256": sha256,
        "layer": layer if layer < encoder.config.num_layers else LAST_LAYER,
        "engine": origin.engine,
        "precision": origin.precision,
        "window": origin.window,
        "granularity": origin.granularity,
        "dtype": origin.dtype,
    }


def _describe_fit(fit: LinearFit, options: FitOptions) -> dict[str, Any]:
    return {
        "c": fit.head.c,
        "losses": {f"{c:g}": round(loss, 6) for c, loss in fit.out_of_fold.losses.items()},
        "temperature": fit.head.temperature,
        "balanced": options.balanced,
        "prior": options.prior,
        "seed": options.seed,
    }


def _describe_validation(examples: Examples, fit: LinearFit) -> dict[str, Any]:
    """Describe the predictions out of fold: pooled, and of each fold."""
    found = fit.out_of_fold
    folds, codes = np.unique(found.folds, return_inverse=True)
    confusions = replace(examples.judge(found.logits), folds=codes.astype(np.int32)).confusions()

    def score(confusion: NDArray[np.int64], known: NDArray[np.bool_]) -> Mapping[str, float | None]:
        """Compute WA and UA, and the NLL of known utterances, None without any."""
        metrics = name_metrics(compute_metrics(confusion))
        loss = round(mean_loss(found.logits[known], examples.labels[known]), 6) if known.any() else None
        return {"WA": round(metrics["WA"], 6), "UA": round(metrics["UA"], 6), "NLL": loss}

    return {
        "speaker_disjoint": examples.knows_speakers and found.are_speakers_apart,
        **score(confusions.sum(0), found.is_known),
        "folds": [
            {"utterances": int(confusion.sum()), **score(confusion, found.is_known & (found.folds == fold))}
            for fold, confusion in zip(folds, confusions, strict=True)
        ],
    }


def _describe_rare(examples: Examples, fit: LinearFit) -> Iterator[str]:
    """Describe classes with fewer utterances or speakers than folds, and speakers that are in several."""
    found = fit.out_of_fold
    num_folds = len(np.unique(found.folds))
    if not found.are_speakers_apart:
        yield "too many classes have one speaker alone: folds share speakers, and so the scores are of known voices"
    unknown = examples.count_labels(examples.labels[~found.is_known])
    for index, (name, missed) in enumerate(zip(examples.classes, unknown, strict=True)):
        own = examples.labels == index
        num_speakers = len(np.unique(examples.speakers[own]))
        if min(int(own.sum()), num_speakers) >= num_folds and not missed:
            continue
        note = f"{name} has {counted(int(own.sum()), 'utterance')}"
        note += f" of {counted(num_speakers, 'speaker')}" if examples.knows_speakers else ""
        note += f", and there are {num_folds} folds"
        if missed:
            note += f": {missed} are predicted by heads that lack the class, and so wrong; NLL is without them"
        yield note


def _format_probe(examples: Examples, fit: LinearFit, validation: Mapping[str, Any], target: Path, kept: str) -> str:
    """Format what was trained, with what is kept of the encoder unless it is all, and the next command."""
    head = fit.head
    speakers = f" of {counted(len(examples.speaker_names), 'speaker')}" if examples.knows_speakers else ""
    apart = "no speaker in training and test" if validation["speaker_disjoint"] else "speakers may be in both"
    found = ((name, validation[name]) for name in ("WA", "UA", "NLL"))
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in found if value is not None)
    counts = map(str, examples.count_labels())
    options = "".join(f" {option}" for option in examples.origin.unusual_options())
    chosen = f", of {CANDIDATES[0]:g} to {CANDIDATES[-1]:g}" if len(fit.out_of_fold.losses) > 1 else ""
    return "\n".join(
        [
            f"{counted(len(examples), 'utterance')}{speakers}, {len(examples.classes)} classes\n",
            columns([("class", "utterances"), *zip(examples.classes, counts, strict=True)]),
            f"C {head.c:g}{chosen}; temperature {head.temperature:.4f}",
            f"cross-validated, {apart}: {metrics}",
            f"model: {target}, {kept}which FunASR loads, too",
            f"next: e2v predict wav.scp -m {shlex.quote(str(target))} -o OUT{options}\n",
        ]
    )
