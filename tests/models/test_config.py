"""A model's config: parsed values, and the messages for refused ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.checkpoints import make_config, make_model, refusal

from e2v_cli.models.config import ConfigValueError, parse_feature_encoder_spec
from e2v_cli.network.config import ConvLayer

CODE = '__import__("pathlib").Path("CANARY").touch() or [(64, 10, 5)]'


@pytest.mark.parametrize(
    "spec",
    [
        CODE,
        "[(64, 10, 5)] + " + CODE,
        "[(64, 10, 5)] * 100000000000",
        "[(64, 10, 5)] ** 2",
        "[(64, 10)]",
        "[(64, 10, -5)]",
        "[(1000000000, 10, 5)]",
        "[(64.0, 10, 5)]",
        "[]",
        "",
        "[(64, 10, 5)",
        "(" * 900,
        "[(1, 1, 1)] + " * 60 + "[(1, 1, 1)] * 60",
        "[(64, 10, 5)] " + " " * 2000,
    ],
)
def test_invalid_feature_encoder_spec_is_not_evaluated(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_model(tmp_path)
    config = make_config(audio={"feature_encoder_spec": spec})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert refusal(folder) == (
        f"{folder / 'config.yaml'}: feature_encoder_spec {spec[:80]!r} is not a list like "
        "'[(512, 10, 5)] + [(512, 3, 2)] * 4'; it was not run"
    )
    assert not (tmp_path / "CANARY").exists()


def test_specs_are_parsed_like_python() -> None:
    spec = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + 2 * [(256, 2, 2), (8, 1, 1)]"
    expected = eval(spec)  # noqa: S307 — the reference
    assert parse_feature_encoder_spec(spec) == tuple(ConvLayer(*layer) for layer in expected)
    with pytest.raises(ConfigValueError):
        parse_feature_encoder_spec("x")


MODEL_CONF = "model_conf"

AUDIO_CONF = "model_conf.modalities.audio"

GONE = object()

CONFIGS: list[tuple[str, str, object, str]] = [
    # section, key, value, message
    ("", "model", "Paraformer", "model is 'Paraformer', not 'Emotion2vec'"),
    ("", "model_conf", GONE, "model_conf is missing"),
    ("", "scope_map", ["a."], "scope_map is ['a.'], not a list of pairs of prefixes"),
    (MODEL_CONF, "depth", GONE, "model_conf.depth is missing"),
    (MODEL_CONF, "depth", "8", "model_conf.depth is '8', not a whole number from 0 to 1000"),
    (MODEL_CONF, "depth", 10**9, "model_conf.depth is 1000000000, not a whole number from 0 to 1000"),
    (MODEL_CONF, "modalities", {}, "model_conf.modalities.audio is missing"),
    (MODEL_CONF, "modalities", [], "model_conf.modalities is not a mapping of keys to values"),
    (MODEL_CONF, "normalize", "yes", "model_conf.normalize is 'yes', not true or false"),
    (MODEL_CONF, "norm_eps", 0, "model_conf.norm_eps is 0, not a positive number"),
    (MODEL_CONF, "norm_eps", "tiny", "model_conf.norm_eps is 'tiny', not a positive number"),
    (MODEL_CONF, "num_heads", 5, "embed_dim 96 is not a multiple of num_heads 5"),
    (MODEL_CONF, "mlp_ratio", 1e308, "model_conf.mlp_ratio is 1e+308, too small or too large for embed_dim 96"),
    (AUDIO_CONF, "conv_pos_groups", 7, "embed_dim 96 is not a multiple of conv_pos_groups 7"),
    (AUDIO_CONF, "conv_pos_depth", 0, f"{AUDIO_CONF}.conv_pos_depth is 0, not a whole number from 1 to 1000"),
    (AUDIO_CONF, "feature_encoder_spec", None, f"{AUDIO_CONF}.feature_encoder_spec is None, not a text"),
    (AUDIO_CONF, "num_alibi_heads", 8, f"{AUDIO_CONF}.num_alibi_heads is 8, more than num_heads 4"),
    (
        AUDIO_CONF,
        "extractor_mode",
        "batch_norm",
        f"{AUDIO_CONF}.extractor_mode is 'batch_norm'; known are 'layer_norm' and 'default'",
    ),
    (
        AUDIO_CONF,
        "learned_alibi",
        True,
        f"{AUDIO_CONF}.learned_alibi is true, which upstream's own code can't run; only scales can be learned",
    ),
]


@pytest.mark.parametrize(("section", "key", "value", "message"), CONFIGS)
def test_invalid_config_value_is_named(section: str, key: str, value: object, message: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    config = make_config()
    settings: dict[str, Any] = config
    for name in filter(None, section.split(".")):
        settings = settings[name]
    if value is GONE:
        del settings[key]
    else:
        settings[key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert refusal(folder) == f"{folder / 'config.yaml'}: {message}"


def test_alibi_scales_per_layer_need_matching_depths(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    config = make_config(audio={"model_depth": 3, "learned_alibi_scale_per_layer": True})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert refusal(folder) == f"{folder / 'config.yaml'}: {AUDIO_CONF}.model_depth is 3, but depth is 2"


@pytest.mark.parametrize("content", ["- a\n- b\n", "---\n", "just text"])
def test_config_that_is_not_a_mapping_is_refused(content: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "config.yaml").write_text(content)
    assert refusal(folder) == f"{folder / 'config.yaml'}: the file is not a mapping of keys to values"
