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
    together, and what is added to the shorter ones is masked.

On a CPU one thread does this best in pieces whose intermediate results stay in its L2 cache, and with weights that are
packed for it once.

The module knows tensors only: no files, no names of models, no labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_cli.mkl import PackedWeight, pack_weights
from e2v_cli.model_config import ConvLayer, NetworkConfig

CPU_CHUNK_FRAMES = 128
"""Output frames (20 ms each) of one chunk of the local encoder on CPU."""

GPU_CHUNK_FRAMES = 2500
"""The same on a GPU: 50 s of audio, for which the first convolution gives 330 MB of float32."""

CPU_TILE_ROWS = 512
"""Rows of a convolution's output that go through its norm and GELU on CPU while they are in the L2 cache (1 MB)."""

CPU_TILE_TOKENS = 256
"""Tokens that go through a block's MLP at once on CPU: the number of rows for which MKL is fastest."""

CPU_TILE_SCORES = 1 << 18
"""Attention scores that are computed, and used, at once on CPU (1 MB)."""

GPU_SCORES = 1 << 28
"""Attention scores of utterances that go together; their bias has as many elements (1 GB of float32)."""

PADDING = 1.15
"""Tokens with padding that attention may see on a GPU, for each one without."""

ALIBI_CACHED_TOKENS = 4096
"""Up to this many tokens (80 s) their distances are kept (64 MB); of longer utterances, those of a few rows at a time
are made, so that memory grows with the length of an utterance and not with its square."""

_NORM_EPS = 1e-5
"""What ``torch.nn.functional.layer_norm`` adds to the variance."""


class UtteranceTooShortError(ValueError):
    """A waveform has fewer samples than the receptive field of one frame."""


class Emotion2vec(nn.Module):
    """The encoder (local encoder, positional encoder, transformer) and, where the model has one, its head."""

    def __init__(self, config: NetworkConfig, num_classes: int) -> None:
        """Make the network of a config; ``num_classes`` is 0 for a model without a head."""
        super().__init__()
        self.config = config
        in_channels = [1] + [layer.channels for layer in config.conv_layers[:-1]]
        self.local_encoder = nn.ModuleList(
            _ConvBlock(channels_in, layer, _make_conv_norm(config, index))
            for index, (channels_in, layer) in enumerate(zip(in_channels, config.conv_layers, strict=True))
        )
        self.feature_norm = nn.LayerNorm(config.conv_layers[-1].channels)
        self.feature_proj = _Linear(config.conv_layers[-1].channels, config.embed_dim)
        self.positional_norm = nn.LayerNorm(config.embed_dim) if config.conv_pos_pre_ln else None
        self.positional_encoder = nn.ModuleList(_PositionalConv(config) for _ in range(config.conv_pos_depth))
        self.extra_tokens = (
            nn.Parameter(torch.zeros(config.num_extra_tokens, config.embed_dim)) if config.num_extra_tokens else None
        )
        self.alibi = _Alibi(config) if config.num_alibi_heads else None
        # Upstream norms the tokens before the first block of a post-norm model, and after the last of a pre-norm one.
        self.norm = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.prenet_depth + config.depth))
        self.head = nn.Linear(config.embed_dim, num_classes) if num_classes else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.feature_proj.weight.device

    def lower(self, dtype: torch.dtype) -> Emotion2vec:
        """Let the encoder compute in a lower precision; waveforms are normalised, and the head applied, in float32."""
        for name, module in self.named_children():
            if name not in ("alibi", "head"):
                module.to(dtype)
        if self.extra_tokens is not None:
            self.extra_tokens.data = self.extra_tokens.to(dtype)
        return self

    def pack(self) -> Emotion2vec:
        """Pack the weights of an encoder in float32 on a CPU, once and for all."""
        modules = [module for module in self.modules() if isinstance(module, (_ConvBlock, _Linear))]
        packed = pack_weights([factor for module in modules for factor in module.factors()])
        if packed is not None:
            rest = iter(packed)
            for module in modules:
                module.packed = list(islice(rest, len(module.factors())))
        return self

    def forward(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Encode utterances, each exactly as if it were alone.

        Args:
            waveforms: float32 mono waveforms at 16 kHz, each (samples,), of any lengths and in any order.

        Returns:
            The last layer's frame features of each, (frames, embed_dim), float32, in the same order.

        Raises:
            UtteranceTooShortError: one has fewer samples than ``config.receptive_field``.
        """
        waveforms = torch.split(_to(self.device, torch.cat(list(waveforms))), [len(waveform) for waveform in waveforms])
        if self.config.normalize:
            waveforms = [F.layer_norm(waveform, waveform.shape) for waveform in waveforms]
        return self.encode(waveforms)

    def normalize(self, samples: Tensor, mean: float, variance: float) -> Tensor:
        """Normalise a part of a waveform, (samples,), by the moments of the whole, as ``forward`` does."""
        samples = _to(self.device, samples)
        return (samples - mean) / math.sqrt(variance + _NORM_EPS) if self.config.normalize else samples

    def encode(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Encode waveforms that are normalised already, as ``forward`` does: for windows of a longer utterance."""
        layout = _Layout.of([len(waveform) for waveform in waveforms], self.config)
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
            _TiledAttention(layout, self.config.num_heads, self.alibi)
            if _is_float32_on_cpu(x)
            else _PaddedAttention(layout, self.config.num_heads, self.alibi, x.device)
        )
        for index, block in enumerate(self.blocks):
            x = block(x, partial(attend, layer=index))
        if self.config.layer_norm_first:
            x = self.norm(x)

        tokens = torch.split(x.float(), [utterance.num_tokens for utterance in layout.utterances])
        features = {
            utterance.index: part[self.config.num_extra_tokens :]
            for utterance, part in zip(layout.utterances, tokens, strict=True)
        }
        return [features[index] for index in range(len(waveforms))]

    def logits(self, pooled: Tensor) -> Tensor:
        """Apply the head to the mean over frames: (utterances, embed_dim) → (utterances, num_classes)."""
        if self.head is None:
            raise ValueError("this network has no head")
        logits: Tensor = self.head(pooled)
        return logits

    def _encode_locally(self, stream: Tensor, layout: _Layout) -> Tensor:
        """Run the convolution stack over the stream: (samples,) → (frames of all utterances, channels)."""
        if self.config.conv_norm == "group":  # statistics over an utterance: it can't be cut
            return torch.cat(
                [self._run_convolutions(stream[u.first_sample :][: u.num_samples]) for u in layout.utterances]
            )
        hop, field = self.config.hop, self.config.receptive_field
        num_frames = (len(stream) - field) // hop + 1
        chunk = CPU_CHUNK_FRAMES if stream.device.type == "cpu" else GPU_CHUNK_FRAMES
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

    def _encode_positions(self, x: Tensor, layout: _Layout) -> Tensor:
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

    def _with_extra_tokens(self, x: Tensor, layout: _Layout) -> Tensor:
        if self.extra_tokens is None:
            return x
        utterances = torch.split(x, [utterance.num_frames for utterance in layout.utterances])
        return torch.cat([part for utterance in utterances for part in (self.extra_tokens, utterance)])


class _Linear(nn.Linear):
    """A linear layer whose weight may be packed: (rows, channels_in) → (rows, channels_out)."""

    packed: Sequence[PackedWeight] = ()

    def factors(self) -> list[Tensor]:
        """What ``packed`` holds, each (channels_out, channels_in)."""
        return [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.write(x, x.new_empty(len(x), self.out_features)) if self.packed else super().forward(x)

    def write(self, x: Tensor, out: Tensor) -> Tensor:
        """Apply the layer, and have the result written to ``out``."""
        if not self.packed:
            return torch.addmm(self.bias, x, self.weight.T, out=out)
        self.packed[0].multiply(x, out.copy_(self.bias), add=True)
        return out

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Apply the layer, and add the result to what has its shape."""
        if not self.packed:
            return residual + super().forward(x)
        out = residual + self.bias
        self.packed[0].multiply(x, out, add=True)
        return out


class _ConvBlock(nn.Module):
    """A strided convolution without padding or bias, its norm and GELU, channels last.

    (time, channels_in) → (floor((time - kernel) / stride) + 1, channels).
    """

    packed: Sequence[PackedWeight] = ()

    def __init__(self, channels_in: int, layer: ConvLayer, norm: nn.Module) -> None:
        super().__init__()
        self.kernel, self.stride = layer.kernel, layer.stride
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.kernel, channels_in))
        self.norm = norm

    def factors(self) -> list[Tensor]:
        """What its products multiply by, and ``packed`` holds, each (channels, taps · channels_in)."""
        if self._in_pairs:
            first, second, third = self.weight.unbind(1)
            return [first, second, third, first + third]
        taps = self.kernel if self._channels_in == 1 else self.stride
        return [self.weight[:, tap : tap + taps].flatten(1) for tap in range(0, self.kernel, taps)]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        time = (len(x) - self.kernel) // self.stride + 1
        factors = self.packed or self.factors()
        y = x.new_empty(time, len(self.weight))
        # Statistics over time can't be taken of a part of it.
        tile = CPU_TILE_ROWS if x.device.type == "cpu" and not isinstance(self.norm, _ChannelNorm) else time
        for first, out in zip(range(0, time, tile), torch.split(y, tile), strict=True):
            self._convolve(x[first * self.stride :], out, factors)
            torch.ops.aten.gelu.out(self.norm(out), out=out)
        return y

    @property
    def _channels_in(self) -> int:
        return self.weight.shape[2]

    @property
    def _in_pairs(self) -> bool:
        return (self.kernel, self.stride) == (3, 2) and self._channels_in > 1 and _is_float32_on_cpu(self.weight)

    def _convolve(self, x: Tensor, out: Tensor, factors: Sequence[Tensor | PackedWeight]) -> None:
        """Make so many steps of the convolution as ``out`` has rows."""
        if self._in_pairs:
            even = len(out) // 2 * 2
            self._convolve_pairs(x, out[:even], factors)
            x, out = x[even * self.stride :], out[even:]  # there may be one left
        # Rows t · stride … t · stride + taps - 1 of a contiguous signal are one row of a matrix without a copy, as
        # long as taps ≤ stride (BLAS wants rows that don't overlap). So a kernel of 3 with stride 2 is two products.
        taps = factors[0].shape[1] // self._channels_in
        for tap, factor in zip(range(0, self.kernel, taps), factors, strict=False):
            rows = self._rows(x, tap, factor.shape[1], len(out))
            _multiply(rows.contiguous() if taps > self.stride else rows, factor, out, add=tap > 0)

    def _convolve_pairs(self, x: Tensor, out: Tensor, factors: Sequence[Tensor | PackedWeight]) -> None:
        """Make an even number of steps of a convolution of kernel 3 and stride 2, two of them by five products.

        With the taps a, b, c the first two steps are

            a·x0 + b·x1 + c·x2  =  (a + c)·x2 + a·(x0 - x2) + b·x1
            a·x2 + b·x3 + c·x4  =  (a + c)·x2 + c·(x4 - x2) + b·x3

        which is F(2, 2) of Winograd (1980) over the even rows.
        """
        first, second, third, sum_of_outer = factors
        pairs = len(out) // 2
        steps = out.view(pairs, 2, out.shape[1])
        even = self._rows(x, 0, self._channels_in, len(out) + 1)
        middle = even[1::2]
        first_steps, second_steps = steps.unbind(1)
        _multiply(middle, sum_of_outer, first_steps, add=False)
        second_steps.copy_(first_steps)
        _multiply(even[0:-1:2] - middle, first, first_steps, add=True)
        _multiply(even[2::2] - middle, third, second_steps, add=True)
        _multiply(self._rows(x, 1, self._channels_in, len(out)), second, out, add=True)

    def _rows(self, x: Tensor, first: int, size: int, steps: int) -> Tensor:
        """What taps from ``first`` on see at every step: (steps, taps · channels_in)."""
        channels_in = self._channels_in
        return x.as_strided((steps, size), (self.stride * channels_in, 1), x.storage_offset() + first * channels_in)


def _multiply(x: Tensor, factor: Tensor | PackedWeight, out: Tensor, *, add: bool) -> None:
    """Multiply ``x @ factor.T`` into ``out``, or add it there."""
    if isinstance(factor, PackedWeight):
        factor.multiply(x, out, add=add)
    elif add:
        out.addmm_(x, factor.T)
    else:
        torch.mm(x, factor.T, out=out)


def _is_float32_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def _make_conv_norm(config: NetworkConfig, index: int) -> nn.Module:
    """Make the norm behind convolution ``index``."""
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
        # That channels stand last is known for images only: one of one row. So its kernels must stand, too.
        image, kernels = x.T[None, :, None], self.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        padding = (0, self.kernel_size[0] // 2)
        return F.conv2d(image, kernels, self.bias, padding=padding, groups=self.groups)[0, :, 0].T


class _Block(nn.Module):
    """A transformer block over the tokens of all utterances, upstream's ``AltBlock``: (tokens, dim) → (tokens, dim)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layer_norm_first = config.layer_norm_first
        self.norm1 = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.attention = _Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.fc1 = _Linear(config.embed_dim, config.mlp_dim)
        self.fc2 = _Linear(config.mlp_dim, config.embed_dim)

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Run the block; ``attend`` is the attention of all utterances: (tokens, 3 · dim) → (tokens, dim)."""
        tile = CPU_TILE_TOKENS if x.device.type == "cpu" else len(x)
        parts = torch.split(x, tile)
        qkv = x.new_empty(len(x), self.attention.qkv.out_features)
        for part, out in zip(parts, torch.split(qkv, tile), strict=True):
            self.attention.qkv.write(self.norm1(part) if self.layer_norm_first else part, out)
        attended = torch.split(attend(qkv), tile)
        return torch.cat([self._finish(*both) for both in zip(parts, attended, strict=True)])

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Do with some of the tokens what follows attention."""
        x = self.attention.proj.add(attended, x)
        if self.layer_norm_first:
            x = self.fc2(self._hidden(self.norm2(x)))
            # Upstream adds the output of the MLP to itself, not to its input, and models were trained so.
            return x + x
        x = self.norm1(x)
        normed: Tensor = self.norm2(self.fc2.add(self._hidden(x), x))
        return normed

    def _hidden(self, x: Tensor) -> Tensor:
        """Run the first half of the MLP: (rows, dim) → (rows, mlp_dim)."""
        hidden: Tensor = self.fc1(x)
        torch.ops.aten.gelu.out(hidden, out=hidden)
        return hidden


class _Attention(nn.Module):
    """The weights of multi-head self-attention."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.qkv = _Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = _Linear(config.embed_dim, config.embed_dim)


class _TiledAttention:
    """Attention of utterances on a CPU, some heads, or some queries of one, at a time: scores stay in the cache."""

    def __init__(self, layout: _Layout, num_heads: int, alibi: _Alibi | None) -> None:
        self.counts = [utterance.num_tokens for utterance in layout.utterances]
        self.num_heads = num_heads
        self.alibi = alibi

    def __call__(self, qkv: Tensor, layer: int) -> Tensor:
        """Attend in a layer: (tokens of all utterances, 3 · dim) → (tokens, dim)."""
        slopes = self.alibi.slopes(layer) if self.alibi is not None else None
        attended = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        for rows, out in zip(torch.split(qkv, self.counts), torch.split(attended, self.counts), strict=True):
            self._attend(rows, out, slopes)
        return attended

    def _attend(self, rows: Tensor, out: Tensor, slopes: Tensor | None) -> None:
        tokens = len(rows)
        # Copied, since products are faster where rows of a head are neighbours: each (heads, tokens, head_dim).
        q, k, v = rows.view(tokens, 3, self.num_heads, -1).permute(1, 2, 0, 3).contiguous()
        attended, scale = torch.empty_like(q), q.shape[2] ** -0.5
        num_queries = min(tokens, max(1, CPU_TILE_SCORES // tokens))
        num_heads = max(1, CPU_TILE_SCORES // (num_queries * tokens))
        for head in range(0, self.num_heads, num_heads):
            heads = slice(head, head + num_heads)
            for query in range(0, tokens, num_queries):
                queries = slice(query, min(query + num_queries, tokens))
                scores = torch.baddbmm(q.new_empty(()), q[heads, queries], k[heads].mT, beta=0, alpha=scale)
                if self.alibi is not None and slopes is not None:
                    scores.addcmul_(self.alibi.distances(queries, tokens), slopes[heads], value=-1)
                torch.softmax(scores, -1, out=scores)
                torch.bmm(scores, v[heads], out=attended[heads, queries])
        out.view(tokens, self.num_heads, -1).copy_(attended.transpose(0, 1))


class _PaddedAttention:
    """Attention of utterances on a GPU: those of about the same length go together, what is added is masked."""

    def __init__(self, layout: _Layout, num_heads: int, alibi: _Alibi | None, device: torch.device) -> None:
        self.groups = [_Group.of(counts, device) for counts in layout.group()]
        self.num_heads = num_heads
        self.alibi = alibi
        self._masks: dict[int, Tensor | None] = {}

    def __call__(self, qkv: Tensor, layer: int) -> Tensor:
        """Attend in a layer: (tokens of all utterances, 3 · dim) → (tokens, dim)."""
        if self.alibi is not None and not self.alibi.is_same_in_all_layers:
            self._masks.clear()
        parts = torch.split(qkv, [sum(group.counts) for group in self.groups])
        return torch.cat([self._attend(rows, number, layer) for number, rows in enumerate(parts)])

    def _attend(self, rows: Tensor, number: int, layer: int) -> Tensor:
        group = self.groups[number]
        count, longest = len(group.counts), group.longest
        padded = rows
        if group.places is not None:
            padded = rows.new_zeros(count * longest, rows.shape[1]).index_copy_(0, group.places, rows)
        # (3, utterances, heads, tokens, head_dim): views, no copies
        q, k, v = padded.view(count, longest, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        block = max(1, GPU_SCORES // (count * self.num_heads * longest))
        if block >= longest:
            if number not in self._masks:
                self._masks[number] = self._make_mask(group, layer, slice(0, longest), qkv=rows)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._masks[number])
        else:
            parts = [
                F.scaled_dot_product_attention(
                    queries, k, v, attn_mask=self._make_mask(group, layer, slice(first, first + queries.shape[2]), rows)
                )
                for first, queries in zip(range(0, longest, block), torch.split(q, block, dim=2), strict=True)
            ]
            out = torch.cat(parts, dim=2)
        attended = out.transpose(1, 2).reshape(count * longest, -1)
        return attended if group.places is None else attended.index_select(0, group.places)

    def _make_mask(self, group: _Group, layer: int, queries: slice, qkv: Tensor) -> Tensor | None:
        """Make what is added to scores: (utterances or 1, heads or 1, queries or 1, keys), or nothing."""
        mask = group.padding
        if self.alibi is not None:
            bias = -self.alibi.slopes(layer) * self.alibi.distances(queries, group.longest)
            mask = bias[None] if mask is None else mask + bias
        return None if mask is None else mask.to(qkv.dtype)


@dataclass(frozen=True)
class _Group:
    """Utterances whose attention is computed together."""

    counts: list[int]
    """Tokens of each, the longest last."""
    places: Tensor | None
    """Where each token is once all are as long as the longest; None where they are."""
    padding: Tensor | None
    """(utterances, 1, 1, longest): 0 for a token, -inf for what is added; None where nothing is."""

    @property
    def longest(self) -> int:
        return self.counts[-1]

    @classmethod
    def of(cls, counts: list[int], device: torch.device) -> _Group:
        """Group utterances of so many tokens each, the longest last."""
        longest = counts[-1]
        if counts[0] == longest:
            return cls(counts, None, None)
        is_added = torch.arange(longest) >= torch.tensor(counts)[:, None]
        padding = torch.zeros(is_added.shape).masked_fill_(is_added, -torch.inf)[:, None, None]
        return cls(counts, _to(device, (~is_added).flatten().nonzero()[:, 0]), _to(device, padding))


class _Alibi(nn.Module):
    """The attention bias of ALiBi (Press et al., 2022), symmetric, with learned scales: -slope · scale · |i - j|.

    It is zero on the rows and columns of the extra tokens, which stand before the frames.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_heads, self.num_extra_tokens = config.num_heads, config.num_extra_tokens
        self.unscaled_slopes = alibi_slopes(config.num_alibi_heads)
        self.scale = nn.Parameter(torch.ones(config.alibi_scales))
        self._kept: Tensor | None = None

    @property
    def is_same_in_all_layers(self) -> bool:
        """Whether layers share their scales."""
        return len(self.scale) == 1

    def slopes(self, layer: int) -> Tensor:
        """Give the scaled slopes of a layer, counted from 0: (heads, 1, 1)."""
        scale = self.scale[0 if self.is_same_in_all_layers else layer].clamp_min(0)
        slopes = F.pad(scale.new_tensor(self.unscaled_slopes) * scale, (0, self.num_heads - len(self.unscaled_slopes)))
        return slopes[:, None, None]

    def distances(self, queries: slice, tokens: int) -> Tensor:
        """How far some of so many tokens are from all of them: (queries, tokens)."""
        if tokens > ALIBI_CACHED_TOKENS:
            return self._measure(queries.start, queries.stop, tokens)
        if self._kept is None or tokens > len(self._kept):
            self._kept = self._measure(0, tokens, tokens)
        return self._kept[queries, :tokens]

    def _measure(self, first: int, end: int, tokens: int) -> Tensor:
        positions = torch.arange(tokens, device=self.scale.device, dtype=self.scale.dtype)
        distances = (positions[first:end, None] - positions).abs_()
        distances[:, : self.num_extra_tokens] = 0
        distances[: max(0, self.num_extra_tokens - first)] = 0
        return distances


def alibi_slopes(heads: int) -> list[float]:
    """Slopes of ALiBi, as ``get_alibi`` makes them upstream.

    They are a geometric series for a power of two; else that of the power below, and then every other slope of the
    power above.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    if power < heads:
        slopes += alibi_slopes(2 * power)[0::2][: heads - power]
    return slopes


@dataclass(frozen=True)
class _Place:
    """Where one utterance stands in the stream of samples and in its frames."""

    index: int
    first_sample: int
    num_samples: int
    num_frames: int
    num_tokens: int


@dataclass(frozen=True)
class _Layout:
    """How a batch is laid out: utterances by length, so that those of the same length are neighbours."""

    utterances: tuple[_Place, ...]
    num_samples: int
    hop: int
    gap: int
    """Rows of zeros between two utterances: as far as a positional convolution reaches."""

    @classmethod
    def of(cls, lengths: Sequence[int], config: NetworkConfig) -> _Layout:
        """Lay out utterances of so many samples each.

        Raises:
            UtteranceTooShortError: one has fewer samples than ``config.receptive_field``.
        """
        utterances = []
        first_sample = 0
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            num_frames = config.num_frames(lengths[index])
            if not num_frames:
                raise UtteranceTooShortError(
                    f"{lengths[index]} samples; the shortest utterance that gives a frame has {config.receptive_field}"
                )
            utterances.append(
                _Place(index, first_sample, lengths[index], num_frames, num_frames + config.num_extra_tokens)
            )
            first_sample += math.ceil(lengths[index] / config.hop) * config.hop
        return cls(tuple(utterances), first_sample, config.hop, config.conv_pos_kernel // 2)

    def group(self) -> Iterator[list[int]]:
        """Group neighbours whose attention is computed together on a GPU: the number of tokens of each, in order."""
        group: list[int] = []
        for utterance in self.utterances:
            longest = utterance.num_tokens  # they are sorted
            if group and (len(group) + 1) * longest > PADDING * (sum(group) + longest):
                yield group
                group = []
            group.append(longest)
        yield group

    @property
    def num_gapped_rows(self) -> int:
        """Rows of the tokens of all utterances with gaps between them."""
        return sum(utterance.num_frames + self.gap for utterance in self.utterances) - self.gap

    def stream_rows(self, device: torch.device) -> Tensor:
        """Rows of all utterances' frames among the frames of the stream."""
        return _ranges(((u.first_sample // self.hop, u.num_frames) for u in self.utterances), device)

    def gapped_rows(self, device: torch.device) -> Tensor:
        """Rows of all utterances' frames where gaps stand between utterances."""
        firsts = accumulate((u.num_frames + self.gap for u in self.utterances[:-1]), initial=0)
        return _ranges(zip(firsts, (u.num_frames for u in self.utterances), strict=True), device)


def _ranges(ranges: Iterable[tuple[int, int]], device: torch.device) -> Tensor:
    """Join ranges, each (first, length), to one index."""
    return _to(device, torch.cat([torch.arange(first, first + length) for first, length in ranges]))


def _to(device: torch.device, tensor: Tensor) -> Tensor:
    """Bring a tensor from the CPU to a device; nobody waits for a GPU to be there with what it was told before."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
