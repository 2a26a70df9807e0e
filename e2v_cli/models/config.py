"""A model's ``config.yaml`` → NetworkConfig: every key and value is supported, or refused by name.

Keys and their meaning are upstream's (``funasr/models/emotion2vec``). Nothing is evaluated: upstream runs ``eval`` on
``feature_encoder_spec``; here it is parsed.
"""

from __future__ import annotations

import ast
import math
import reprlib
from collections.abc import Mapping
from typing import Literal

from e2v_cli.network.config import ConvLayer, NetworkConfig

MAX_CONV_LAYERS = 64

MAX_LAYERS = 1_000

MAX_SIZE = 100_000
"""Limit of sizes, more than any model has, against bombs like ``[(1, 1, 1)] * 10**9``."""

_repr = reprlib.Repr()
_repr.maxlevel = 2  # aliases make a few lines of YAML a tree of millions


def shorten(value: object) -> str:
    """Format a value of a config for a message, however large it is."""
    return _repr.repr(value)


class ConfigValueError(ValueError):
    """A key of the config is missing, or has a value that can't be used; the message names the key."""


def parse_config(config: object) -> NetworkConfig:
    """Convert the parsed YAML of a ``config.yaml``.

    Raises:
        ConfigValueError: a key is missing, has a value of the wrong kind, or one that neither this nor upstream's code
            can run.
    """
    root = _Section(config, "")
    if root.value("model") != "Emotion2vec":
        raise ConfigValueError(f"model is {shorten(root.value('model'))}, not 'Emotion2vec'")
    model = root.section("model_conf")
    audio = model.section("modalities").section("audio")

    conv_layers = parse_feature_encoder_spec(audio.string("feature_encoder_spec"))
    embed_dim, num_heads = model.integer("embed_dim"), model.integer("num_heads")
    prenet_depth = audio.integer("prenet_depth", at_least=0, at_most=MAX_LAYERS)
    depth = model.integer("depth", at_least=0, at_most=MAX_LAYERS)
    conv_pos_depth = audio.integer("conv_pos_depth", at_most=MAX_LAYERS)
    conv_pos_groups = audio.integer("conv_pos_groups")
    for key, parts in (("num_heads", num_heads), ("conv_pos_groups", conv_pos_groups)):
        if embed_dim % parts:
            raise ConfigValueError(f"embed_dim {embed_dim} is not a multiple of {key} {parts}")
    num_alibi_heads, alibi_scales = _parse_alibi(audio, num_heads, prenet_depth, depth)
    return NetworkConfig(
        conv_layers=conv_layers,
        conv_norm=_parse_extractor_mode(audio),
        embed_dim=embed_dim,
        num_heads=num_heads,
        prenet_depth=prenet_depth,
        depth=depth,
        mlp_dim=_mlp_dim(model, embed_dim),
        norm_eps=model.number("norm_eps"),
        norm_affine=model.boolean("norm_affine"),
        layer_norm_first=model.boolean("layer_norm_first"),
        normalize=model.boolean("normalize"),
        num_extra_tokens=audio.integer("num_extra_tokens", at_least=0),
        conv_pos_depth=conv_pos_depth,
        conv_pos_kernel=max(3, audio.integer("conv_pos_width") // conv_pos_depth),
        conv_pos_groups=conv_pos_groups,
        conv_pos_pre_ln=audio.boolean("conv_pos_pre_ln"),
        num_alibi_heads=num_alibi_heads,
        alibi_scales=alibi_scales,
    )


def parse_feature_encoder_spec(spec: str) -> tuple[ConvLayer, ...]:
    """Parse sums and multiples of lists of (channels, kernel, stride): ``[(512, 10, 5)] + [(512, 3, 2)] * 4``.

    Raises:
        ConfigValueError: the text is anything else; nothing of it is run.
    """
    refusal = ConfigValueError(
        f"feature_encoder_spec {spec[:80]!r} is not a list like '[(512, 10, 5)] + [(512, 3, 2)] * 4'; it was not run"
    )

    def layers(node: ast.expr) -> list[ConvLayer]:
        match node:
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                parsed = layers(left) + layers(right)
            case (
                ast.BinOp(left=repeated, op=ast.Mult(), right=ast.Constant(value=int(times)))
                | ast.BinOp(left=ast.Constant(value=int(times)), op=ast.Mult(), right=repeated)
            ) if 0 <= times <= MAX_CONV_LAYERS:
                parsed = layers(repeated) * times
            case ast.List(elts=elements):
                parsed = [layer(element) for element in elements]
            case _:
                raise refusal
        if len(parsed) > MAX_CONV_LAYERS:
            raise refusal
        return parsed

    def layer(node: ast.expr) -> ConvLayer:
        match node:
            case ast.Tuple(
                elts=[
                    ast.Constant(value=int(channels)),
                    ast.Constant(value=int(kernel)),
                    ast.Constant(value=int(stride)),
                ]
            ) if all(0 < size <= MAX_SIZE for size in (channels, kernel, stride)):
                return ConvLayer(int(channels), int(kernel), int(stride))
        raise refusal

    if len(spec) > 1000:
        raise refusal
    try:
        parsed = layers(ast.parse(spec.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise refusal from None
    if not parsed:
        raise refusal
    return tuple(parsed)


def _mlp_dim(model: _Section, embed_dim: int) -> int:
    ratio = model.number("mlp_ratio")
    if not 1 <= embed_dim * ratio <= MAX_SIZE:
        raise ConfigValueError(
            f"{model.name('mlp_ratio')} is {ratio}, too small or too large for embed_dim {embed_dim}"
        )
    return int(embed_dim * ratio)


def _parse_extractor_mode(audio: _Section) -> Literal["layer", "group"]:
    match audio.string("extractor_mode"):
        case "layer_norm":
            return "layer"
        case "default":
            return "group"
        case mode:
            raise ConfigValueError(f"{audio.name('extractor_mode')} is {mode!r}; known are 'layer_norm' and 'default'")


def _parse_alibi(audio: _Section, num_heads: int, prenet_depth: int, depth: int) -> tuple[int, tuple[int, int]]:
    """Return the number of heads with ALiBi and the shape of its scales."""
    if not audio.boolean("use_alibi_encoder"):
        return 0, (1, 1)
    if audio.boolean("learned_alibi"):
        raise ConfigValueError(
            f"{audio.name('learned_alibi')} is true, which upstream's own code can't run; only scales can be learned"
        )
    num_alibi_heads = audio.integer("num_alibi_heads")
    if num_alibi_heads > num_heads:
        raise ConfigValueError(f"{audio.name('num_alibi_heads')} is {num_alibi_heads}, more than num_heads {num_heads}")
    layers = 1
    if audio.boolean("learned_alibi_scale_per_layer"):
        model_depth = audio.integer("model_depth", at_least=0)
        if model_depth != depth:
            raise ConfigValueError(f"{audio.name('model_depth')} is {model_depth}, but depth is {depth}")
        layers = prenet_depth + depth
    return num_alibi_heads, (layers, num_alibi_heads if audio.boolean("learned_alibi_scale_per_head") else 1)


class _Section:
    """A mapping of the config that knows its name, for messages."""

    def __init__(self, content: object, path: str) -> None:
        if not isinstance(content, Mapping):
            raise ConfigValueError(f"{path or 'the file'} is not a mapping of keys to values")
        self.content, self.path = content, path

    def name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def section(self, key: str) -> _Section:
        return _Section(self.value(key), self.name(key))

    def value(self, key: str) -> object:
        if key not in self.content:
            raise ConfigValueError(f"{self.name(key)} is missing")
        return self.content[key]

    def string(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str):
            raise ConfigValueError(f"{self.name(key)} is {shorten(value)}, not a text")
        return value

    def boolean(self, key: str) -> bool:
        value = self.value(key)
        if not isinstance(value, bool):
            raise ConfigValueError(f"{self.name(key)} is {shorten(value)}, not true or false")
        return value

    def integer(self, key: str, at_least: int = 1, at_most: int = MAX_SIZE) -> int:
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
            raise ConfigValueError(
                f"{self.name(key)} is {shorten(value)}, not a whole number from {at_least} to {at_most}"
            )
        return value

    def number(self, key: str) -> float:
        # PyYAML follows YAML 1.1, where the 1e-05 of upstream's own configs is a text: it has no dot.
        value = self.value(key)
        try:
            number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise ConfigValueError(f"{self.name(key)} is {shorten(value)}, not a positive number")
        return number
