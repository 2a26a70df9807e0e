"""Batch → Prediction on one device: our engine, and upstream's own code beside it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from e2v_cli.checkpoint import Model, load_network, upstream_state
from e2v_cli.errors import ModelError
from e2v_cli.network import Emotion2vec
from e2v_cli.records import Batch, Failure, Prediction, Waveform
from e2v_cli.settings import EngineName, Granularity


class Engine(Protocol):
    """What computes predictions, on one device."""

    device: torch.device

    def encode(self, batch: Batch) -> list[Prediction | Failure]:
        """Compute the predictions of a batch, in its order."""


def load_engine(name: EngineName, model: Model, device: torch.device, granularity: Granularity) -> Engine:
    """Load a model onto a device.

    Raises:
        ModelError: its checkpoint can't be used.
    """
    # fp32 means fp32: TensorFloat-32 keeps 10 bits of the mantissa, and PyTorch has it on for convolutions.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    engine = E2vEngine if name == "e2v" else FunasrEngine
    return engine(model, load_network(model), device, granularity)


class E2vEngine:
    """Our engine: the whole batch at once."""

    def __init__(self, model: Model, network: Emotion2vec, device: torch.device, granularity: Granularity) -> None:
        self.device = device
        self.network = network.to(device)
        self.classes = list(model.classes)
        self.granularity = granularity

    @torch.inference_mode()
    def encode(self, batch: Batch) -> list[Prediction | Failure]:
        """Compute the predictions of a batch, in its order; one too large for the GPU is halved."""
        try:
            return self._encode(batch.waveforms)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        if len(batch.waveforms) == 1:
            (waveform,) = batch.waveforms
            detail = f"{waveform.duration:.1f} s are too long for the memory of {self.device}"
            return [Failure(waveform.utterance, "model", "out of memory", detail)]
        middle = len(batch.waveforms) // 2
        return [
            result
            for half in (batch.waveforms[:middle], batch.waveforms[middle:])
            for result in self.encode(Batch(half))
        ]

    def _encode(self, waveforms: Sequence[Waveform]) -> list[Prediction | Failure]:
        features = self.network([torch.from_numpy(waveform.samples) for waveform in waveforms])
        pooled = torch.stack([frames.mean(dim=0) for frames in features])
        posteriors: list[NDArray[np.float32] | None] = [None] * len(features)
        if self.classes:  # a softmax over the classes in use is upstream's, which sets the logits of the others to -inf
            posteriors = list(self.network.logits(pooled)[:, self.classes].softmax(dim=1).cpu().numpy())
        if self.granularity == "frame":
            embeddings = [frames.cpu().numpy() for frames in features]
        else:
            embeddings = list(pooled.cpu().numpy())
        return [
            _prediction(waveform, len(frames), posterior, embedding)
            for waveform, frames, posterior, embedding in zip(waveforms, features, posteriors, embeddings, strict=True)
        ]


class FunasrEngine:
    """Upstream's own network and inference code, one utterance after the other.

    Only its loading is ours: upstream's evaluates ``feature_encoder_spec`` from the model's folder as Python, installs
    its requirements if its config says so, and keeps random weights where a checkpoint lacks some.
    """

    def __init__(self, model: Model, network: Emotion2vec, device: torch.device, granularity: Granularity) -> None:
        with redirect_stdout(sys.stderr):  # upstream greets on standard output
            from funasr.models.emotion2vec.model import Emotion2vec as UpstreamEmotion2vec
        model_conf: dict[str, Any] = copy.deepcopy(dict(model.raw_config["model_conf"]))
        model_conf["norm_eps"] = model.config.norm_eps
        model_conf["mlp_ratio"] = model.config.mlp_dim / model.config.embed_dim
        audio = model_conf["modalities"]["audio"]
        audio["feature_encoder_spec"] = repr([(c.channels, c.kernel, c.stride) for c in model.config.conv_layers])
        audio["decoder"] = None
        try:
            upstream = UpstreamEmotion2vec(model_conf=model_conf, vocab_size=len(model.tokens))
        except Exception as error:  # upstream reads keys of pretraining, too, and meets whatever they hold
            raise ModelError(
                f"{model.folder}: upstream's code can't make its network of config.yaml: {error}"
            ) from None
        upstream.load_state_dict(upstream_state(network))
        self.upstream = upstream.eval().to(device)
        self.device = device
        self.tokenizer = SimpleNamespace(token_list=list(model.tokens))
        self.config = model.config
        self.granularity = granularity

    @torch.inference_mode()
    def encode(self, batch: Batch) -> list[Prediction | Failure]:
        """Compute the predictions of a batch, in its order."""
        return [self._encode_one(waveform) for waveform in batch.waveforms]

    def _encode_one(self, waveform: Waveform) -> Prediction | Failure:
        results, _ = self.upstream.inference(
            [torch.from_numpy(waveform.samples)],
            key=[waveform.utterance.utt_id],
            tokenizer=self.tokenizer,
            device=self.device,
            granularity=self.granularity,
            extract_embedding=True,
        )
        scores = results[0]["scores"]
        return _prediction(
            waveform,
            self.config.num_frames(len(waveform.samples)),
            np.array(scores, dtype=np.float32) if scores else None,
            results[0]["feats"],
        )


def _prediction(
    waveform: Waveform, num_frames: int, posteriors: NDArray[np.float32] | None, embedding: NDArray[np.float32]
) -> Prediction | Failure:
    """Make a prediction of what a network gave, unless that is not finite."""
    if not np.isfinite(embedding).all() or (posteriors is not None and not np.isfinite(posteriors).all()):
        return Failure(waveform.utterance, "model", "not finite", "the model gives NaN or infinite numbers for it")
    return Prediction(waveform.utterance, waveform.duration, num_frames, 1, posteriors, embedding)
