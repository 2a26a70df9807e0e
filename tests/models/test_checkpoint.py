"""Model folders: what is understood, and what is refused with which words."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.audio_files import encode, noisy_tone
from support.checkpoints import TOKENS, make_config, make_model
from support.processes import E2v, hook

from e2v_cli.errors import ModelError
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.config import ConfigValueError, parse_feature_encoder_spec
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.network.config import ConvLayer
from e2v_cli.options import LabelLanguage, ModelRequest

AUDIO = "modality_encoders.AUDIO."
State = dict[str, torch.Tensor]


class Boom:
    """Runs code when it is unpickled by a loader that isn't careful."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def load(folder: Path) -> State:
    return make_network(read_model("test", folder)).state_dict()


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "state_dict around model": lambda state: {"state_dict": {"model": state}},
    "module.": prefixed("module."),
    "d2v_model.": lambda state: {"model": prefixed("d2v_model.")(state)},
    "module.d2v_model.": prefixed("module.d2v_model."),
    "half precision": lambda state: {"model": {name: tensor.half().float() for name, tensor in state.items()}},
    "with a pretraining decoder and EMA": lambda state: {
        "model": {
            **state,
            AUDIO + "decoder.blocks.0.0.weight": torch.zeros(1),
            "_ema.blocks.0.norm1.weight": torch.zeros(1),
        }
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_and_prefixed_checkpoints(
    wrapper: str, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_model(tmp_path, wrap=WRAPPERS[wrapper])
    loaded, expected = load(folder), load(tiny)
    if wrapper == "half precision":
        expected = {name: tensor.half().float() for name, tensor in expected.items()}
    assert equal(loaded, expected)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "scope_map", [["student.", "none"], "student.,none", ["student.blocks.", "blocks.", "x.", "y."]]
)
def test_scope_map_renames(scope_map: object, tiny: Path, tmp_path: Path) -> None:
    config = {**make_config(), "scope_map": scope_map}

    def rename(state: State) -> State:
        return {
            name
            if isinstance(scope_map, list) and len(scope_map) == 4 and not name.startswith("blocks.")
            else f"student.{name}": tensor
            for name, tensor in state.items()
        }

    assert equal(load(make_model(tmp_path, config, wrap=rename)), load(tiny))


def test_old_checkpoints_have_four_dimensional_alibi_scales(tiny: Path, tmp_path: Path) -> None:
    name = AUDIO + "alibi_scale"
    folder = make_model(tmp_path, wrap=lambda state: {**state, name: state[name].squeeze(0)})
    assert equal(load(folder), load(tiny))


def test_checkpoint_of_torch_before_1_6(tiny: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    content = torch.load(folder / "model.pt", weights_only=True)
    torch.save(content, folder / "model.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(folder / "model.pt")
    assert equal(load(folder), load(tiny))


def test_folder_without_configuration_json(tiny: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "configuration.json").unlink()
    assert read_model("test", folder).labels == read_model("test", tiny).labels


def test_files_may_have_other_names(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    for old, new in (("model.pt", "best.pt"), ("tokens.txt", "emotions.txt"), ("config.yaml", "net.yaml")):
        (folder / old).rename(folder / new)
    metas = {"init_param": "best.pt", "config": "net.yaml", "tokenizer_conf": {"token_list": "emotions.txt"}}
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    model = read_model("test", folder)
    assert model.weights == folder / "best.pt"
    assert len(model.labels) == 9


def test_tokens_may_be_json(tiny: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    tokens = (folder / "tokens.txt").read_text(encoding="utf-8").splitlines()
    (folder / "tokens.json").write_text(json.dumps(tokens))
    metas = {"init_param": "model.pt", "config": "config.yaml", "tokenizer_conf": {"token_list": "tokens.json"}}
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    assert read_model("test", folder).labels == read_model("tiny", tiny).labels
    (folder / "tokens.json").write_text("[1, 2]")
    assert refusal(folder) == f"{folder / 'tokens.json'}: not a list of labels: 'int' object has no attribute 'rstrip'"


def test_labels_are_the_part_after_the_slash(tiny: Path) -> None:
    assert read_model("tiny", tiny).labels == (
        *("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown"),
    )


ZH = ("生气", "厌恶", "恐惧", "开心", "中立", "其他", "难过", "吃惊", "<unk>")


@pytest.mark.parametrize(("language", "labels"), [("zh", ZH), ("both", TOKENS)])
def test_labels_are_in_the_language_that_is_asked_for(
    language: LabelLanguage, labels: tuple[str, ...], tiny: Path
) -> None:
    assert read_model("tiny", tiny, language).labels == labels


def test_labels_without_a_slash_are_the_same_in_all_languages(tmp_path: Path) -> None:
    folder = make_model(tmp_path, tokens=("joy", "/left", "right/", "a/b/c"))
    assert read_model("test", folder, "en").labels == ("joy", "left", "right/", "b/c")
    assert read_model("test", folder, "zh").labels == ("joy", "/left", "right", "a")
    assert read_model("test", folder, "both").labels == ("joy", "/left", "right/", "a/b/c")


def test_labels_that_are_the_same_in_one_language_alone(tmp_path: Path) -> None:
    folder = make_model(tmp_path, tokens=("开心/happy", "开心/joyful", "悲/sad", "难过/sad"))
    assert len(read_model("test", folder, "both").labels) == 4
    for language, label in (("en", "sad"), ("zh", "开心")):
        with pytest.raises(ModelError) as caught:
            read_model("test", folder, language)  # type: ignore[arg-type]
        assert str(caught.value) == f"{folder / 'tokens.txt'}: label {label!r} is listed more than once"


def test_unknown_is_a_label_like_others(tmp_path: Path) -> None:
    """In English <unk> is called so; in the others it is not."""
    folder = make_model(tmp_path, tokens=("未知/unknown", "<unk>"))
    assert read_model("test", folder, "zh").labels == ("未知", "<unk>")
    with pytest.raises(ModelError, match=r"label 'unknown' is listed more than once$"):
        read_model("test", folder)


@pytest.mark.e2e
def test_results_in_other_labels_or_precision_are_never_mixed(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode(noisy_tone(16_000)))
    command = ("predict", tmp_path / "a.wav", "-m", tiny, "-o", tmp_path / "out", "-j", "1")
    assert e2v(*command, "--labels", "zh").returncode == 0
    table = (tmp_path / "out" / "predictions.tsv").read_text(encoding="utf-8")
    assert tuple(table.splitlines()[0].split("\t")[5:]) == ZH

    for language in ("en", "both"):
        done = e2v(*command, "--labels", language)
        assert (done.returncode, done.stdout) == (4, "")
        assert "labels" in done.stderr
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16")
    cpu_info = str(tmp_path / "cpuinfo")
    code = f"import pathlib; from e2v_cli.workers import devices; devices._CPU_INFO = pathlib.Path({cpu_info!r})"
    done = e2v(*command, "--labels", "zh", "--precision", "bf16", **hook(tmp_path / "hook", code))
    assert (done.returncode, done.stdout) == (4, "")
    assert "precision" in done.stderr
    assert e2v(*command, "--labels", "zh").returncode == 0
    assert (tmp_path / "out" / "predictions.tsv").read_text(encoding="utf-8") == table


def test_unused_classes_have_no_label(tmp_path: Path) -> None:
    model = read_model("test", make_model(tmp_path, tokens=("生气/angry", "unuse_0", "joy", "<unk>")))
    assert model.labels == ("angry", "joy", "unknown")
    assert model.classes == (0, 2, 3)
    assert read_model("test", model.folder, "zh").labels == ("生气", "joy", "<unk>")
    assert read_model("test", model.folder, "both").labels == ("生气/angry", "joy", "<unk>")


def test_tensors_of_more_layers_than_the_config_has_are_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_model(
        tmp_path, wrap=lambda state: {**state, "blocks.2.norm1.weight": torch.ones(96), "optimizer.lr": torch.ones(1)}
    )
    load(folder)
    assert caplog.messages == [
        f"{folder / 'model.pt'}: tensors without a place in the network that config.yaml describes are left out: 1, "
        "'blocks.2.norm1.weight' first"
    ]


# -- refused -----------------------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    return str(caught.value)


def without(name: str) -> Callable[[State], Any]:
    return lambda state: {"model": {key: tensor for key, tensor in state.items() if key != name}}


@pytest.mark.parametrize(
    "name",
    [
        "proj.bias",
        "blocks.1.mlp.fc2.weight",
        AUDIO + "context_encoder.blocks.0.attn.qkv.bias",
        AUDIO + "context_encoder.norm.weight",
        AUDIO + "alibi_scale",
        AUDIO + "extra_tokens",
        AUDIO + "local_encoder.conv_layers.3.0.weight",
        AUDIO + "local_encoder.conv_layers.3.2.1.bias",
        AUDIO + "project_features.2.weight",
        AUDIO + "relative_positional_encoder.5.0.bias",
    ],
)
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=without(name))
    assert refusal(folder) == (
        f"{folder / 'model.pt'}: tensor {name!r} is missing; the file is incomplete or another model's"
    )


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blocks.0.attn.proj.weight", (96, 95), (96, 96)),
        ("blocks.0.attn.proj.weight", (96 * 96,), (96, 96)),
        (AUDIO + "extra_tokens", (1, 9, 96), (1, 10, 96)),
        (AUDIO + "alibi_scale", (1, 1, 3, 1, 1), (1, 1, 4, 1, 1)),
        (AUDIO + "alibi_scale", (4,), (1, 1, 4, 1, 1)),
        (AUDIO + "local_encoder.conv_layers.1.0.weight", (64, 3, 64), (64, 64, 3)),
    ],
)
def test_a_wrong_shape_is_named(name: str, shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=lambda state: {"model": {**state, name: torch.zeros(shape)}})
    assert refusal(folder) == (
        f"{folder / 'model.pt'}: tensor {name!r} is {shape}, but {folder / 'config.yaml'} says {expected}"
    )


@pytest.mark.parametrize(
    "make", [torch.Tensor.to_sparse, torch.Tensor.int, lambda tensor: tensor.to("meta"), lambda tensor: tensor * 1j]
)
def test_a_tensor_that_holds_no_plain_floats_is_named(
    make: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    folder = make_model(tmp_path, wrap=lambda state: {**state, "proj.weight": make(state["proj.weight"])})
    assert refusal(folder) == (
        f"{folder / 'model.pt'}: tensor 'proj.weight' is no plain tensor of floating-point numbers"
    )


@pytest.mark.parametrize("tokens", [("<unk>",), ("a", "b", "c", "d", "e", "f", "g", "h", "i", "<unk>")])
def test_tokens_of_another_number_than_the_head_has_classes(tokens: tuple[str, ...], tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "tokens.txt").write_text("\n".join(tokens))
    number = len(tokens)
    assert refusal(folder) == (
        f"{folder / 'model.pt'}: tensor 'proj.weight' is (9, 96), but {folder / 'tokens.txt'} has {number} lines: "
        f"({number}, 96)"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("angry\n\nhappy\n", ":2: '' is no label"),
        ("unuse_0\nunuse_1\n", ": holds no label that is in use"),
        ("", ": holds no label that is in use"),
        ("a/happy\nb/happy\n", ": label 'happy' is listed more than once"),
        ("angry\tbad\n", ":1: 'angry\\tbad' is no label"),
        ("\xff", ": not a list of labels: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_bad_tokens(content: str, message: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "tokens.txt").write_bytes(content.encode("latin-1"))
    assert refusal(folder) == f"{folder / 'tokens.txt'}{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"angry": 0, "happy": 1}, ": not a list of labels: a dict"),
        ("angry", ": not a list of labels: a str"),
        (None, ": not a list of labels: a NoneType"),
        (["angry", 1], ": not a list of labels: 'int' object has no attribute 'rstrip'"),
        (["angry", "hap\npy"], ":2: 'hap\\npy' is no label"),
        (["angry\x1b[31m", "happy"], ":1: 'angry\\x1b[31m' is no label"),
        (["angry", "unuse\x1b[2J"], ":2: 'unuse\\x1b[2J' is no label"),
        (["angry", "\ud800"], ":2: '\\ud800' is no label"),
        (["angry", ""], ":2: '' is no label"),
    ],
)
def test_bad_tokens_in_json(content: object, message: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    metas = {"file_path_metas": {"tokenizer_conf": {"token_list": "tokens.json"}}}
    (folder / "configuration.json").write_text(json.dumps(metas))
    (folder / "tokens.json").write_text(json.dumps(content))
    assert refusal(folder) == f"{folder / 'tokens.json'}{message}"


def test_a_label_that_would_write_to_a_terminal_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "tokens.txt").write_text("angry\nhappy\x1b]0;title\x07\n")
    assert refusal(folder) == f"{folder / 'tokens.txt'}:2: 'happy\\x1b]0;title\\x07' is no label"


def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path: Path) -> None:
    folder = make_model(tmp_path, tokens=("angry", "happy"))
    content = (folder / "tokens.txt").read_bytes()
    (folder / "tokens.txt").write_bytes(b"\xef\xbb\xbf" + content)
    assert read_model("test", folder).tokens == ("angry", "happy")


@pytest.mark.parametrize("prefix", ["", "module.", "d2v_model."])
def test_a_head_without_tokens(prefix: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=prefixed(prefix))
    (folder / "tokens.txt").unlink()
    assert refusal(folder) == (
        f"{folder / 'tokens.txt'} is missing, but {folder / 'model.pt'} has a head: copy it there too"
    )


@pytest.mark.parametrize(("protocol", "thing"), [(2, "posix.mkdir"), (4, "more than tensors")])
def test_a_pickled_object_is_not_unpickled(protocol: int, thing: str, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    folder = make_model(tmp_path / "model")
    content = torch.load(folder / "model.pt", weights_only=True)
    torch.save({**content, "args": Boom(canary)}, folder / "model.pt", pickle_protocol=protocol)
    assert refusal(folder) == (
        f"{folder / 'model.pt'} holds {thing}, which could run code when read, so it was not: "
        "save the checkpoint again as torch.save({'model': state_dict}) where you trust it"
    )
    assert not canary.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    path = folder / "model.pt"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no checkpoint"}[damage])
    assert refusal(folder).startswith(f"{path} ")


def test_a_checkpoint_that_holds_no_names(tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=lambda state: list(state.values()))
    assert refusal(folder) == f"{folder / 'model.pt'} holds a list, not tensors by name"


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
def test_a_spec_that_is_no_list_is_not_run(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_config_that_cannot_be_is_refused_by_name(
    section: str, key: str, value: object, message: str, tmp_path: Path
) -> None:
    folder = make_model(tmp_path)
    config = make_config()
    place: dict[str, Any] = config
    for name in filter(None, section.split(".")):
        place = place[name]
    if value is GONE:
        del place[key]
    else:
        place[key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert refusal(folder) == f"{folder / 'config.yaml'}: {message}"


def test_scales_a_layer_need_depths_that_agree(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    config = make_config(audio={"model_depth": 3, "learned_alibi_scale_per_layer": True})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert refusal(folder) == f"{folder / 'config.yaml'}: {AUDIO_CONF}.model_depth is 3, but depth is 2"


@pytest.mark.parametrize("content", ["- a\n- b\n", "", "just text"])
def test_a_config_that_is_no_mapping(content: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "config.yaml").write_text(content)
    assert refusal(folder) == f"{folder / 'config.yaml'}: the file is not a mapping of keys to values"


def test_yaml_that_would_make_objects_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    folder = make_model(tmp_path / "model")
    (folder / "config.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{canary}']\n")
    assert refusal(folder).startswith(
        f"{folder / 'config.yaml'}: not plain YAML: could not determine a constructor for the tag"
    )
    assert not canary.exists()


@pytest.mark.parametrize("name", ["../model.pt", "/etc/passwd", "a/../../b"])
def test_files_outside_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    for key in ("init_param", "config"):
        (folder / "configuration.json").write_text(json.dumps({"file_path_metas": {key: name}}))
        assert refusal(folder) == f"{folder / 'configuration.json'}: {name!r} lies outside the model's folder"
    metas = {"tokenizer_conf": {"token_list": name}}
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    assert refusal(folder) == f"{folder / 'configuration.json'}: {name!r} lies outside the model's folder"


@pytest.mark.parametrize("name", ["config.yaml", "model.pt"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / name).unlink()
    assert refusal(folder) == (
        f"{folder / name} is missing: a model folder holds config.yaml, model.pt, tokens.txt and configuration.json"
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"file_path_metas": 3}', "[" * 200_000])
def test_a_broken_configuration_json_is_named(content: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "configuration.json").write_text(content)
    assert refusal(folder).startswith(f"{folder / 'configuration.json'}: not the JSON of a model folder: ")


# -- names -------------------------------------------------------------------------------------------------------------


def test_sample_is_in_the_package() -> None:
    model = read_model("sample", find_model(ModelRequest("sample")))
    assert len(model.labels) == 9
    assert model.weights.stat().st_size <= 2_000_000
