"""Model folders in FunASR's format: the true architecture at any shape, random weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from e2v_cli.errors import ModelError
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import read_model
from support.upstream import upstream_alone

State = dict[str, torch.Tensor]

CONV_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"

TOKENS = (
    "生气/angry",
    "厌恶/disgusted",
    "恐惧/fearful",
    "开心/happy",
    "中立/neutral",
    "其他/other",
    "难过/sad",
    "吃惊/surprised",
    "<unk>",
)


def make_config(
    *,
    embed_dim: int = 96,
    num_heads: int = 4,
    prenet_depth: int = 1,
    depth: int = 2,
    channels: int = 64,
    tokenizer: bool = True,
    model: dict[str, Any] | None = None,
    audio: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make a ``config.yaml`` with upstream's keys; ``model`` and ``audio`` replace single ones."""
    audio_conf = {
        "type": "AUDIO",
        "prenet_depth": prenet_depth,
        "prenet_layerdrop": 0.05,
        "prenet_dropout": 0.1,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0,
        "num_extra_tokens": 10,
        "init_extra_token_zero": True,
        "mask_noise_std": 0.01,
        "mask_prob": 0.5,
        "ema_local_encoder": False,
        "local_grad_mult": 1.0,
        "use_alibi_encoder": True,
        "alibi_scale": 1.0,
        "learned_alibi": False,
        "alibi_max_pos": None,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True,
        "learned_alibi_scale_per_layer": False,
        "num_alibi_heads": num_heads,
        "model_depth": depth,
        "decoder": None,
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": CONV_LAYERS.replace("512", str(channels)),
        "conv_pos_width": 95,
        "conv_pos_groups": 16,
        "conv_pos_depth": 5,
        "conv_pos_pre_ln": False,
        **(audio or {}),
    }
    config: dict[str, Any] = {
        "model": "Emotion2vec",
        "model_conf": {
            "depth": depth,
            "start_drop_path_rate": 0.0,
            "end_drop_path_rate": 0.0,
            "num_heads": num_heads,
            "norm_eps": "1e-05",
            "norm_affine": True,
            "encoder_dropout": 0.1,
            "post_mlp_drop": 0.1,
            "attention_dropout": 0.1,
            "activation_dropout": 0.0,
            "dropout_input": 0.0,
            "layerdrop": 0.05,
            "embed_dim": embed_dim,
            "mlp_ratio": 4.0,
            "layer_norm_first": False,
            "average_top_k_layers": depth,
            "end_of_block_targets": False,
            "clone_batch": 8,
            "normalize": True,
            **(model or {}),
            "modalities": {"audio": audio_conf},
        },
        "scope_map": ["d2v_model.", "none"],
    }
    if tokenizer:
        config["tokenizer"] = "CharTokenizer"
        config["tokenizer_conf"] = {"unk_symbol": "<unk>", "split_with_space": True}
    return config


def random_state(config: dict[str, Any], num_classes: int, seed: int = 0) -> State:
    """Make random weights with upstream's own names and shapes, all of them with an effect."""
    model_conf = copy.deepcopy(config["model_conf"])
    model_conf["norm_eps"] = float(model_conf["norm_eps"])
    torch.manual_seed(seed)
    with upstream_alone():
        from funasr.models.emotion2vec.model import Emotion2vec

        state = Emotion2vec(model_conf=model_conf, vocab_size=num_classes or -1).state_dict()
    for name, tensor in state.items():
        if name.endswith("alibi_scale"):
            tensor.uniform_(-0.2, 1.5)  # below 0 the encoder clamps
        elif tensor.dim() == 1:  # biases and norms, which begin as zeros and ones
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return dict(state)


def make_model(
    folder: Path,
    config: dict[str, Any] | None = None,
    tokens: Sequence[str] = TOKENS,
    wrap: Callable[[State], Any] = lambda state: {"model": state},
    seed: int = 0,
) -> Path:
    """Make a model folder; ``wrap`` converts the weights to the content of ``model.pt``."""
    config = config or make_config()
    folder.mkdir(parents=True, exist_ok=True)
    # upstream's configs have 1e-05, which is a text in YAML 1.1
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False).replace("'1e-05'", "1e-05"))
    metas: dict[str, Any] = {"init_param": "model.pt", "config": "config.yaml"}
    if "tokenizer" in config:
        (folder / "tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        metas["tokenizer_conf"] = {"token_list": "tokens.txt"}
    (folder / "configuration.json").write_text(json.dumps({"model": {"type": "funasr"}, "file_path_metas": metas}))
    state = random_state(config, len(tokens) if "tokenizer" in config else 0, seed)
    torch.save(wrap(state), folder / "model.pt")
    return folder


def load_state(folder: Path) -> State:
    """Load a model's weights, by the network's names."""
    return make_network(read_model("test", folder)).state_dict()


def equal(one: State, other: State) -> bool:
    """Whether weights are the same, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(folder: Path) -> str:
    """Load an invalid model, and return the message of the error."""
    with pytest.raises(ModelError) as caught:
        load_state(folder)
    return str(caught.value)
