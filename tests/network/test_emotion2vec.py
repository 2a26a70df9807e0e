"""The network's parts against plain formulas, and its ways of computing against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.checkpoints import make_config
from support.shapes import SHAPES, make_waveforms
from torch import Tensor, nn

from e2v_cli.models.config import parse_config
from e2v_cli.network import emotion2vec as network
from e2v_cli.network import layout as layouts
from e2v_cli.network.attention import (
    ALIBI_CACHED_TOKENS,
    CPU_TILE_SCORES,
    GPU_SCORES,
    ONEDNN_TOKENS,
    Alibi,
    PaddedAttention,
    TiledAttention,
    alibi_slopes,
)
from e2v_cli.network.config import ConvLayer, NetworkConfig
from e2v_cli.network.emotion2vec import CPU_TILES, CpuTiles, Emotion2vec, _ChannelNorm, _ConvBlock, _Linear
from e2v_cli.network.layout import Layout
from e2v_cli.network.packed import pack_weights
from e2v_cli.network.products import ProductsName

CPU = torch.device("cpu")


def make_network_config(**values: Any) -> NetworkConfig:
    config = make_config(**values)
    config["model_conf"]["norm_eps"] = float(config["model_conf"]["norm_eps"])
    return parse_config(config)


def make_network(tiles: CpuTiles = CPU_TILES, **values: Any) -> Emotion2vec:
    """Make a network of random weights that all affect the result."""
    torch.manual_seed(0)
    made = Emotion2vec(make_network_config(**values), 0, tiles).eval().requires_grad_(False)
    for name, weight in made.named_parameters():
        if name == "alibi.scale":
            weight.uniform_(-0.2, 1.5)
        elif weight.dim() > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.normal_(std=0.1).add_(name.endswith("weight"))
    return made


def encode(made: Emotion2vec, lengths: Sequence[int]) -> list[Tensor]:
    with torch.inference_mode():
        features: list[Tensor] = made([torch.from_numpy(waveform) for waveform in make_waveforms(lengths)])
    return features


LENGTHS = (400, 16_000, 719, 16_000, 401, 41_000)


@pytest.mark.parametrize("products", ["mkl", "onednn"], indirect=True)
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_weights_give_the_same_features(shape: str, products: ProductsName) -> None:
    made = make_network(**SHAPES[shape])
    before = encode(made, LENGTHS)
    made.pack(products)
    assert all(module.packed for module in made.modules() if isinstance(module, (_ConvBlock, _Linear)))
    # only the packed weights are used
    for module in made.modules():
        if isinstance(module, (_ConvBlock, _Linear)):
            module.weight.fill_(torch.nan)
    for one, other in zip(before, encode(made, LENGTHS), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def make_block(
    kernel: int,
    stride: int,
    channels_in: int,
    products: ProductsName,
    norm: nn.Module | None = None,
    channels: int = 24,
) -> _ConvBlock:
    """Make a convolution of random weights, packed for a library."""
    torch.manual_seed(0)
    layer = ConvLayer(channels, kernel, stride)
    block = _ConvBlock(channels_in, layer, norm or nn.Identity(), CPU_TILES.rows).requires_grad_(False)
    block.weight.normal_(std=(kernel * channels_in) ** -0.5)
    block.packed = pack_weights(block.factors(), products)
    return block


def convolve(block: _ConvBlock, x: Tensor) -> Tensor:
    """Convolve as PyTorch does, in float64, before norm and GELU."""
    return F.conv1d(x.T[None].double(), block.weight.transpose(1, 2).double(), stride=block.stride)[0].T


CONVOLUTIONS = [
    (3, 2, 20),
    (3, 2, 1),
    (2, 2, 20),
    (10, 5, 1),
    (12, 4, 1),
    (3, 1, 20),
    (5, 2, 20),
    (2, 3, 20),
    (1, 1, 20),
]
"""Kernel, stride, channels in."""


@pytest.mark.parametrize("steps", [1, 2, 3, 511, 512, 513, 1025])
@pytest.mark.parametrize(("kernel", "stride", "channels_in"), CONVOLUTIONS)
def test_convolution_is_exact(kernel: int, stride: int, channels_in: int, steps: int, products: ProductsName) -> None:
    block = make_block(kernel, stride, channels_in, products)
    for unused in {0, stride - 1}:
        x = torch.randn((steps - 1) * stride + kernel + unused, channels_in)
        kept = x.clone()
        out = block(x)
        assert out.shape == (steps, 24)
        torch.testing.assert_close(out.double(), F.gelu(convolve(block, x)), rtol=0, atol=1e-5)
        assert torch.equal(x, kept)


def test_paired_convolution_of_part_of_a_signal_is_exact(products: ProductsName) -> None:
    block = make_block(3, 2, 20, products)
    whole = torch.randn(20, 300)
    for x in (whole.T, whole.T[7:], whole.T.contiguous()[7:]):
        torch.testing.assert_close(block(x).double(), F.gelu(convolve(block, x)), rtol=0, atol=1e-5)


def test_paired_convolution_of_an_impulse_is_exact(products: ProductsName) -> None:
    """A signal with one nonzero sample shows the position of each tap."""
    block = make_block(3, 2, 5, products)
    for position in range(11):
        x = torch.zeros(11, 5)
        x[position, 2] = 1
        torch.testing.assert_close(block(x).double(), F.gelu(convolve(block, x)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("offset", [100.0, -100.0])
def test_offset_does_not_cost_precision(offset: float, products: ProductsName) -> None:
    """Paired products add and subtract rows first."""
    block = make_block(3, 2, 64, products)
    block.weight.sub_(block.weight.mean(dim=(1, 2), keepdim=True))  # so that the offset does not reach the output
    block.packed = pack_weights(block.factors(), products)
    x = torch.randn(601, 64) + offset
    expected = F.gelu(convolve(block, x))
    assert 1 < expected.abs().max() < 10
    torch.testing.assert_close(block(x).double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("steps", [2, 513, 1025])
@pytest.mark.parametrize("norm", [nn.LayerNorm(24), _ChannelNorm(24)], ids=["layer", "group"])
def test_convolution_with_norm_is_exact(norm: nn.Module, steps: int, products: ProductsName) -> None:
    block = make_block(3, 2, 20, products, norm)
    x = torch.randn(2 * steps + 1, 20)
    y = convolve(block, x)
    dim = 0 if isinstance(norm, _ChannelNorm) else 1
    expected = (y - y.mean(dim, keepdim=True)) / (y.var(dim, unbiased=False, keepdim=True) + 1e-5).sqrt()
    with torch.inference_mode():
        torch.testing.assert_close(block(x).double(), F.gelu(expected), rtol=0, atol=1e-4)


ALIBI = [
    "as published",
    "no ALiBi",
    "an ALiBi scale a layer and head",
    "an ALiBi scale a layer",
    "one ALiBi scale",
    "fewer heads with ALiBi than heads",
    "no extra tokens",
    "12 heads, no power of two",
]

FRAMES = {
    "equal": [20, 20, 20],
    "padded": [38, 40, 39, 40],
    "one": [30],
    "one token": [1],
    "several groups": [1, 3, 41, 40, 1, 150, 7, 151],
    "short groups": [1, 3, 9, 8, 1, 40, 7, 41],
    "long": [20, 300],
}
GROUPS = {"equal": 1, "padded": 1, "one": 1, "one token": 1, "several groups": 4, "short groups": 3, "long": 2}
"""Groups with ten extra tokens an utterance."""


class Attention:
    """Attention of utterances of random numbers, computed in every way."""

    def __init__(self, alibi: str, frames: str, cached_tokens: int = ALIBI_CACHED_TOKENS) -> None:
        torch.manual_seed(0)
        self.config = make_network_config(**SHAPES[alibi])
        lengths = [self.config.receptive_field + (count - 1) * self.config.hop for count in FRAMES[frames]]
        self.layout = Layout.of(lengths, self.config)
        self.counts = [utterance.num_tokens for utterance in self.layout.utterances]
        assert self.counts == sorted(count + self.config.num_extra_tokens for count in FRAMES[frames])
        self.heads, self.layers = self.config.num_heads, self.config.prenet_depth + self.config.depth
        self.alibi = Alibi(self.config, cached_tokens).requires_grad_(False) if self.config.num_alibi_heads else None
        if self.alibi is not None:
            self.alibi.scale.uniform_(-0.2, 1.5)
        self.qkv = [torch.randn(sum(self.counts), 3 * self.config.embed_dim) for _ in range(self.layers)]

    def plain(self) -> list[Tensor]:
        """Follow the formula, utterance by utterance, in float64."""
        return [
            torch.cat([self._attend(rows, layer) for rows in torch.split(qkv.double(), self.counts)])
            for layer, qkv in enumerate(self.qkv)
        ]

    def _attend(self, rows: Tensor, layer: int) -> Tensor:
        q, k, v = rows.view(len(rows), 3, self.heads, -1).permute(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
        if self.alibi is not None:
            positions = torch.arange(len(rows))
            distances = (positions[:, None] - positions).abs().double()
            distances[: self.config.num_extra_tokens] = 0
            distances[:, : self.config.num_extra_tokens] = 0
            scale = self.alibi.scale[layer if len(self.alibi.scale) > 1 else 0].clamp(min=0).flatten()
            slopes = torch.tensor(alibi_slopes(self.config.num_alibi_heads)) * scale
            scores[: len(slopes)] -= slopes[:, None, None] * distances
        attended: Tensor = scores.softmax(-1) @ v
        return attended.transpose(0, 1).flatten(1)

    def tiled(self, scores: int = CPU_TILE_SCORES, products: ProductsName = "torch") -> list[Tensor]:
        attend = TiledAttention(self.layout, self.heads, self.alibi, products, scores)
        return [attend(qkv, layer) for layer, qkv in enumerate(self.qkv)]

    def padded(self, scores: int = GPU_SCORES) -> list[Tensor]:
        attend = PaddedAttention(self.layout, self.heads, self.alibi, CPU, scores)
        return [attend(qkv, layer) for layer, qkv in enumerate(self.qkv)]


def check_all(attended: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(attended, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("alibi", ALIBI)
def test_tiled_and_padded_attention_match_the_formula(alibi: str, frames: str) -> None:
    attention = Attention(alibi, frames)
    tiled, padded = attention.tiled(), attention.padded()
    check_all(tiled, attention.plain())
    check_all(padded, tiled)


@pytest.mark.parametrize("scores", [1, 700, 3_000])
@pytest.mark.parametrize("frames", ["equal", "padded", "several groups"])
@pytest.mark.parametrize("alibi", ALIBI)
def test_padded_attention_in_blocks_matches_the_formula(
    alibi: str, frames: str, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = Attention(alibi, frames)
    expected = attention.plain()
    queries = []
    attend = F.scaled_dot_product_attention

    def note(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        queries.append(q.shape[2])
        return attend(q, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note)
    check_all(attention.padded(scores), expected)
    if scores == 1:
        assert set(queries) == {1}
    assert len(queries) > attention.layers * GROUPS[frames]


@pytest.mark.parametrize("cached", [0, 25, 4096])
@pytest.mark.parametrize("scores", [1, 100, 2_000])
@pytest.mark.parametrize("alibi", ALIBI)
def test_attention_in_small_tiles_matches_the_formula(alibi: str, scores: int, cached: int) -> None:
    attention = Attention(alibi, "short groups", cached)  # many small tiles are slow
    check_all(attention.tiled(scores), attention.plain())


@pytest.mark.parametrize("scores", [20_000, CPU_TILE_SCORES])
@pytest.mark.parametrize("alibi", ALIBI)
def test_attention_with_onednn_matches_the_formula(alibi: str, scores: int) -> None:
    attention = Attention(alibi, "long")
    assert attention.counts[0] < ONEDNN_TOKENS <= attention.counts[1]
    attended = attention.tiled(scores, "onednn")
    check_all(attended, attention.plain())
    assert not all(map(torch.equal, attended, attention.tiled(scores)))


@pytest.mark.parametrize("cached", [0, 25])
@pytest.mark.parametrize("scores", [1, 1 << 28])
@pytest.mark.parametrize("alibi", ALIBI)
def test_padded_attention_without_cached_bias_matches_the_formula(alibi: str, scores: int, cached: int) -> None:
    attention = Attention(alibi, "several groups", cached)
    check_all(attention.padded(scores), attention.plain())


def test_distances_of_some_queries_are_rows_of_all() -> None:
    """Whether all are cached, or only those rows are computed."""
    config = make_network_config(**SHAPES["as published"])
    expected = Alibi(config, 50).distances(slice(0, 50), 50)
    for cached in (0, 49, 50, 4096):
        alibi = Alibi(config, cached)
        for rows in (slice(3, 9), slice(5, 17), slice(40, 50)):
            assert torch.equal(alibi.distances(rows, 50), expected[rows])


@pytest.mark.parametrize("frames", FRAMES)
def test_number_of_groups_is_as_expected(frames: str) -> None:
    layout = Attention("as published", frames).layout
    groups = list(layout.group())
    assert len(groups) == GROUPS[frames]
    attend = PaddedAttention(layout, 4, None, CPU)
    is_padded = [group.positions is not None for group in attend.groups]
    assert is_padded == [len(set(group)) > 1 for group in groups]
    assert any(is_padded) == (frames in ("padded", "several groups", "short groups"))


@pytest.mark.parametrize("seed", range(20))
def test_groups_have_little_padding_and_keep_the_order(seed: int) -> None:
    config = make_network_config()
    generator = torch.Generator().manual_seed(seed)
    longest = 10 ** (1 + seed % 4)
    frames = torch.randint(1, longest, (60,), generator=generator).tolist()
    layout = Layout.of([config.receptive_field + (count - 1) * config.hop for count in frames], config)

    groups = list(layout.group())

    assert [count for group in groups for count in group] == sorted(count + config.num_extra_tokens for count in frames)
    for group, following in zip(groups, [*groups[1:], [10**9]], strict=True):
        assert len(group) * max(group) <= layouts.PADDING * sum(group)
        # one more would exceed the limit of padding
        assert (len(group) + 1) * following[0] > layouts.PADDING * (sum(group) + following[0])


def test_bfloat16_on_the_cpu_uses_padded_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_network()
    lengths = (16_000, 400, 16_000, 17_000, 40_000)
    expected = encode(made, lengths)

    monkeypatch.setattr(network, "TiledAttention", None)
    features = encode(made.lower(torch.bfloat16), lengths)

    for one, other in zip(features, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0.1)
        assert not torch.equal(one, other)


def test_bfloat16_convolution_uses_no_pairs() -> None:
    """Sums of taps, and differences of rows, would be rounded once more."""
    block = make_block(3, 2, 20, "torch")
    block.packed = ()
    x = torch.randn(101, 20)
    exact = F.gelu(convolve(block, x))
    out = block.to(torch.bfloat16)(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert len(block.factors()) == 2
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=0.1)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_sizes_of_tiles_do_not_matter(size: int, products: ProductsName) -> None:
    lengths = LENGTHS if size > 1 else [max(400, length // 10) for length in LENGTHS]  # tiles of one row are slow
    tiled, whole = make_network(CpuTiles(size, size, size)), make_network()
    tiled.pack(products)
    whole.pack(products)
    for one, other in zip(encode(tiled, lengths), encode(whole, lengths), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
