"""Batch → Prediction by FunASR's own code, for comparison. Only this module imports ``funasr``."""

from __future__ import annotations

import copy
import io
import time
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from e2v_cli.errors import DeviceError, ModelError
from e2v_cli.inference.engine import Pending, make_prediction, multiplying
from e2v_cli.models.checkpoint import read_tensors
from e2v_cli.models.folder import UNUSED, Model
from e2v_cli.options import ResamplerName, ResultOptions
from e2v_cli.records import Batch, Failure, Prediction, Waveform


class FunasrEngine:
    """Upstream's own network and inference code, one utterance after the other.

    Only its loading is ours: upstream's evaluates ``feature_encoder_spec`` from the model's folder as Python, installs
    its requirements if its config says so, and keeps random weights where a checkpoint lacks some.

    Raises:
        DeviceError: FunASR can't be imported.
        ModelError: upstream can't make its network of the config.
    """

    def __init__(self, model: Model, device: torch.device, results: ResultOptions) -> None:
        try:
            with redirect_stdout(io.StringIO()):  # upstream prints on standard output
                from funasr.models.emotion2vec.model import Emotion2vec as UpstreamEmotion2vec
                from funasr.utils import load_utils
        except (ImportError, OSError) as error:  # it imports torchaudio, which may be built for another PyTorch
            raise DeviceError(f"FunASR can't be loaded: {error}; install it again, or what the message names") from None
        model_conf: dict[str, Any] = copy.deepcopy(dict(model.raw_config["model_conf"]))
        model_conf["norm_eps"] = model.config.norm_eps
        model_conf["mlp_ratio"] = (model.config.mlp_dim + 0.5) / model.config.embed_dim  # upstream truncates with int()
        audio = model_conf["modalities"]["audio"]
        audio["feature_encoder_spec"] = repr([(c.channels, c.kernel, c.stride) for c in model.config.conv_layers])
        audio["decoder"] = None
        try:
            upstream = UpstreamEmotion2vec(model_conf=model_conf, vocab_size=len(model.tokens))
        except Exception as error:  # upstream also reads keys of pretraining, which may hold anything
            raise ModelError(
                f"{model.folder}: upstream's code can't build the network of config.yaml: {error}"
            ) from None
        shapes = {name: tuple(tensor.shape) for name, tensor in upstream.state_dict().items()}
        upstream.load_state_dict(read_tensors(model, shapes))
        self.upstream = upstream.eval().to(device)
        self.device = device
        self.busy_seconds = 0.0
        used = set(model.classes)  # upstream leaves out those that are named so
        tokens = [token if index in used else UNUSED for index, token in enumerate(model.tokens)]
        self.tokenizer = SimpleNamespace(token_list=tokens)
        self.merged = model.merged
        self.config = model.config
        self.granularity = results.granularity
        self.resampler: ResamplerName = "soxr" if load_utils.torchaudio is None else "torchaudio"
        """Resampler of the files that upstream reads: torchaudio's if that is installed, else SoX's, by librosa."""

    @torch.inference_mode()
    def start(self, batch: Batch) -> Pending:
        """Compute the predictions of a batch."""
        started = time.perf_counter()
        with multiplying("fp32", self.device):
            results = [self._encode_one(waveform, torch.from_numpy(waveform.whole)) for waveform in batch.waveforms]
        self.busy_seconds += time.perf_counter() - started
        return lambda: results

    @torch.inference_mode()
    def predict_file(self, waveform: Waveform, path: str) -> Prediction | Failure:
        """Compute the prediction of a waveform from the path of its file, which upstream's code reads and resamples.

        Raises:
            Exception: upstream can't read it.
        """
        with multiplying("fp32", self.device):
            return self._encode_one(waveform, path)

    def _encode_one(self, waveform: Waveform, source: torch.Tensor | str) -> Prediction | Failure:
        results, _ = self.upstream.inference(
            [source],
            key=[waveform.utterance.utt_id],
            tokenizer=self.tokenizer,
            device=self.device,
            granularity=self.granularity,
            extract_embedding=True,
        )
        scores = np.array(results[0]["scores"], dtype=np.float32)
        if self.merged:
            scores = np.array([scores[list(indices)].sum() for indices in self.merged])
        return make_prediction(
            waveform,
            self.config.num_frames(len(waveform.samples)),
            scores if len(scores) else None,
            results[0]["feats"],
            timelines=(),
        )
