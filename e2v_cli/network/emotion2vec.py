"""The emotion2vec encoder and its head, exact over utterances of any lengths at once.

The network is that of emotion2vec (Ma et al., 2023, https://arxiv.org/abs/2312.15185), a data2vec 2.0
audio model; the reference implementation is ``funasr/models/emotion2vec`` in FunASR, which encodes one
utterance at a time. This one encodes many, and computes no padding:

1.  Every waveform is normalised over its own samples.
2.  The waveforms are laid end to end in one stream, each starting on a multiple of the hop, so that the
    strided convolutions of the local encoder see every utterance at its own phase. The few frames that
    straddle two utterances are dropped. A strided convolution without padding is a matrix product over
    (overlapping) rows of a channels-last signal, and exact in chunks, which keeps it in the cache.
3.  Frames are *tokens* from here on: one row each, of all utterances, and every linear layer is one matrix
    product over all of them.
4.  The positional convolutions reach into neighbours, so before each of them the tokens are written into a
    buffer with rows of zeros between the utterances that nothing else ever writes to.
5.  Attention is per utterance, in tiles that stay in the cache; on a GPU, utterances of about the same length go
    together, and the padding of the shorter ones is masked.

On a CPU one thread does this best in pieces whose intermediate results stay in its caches, and with weights that are
packed once for the library that is fastest there (``packed.py``).

The module knows tensors only: no files, no names of models, no labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_cli.network.attention import Alibi, PaddedAttention, TiledAttention
from e2v_cli.network.config import ConvLayer, NetworkConfig
from e2v_cli.network.layout import Layout, to_device
from e2v_cli.network.packed import Product, pack_weights
from e2v_cli.network.products import ProductsName

GPU_CHUNK_FRAMES = 2500
"""Output frames (20 ms each) of one chunk of the local encoder on a GPU: 50 s of audio, 330 MB of float32 after the
first convolution."""

Taps = Mapping[int, Callable[[list[Tensor]], None]]
"""Functions to call with layers, by layer number from 1; each gets the layer's frame features of every utterance."""

NO_TAPS: Taps = MappingProxyType({})

_NORM_EPS = 1e-5
"""Constant that ``torch.nn.functional.layer_norm`` adds to the variance."""


@dataclass(frozen=True)
class CpuTiles:
    """Amounts that a CPU thread computes at a time, so that intermediate results stay in its caches."""

    chunk_frames: int = 128
    """Output frames of one chunk of the local encoder."""
    rows: int = 512
    """Rows of a convolution's output that go through its norm and GELU."""
    tokens: int = 512
    """Approximate number of tokens that go through a block's MLP: products are fast for so many rows."""


CPU_TILES = CpuTiles()


class Emotion2vec(nn.Module):
    """The encoder (local encoder, positional encoder, transformer) and, where the model has one, its head."""

    def __init__(self, config: NetworkConfig, num_classes: int, tiles: CpuTiles = CPU_TILES) -> None:
        """Make the network of a config; ``num_classes`` is 0 for a model without a head."""
        super().__init__()
        self.config, self.tiles = config, tiles
        self.products: ProductsName = "torch"
        """Name of the library that the encoder's weights are packed for."""
        in_channels = [1] + [layer.channels for layer in config.conv_layers[:-1]]
        self.local_encoder = nn.ModuleList(
            _ConvBlock(channels_in, layer, _make_conv_norm(config, index), tiles.rows)
            for index, (channels_in, layer) in enumerate(zip(in_channels, config.conv_layers, strict=True))
        )
        self.feature_norm = nn.LayerNorm(config.conv_layers[-1].channels)
        self.feature_proj = _Linear(config.conv_layers[-1].channels, config.embed_dim)
        self.positional_norm = nn.LayerNorm(config.embed_dim) if config.conv_pos_pre_ln else None
        self.positional_encoder = nn.ModuleList(_PositionalConv(config) for _ in range(config.conv_pos_depth))
        self.extra_tokens = (
            nn.Parameter(torch.zeros(config.num_extra_tokens, config.embed_dim)) if config.num_extra_tokens else None
        )
        self.alibi = Alibi(config) if config.num_alibi_heads else None
        # Upstream norms the tokens before the first block of a post-norm model, and after the last of a pre-norm one.
        self.norm = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.blocks = nn.ModuleList(_Block(config, tiles.tokens) for _ in range(config.num_layers))
        self.head = nn.Linear(config.embed_dim, num_classes) if num_classes else None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.feature_proj.weight.device

    def lower(self, dtype: torch.dtype) -> Emotion2vec:
        """Convert the encoder to a lower precision; waveforms are normalised, and the head applied, in float32."""
        for name, module in self.named_children():
            if name not in ("alibi", "head"):
                module.to(dtype)
        if self.extra_tokens is not None:
            self.extra_tokens.data = self.extra_tokens.to(dtype)
        return self

    def pack(self, products: ProductsName) -> Emotion2vec:
        """Pack the weights of an encoder in float32 on a CPU, for the products of a library."""
        self.products = products
        modules = [module for module in self.modules() if isinstance(module, (_ConvBlock, _Linear))]
        rest = iter(pack_weights([factor for module in modules for factor in module.factors()], products))
        for module in modules:
            module.packed = list(islice(rest, len(module.factors())))
        return self

    def forward(self, waveforms: Sequence[Tensor], taps: Taps = NO_TAPS) -> list[Tensor]:
        """Encode utterances, each exactly as if it were alone.

        Args:
            waveforms: float32 mono waveforms at 16 kHz, each (samples,), of any lengths and in any order.
            taps: called with what their layers give, in the form of the result, as soon as it is computed.

        Returns:
            The last layer's frame features of each, (frames, embed_dim), float32, in the same order.

        Raises:
            UtteranceTooShortError: one has fewer samples than ``config.receptive_field``.
        """
        waveforms = torch.split(
            to_device(self.device, torch.cat(list(waveforms))), [len(waveform) for waveform in waveforms]
        )
        if self.config.normalize:
            waveforms = [F.layer_norm(waveform, waveform.shape) for waveform in waveforms]
        return self.encode(waveforms, taps)

    def normalize(self, samples: Tensor, mean: float, variance: float) -> Tensor:
        """Normalise a part of a waveform, (samples,), by the moments of the whole, as ``forward`` does."""
        samples = to_device(self.device, samples)
        return (samples - mean) / math.sqrt(variance + _NORM_EPS) if self.config.normalize else samples

    def encode(self, waveforms: Sequence[Tensor], taps: Taps = NO_TAPS) -> list[Tensor]:
        """Encode waveforms that are normalised already, as ``forward`` does: for windows of a longer utterance."""
        layout = Layout.of([len(waveform) for waveform in waveforms], self.config)
        stream = torch.zeros(layout.num_samples, dtype=self.feature_proj.weight.dtype, device=self.device)
        for utterance in layout.utterances:
            waveform = waveforms[utterance.index]
            stream[utterance.first_sample : utterance.first_sample + len(waveform)] = waveform

        local = self._encode_locally(stream, layout)
        x = self.feature_proj(self.feature_norm(local))
        x = x + self._encode_positions(x, layout)
        x = self._with_extra_tokens(x, layout)
        if not self.config.layer_norm_first:
            x = self.norm(x)
        attend = (
            TiledAttention(layout, self.config.num_heads, self.alibi, self.products)
            if _is_float32_on_cpu(x)
            else PaddedAttention(layout, self.config.num_heads, self.alibi, x.device)
        )
        for index, block in enumerate(self.blocks):
            x = block(x, partial(attend, layer=index))
            if index + 1 < len(self.blocks) and index + 1 in taps:
                taps[index + 1](self._split(x, layout))
        if self.config.layer_norm_first:
            x = self.norm(x)
        features = self._split(x, layout)
        if len(self.blocks) in taps:
            taps[len(self.blocks)](features)
        return features

    def logits(self, pooled: Tensor) -> Tensor:
        """Apply the head to the mean over frames: (utterances, embed_dim) → (utterances, num_classes)."""
        if self.head is None:
            raise ValueError("this network has no head")
        logits: Tensor = self.head(pooled)
        return logits

    def _encode_locally(self, stream: Tensor, layout: Layout) -> Tensor:
        """Run the convolution stack over the stream: (samples,) → (frames of all utterances, channels)."""
        if self.config.conv_norm == "group":  # statistics over an utterance: it can't be cut
            return torch.cat(
                [self._run_convolutions(stream[u.first_sample :][: u.num_samples]) for u in layout.utterances]
            )
        hop, field = self.config.hop, self.config.receptive_field
        num_frames = (len(stream) - field) // hop + 1
        chunk = self.tiles.chunk_frames if stream.device.type == "cpu" else GPU_CHUNK_FRAMES
        frames = torch.cat(
            [
                self._run_convolutions(stream[first * hop : (min(first + chunk, num_frames) - 1) * hop + field])
                for first in range(0, num_frames, chunk)
            ]
        )
        return frames[layout.stream_rows(stream.device)]

    def _run_convolutions(self, samples: Tensor) -> Tensor:
        x = samples[:, None]
        for layer in self.local_encoder:
            x = layer(x)
        return x

    def _encode_positions(self, x: Tensor, layout: Layout) -> Tensor:
        """Run the positional convolutions over tokens (rows, embed_dim), each utterance between zeros."""
        if self.positional_norm is not None:
            x = self.positional_norm(x)
        rows = layout.gapped_rows(x.device)
        gapped = x.new_zeros(layout.num_gapped_rows, x.shape[1])
        for conv in self.positional_encoder:
            gapped[rows] = x
            x = conv(gapped)[rows]
            x = F.gelu(F.layer_norm(x, x.shape[1:]))
        return x

    def _with_extra_tokens(self, x: Tensor, layout: Layout) -> Tensor:
        if self.extra_tokens is None:
            return x
        utterances = torch.split(x, [utterance.num_frames for utterance in layout.utterances])
        return torch.cat([part for utterance in utterances for part in (self.extra_tokens, utterance)])

    def _split(self, x: Tensor, layout: Layout) -> list[Tensor]:
        """Split tokens into the frames of each waveform, (frames, embed_dim), float32, without the extra tokens."""
        tokens = torch.split(x.float(), [utterance.num_tokens for utterance in layout.utterances])
        features = {
            utterance.index: part[self.config.num_extra_tokens :]
            for utterance, part in zip(layout.utterances, tokens, strict=True)
        }
        return [features[index] for index in range(len(tokens))]


class _Linear(nn.Linear):
    """A linear layer whose weight may be packed: (rows, channels_in) → (rows, channels_out)."""

    packed: Sequence[Product] = ()

    def factors(self) -> list[Tensor]:
        """Return the matrices that ``packed`` holds, each (channels_out, channels_in)."""
        return [self.weight]

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """Apply the layer, and GELU to its result."""
        (product,) = self.packed or pack_weights(self.factors(), "torch")
        return product(x, self.bias, gelu=gelu)


class _ConvBlock(nn.Module):
    """A strided convolution without padding or bias, its norm and GELU, channels last.

    (time, channels_in) → (floor((time - kernel) / stride) + 1, channels).
    """

    packed: Sequence[Product] = ()

    def __init__(self, channels_in: int, layer: ConvLayer, norm: nn.Module, tile_rows: int) -> None:
        super().__init__()
        self.tile_rows = tile_rows
        self.kernel, self.stride = layer.kernel, layer.stride
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.kernel, channels_in))
        self.norm = norm

    def factors(self) -> list[Tensor]:
        """Return the matrices of its products, which ``packed`` holds, each (channels, taps · channels_in)."""
        if self._in_pairs:
            first, second, third = self.weight.unbind(1)
            return [first + third, torch.cat([first, second], 1), torch.cat([third, second], 1)]
        return [self.weight[:, taps].flatten(1) for taps in self._taps]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        time = (len(x) - self.kernel) // self.stride + 1
        products = self.packed or pack_weights(self.factors(), "torch")
        y = x.new_empty(time, len(self.weight))
        # Statistics over time need all steps at once.
        tile = self.tile_rows if x.device.type == "cpu" and not isinstance(self.norm, _ChannelNorm) else time
        for first, out in zip(range(0, time, tile), torch.split(y, tile), strict=True):
            steps = self._convolve(x[first * self.stride :], len(out), products)
            torch.ops.aten.gelu.out(self.norm(steps), out=out)
        return y

    @property
    def _channels_in(self) -> int:
        return self.weight.shape[2]

    @property
    def _in_pairs(self) -> bool:
        return (self.kernel, self.stride) == (3, 2) and self._channels_in > 1 and _is_float32_on_cpu(self.weight)

    @property
    def _taps(self) -> list[slice]:
        """The taps of each product of a convolution that is not computed in pairs."""
        # Rows t · stride … t · stride + taps - 1 of a contiguous signal are one row of a matrix without a copy, as
        # long as taps ≤ stride (BLAS wants rows that don't overlap). So a kernel of 3 with stride 2 is two products.
        count = self.kernel if self._channels_in == 1 else self.stride
        return [slice(tap, min(tap + count, self.kernel)) for tap in range(0, self.kernel, count)]

    def _convolve(self, x: Tensor, steps: int, products: Sequence[Product]) -> Tensor:
        """Compute the first steps of the convolution: (steps, channels)."""
        if self._in_pairs:
            return self._convolve_pairs(x, steps, products)
        step = self.stride * self._channels_in
        parts = []
        for taps, product in zip(self._taps, products, strict=True):
            first, end = taps.start * self._channels_in, taps.stop * self._channels_in
            rows = x.as_strided((steps, end - first), (step, 1), x.storage_offset() + first)
            parts.append(product(rows.contiguous() if end - first > step else rows))
        out, *others = parts
        for part in others:
            out += part
        return out

    def _convolve_pairs(self, x: Tensor, steps: int, products: Sequence[Product]) -> Tensor:
        """Compute the first steps of a convolution of kernel 3 and stride 2, two of them by five products.

        With the taps a, b, c the first two steps are

            a·x0 + b·x1 + c·x2  =  (a + c)·x2 + a·(x0 - x2) + b·x1
            a·x2 + b·x3 + c·x4  =  (a + c)·x2 + c·(x4 - x2) + b·x3

        which is F(2, 2) of Winograd (1980) over the even rows.
        """
        pairs, channels = (steps + 1) // 2, self._channels_in
        if steps % 2:  # the last step has a partner that is dropped
            x = torch.cat([x[: 2 * steps + 1], x.new_zeros(2, channels)])
        even, odd = x[: 4 * pairs + 1 : 2], x[1 : 4 * pairs : 2]
        middle = even[1::2].contiguous()
        rows = x.new_empty(2, pairs, 2 * channels)
        torch.sub(even[0:-1:2], middle, out=rows[0, :, :channels])
        torch.sub(even[2::2], middle, out=rows[1, :, :channels])
        rows[:, :, channels:] = odd.view(pairs, 2, channels).transpose(0, 1)
        both, first, second = products
        shared = both(middle)
        out = x.new_empty(pairs, 2, len(self.weight))
        torch.add(first(rows[0]), shared, out=out[:, 0])
        torch.add(second(rows[1]), shared, out=out[:, 1])
        return out.flatten(0, 1)[:steps]


def _is_float32_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def _make_conv_norm(config: NetworkConfig, index: int) -> nn.Module:
    """Make the norm after convolution ``index``."""
    channels = config.conv_layers[index].channels
    if config.conv_norm == "layer":
        return nn.LayerNorm(channels)
    return _ChannelNorm(channels) if index == 0 else nn.Identity()


class _ChannelNorm(nn.GroupNorm):
    """GroupNorm with one group per channel, channels last: statistics of a channel over the time of one utterance."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.T[None])[0].T


class _PositionalConv(nn.Conv1d):
    """A grouped convolution over tokens, (rows, embed_dim) → (rows, embed_dim), channels last."""

    def __init__(self, config: NetworkConfig) -> None:
        kernel, groups = config.conv_pos_kernel, config.conv_pos_groups
        super().__init__(config.embed_dim, config.embed_dim, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        # PyTorch has a channels-last layout for images only, so this is one of one row, and its kernels have it, too.
        image, kernels = x.T[None, :, None], self.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        padding = (0, self.kernel_size[0] // 2)
        return F.conv2d(image, kernels, self.bias, padding=padding, groups=self.groups)[0, :, 0].T


class _Block(nn.Module):
    """A transformer block over the tokens of all utterances, upstream's ``AltBlock``: (tokens, dim) → (tokens, dim)."""

    def __init__(self, config: NetworkConfig, tile_tokens: int) -> None:
        super().__init__()
        self.tile_tokens = tile_tokens
        self.layer_norm_first = config.layer_norm_first
        self.norm1 = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.attention = _Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.fc1 = _Linear(config.embed_dim, config.mlp_dim)
        self.fc2 = _Linear(config.mlp_dim, config.embed_dim)

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Run the block; ``attend`` is the attention of all utterances: (tokens, 3 · dim) → (tokens, dim)."""
        attended = attend(self.attention.qkv(self.norm1(x) if self.layer_norm_first else x))
        tiles = max(1, round(len(x) / self.tile_tokens)) if x.device.type == "cpu" else 1
        parts = zip(torch.chunk(x, tiles), torch.chunk(attended, tiles), strict=True)
        return torch.cat([self._finish(*both) for both in parts])

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Compute the rest of the block, after attention, for some of the tokens."""
        x = self.attention.proj(attended).add_(x)
        if self.layer_norm_first:
            x = self.fc2(self.fc1(self.norm2(x), gelu=True))
            # Upstream adds the output of the MLP to itself, not to its input, and models were trained so.
            return x + x
        x = self.norm1(x)
        normed: Tensor = self.norm2(self.fc2(self.fc1(x, gelu=True)).add_(x))
        return normed


class _Attention(nn.Module):
    """The weights of multi-head self-attention."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.qkv = _Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = _Linear(config.embed_dim, config.embed_dim)
