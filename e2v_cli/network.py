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
5.  Attention is per utterance; utterances of the same length go together.

The module knows tensors only: no files, no names of models, no labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_cli.model_config import ConvLayer, NetworkConfig

CPU_CHUNK_FRAMES = 64
"""Output frames (20 ms each) of one chunk of the local encoder on CPU: what stays in the L2 cache."""

ALIBI_CACHED_TOKENS = 1600
"""Up to this many tokens (32 s) an attention bias is made once and kept; longer ones are made a few rows at a time,
so that memory grows with the length of an utterance and not with its square."""

_NORM_EPS = 1e-5
"""What ``torch.nn.functional.layer_norm`` adds to the variance."""

ALIBI_BLOCK_ELEMENTS = 1 << 24
"""Elements of the attention bias at once for longer utterances: 64 MB of float32."""


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
        self.feature_proj = nn.Linear(config.conv_layers[-1].channels, config.embed_dim)
        self.positional_norm = nn.LayerNorm(config.embed_dim) if config.conv_pos_pre_ln else None
        self.positional_encoder = nn.ModuleList(
            nn.Conv1d(
                config.embed_dim,
                config.embed_dim,
                config.conv_pos_kernel,
                padding=config.conv_pos_kernel // 2,
                groups=config.conv_pos_groups,
            )
            for _ in range(config.conv_pos_depth)
        )
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

    def forward(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Encode utterances, each exactly as if it were alone.

        Args:
            waveforms: float32 mono waveforms at 16 kHz, each (samples,), of any lengths and in any order.

        Returns:
            The last layer's frame features of each, (frames, embed_dim), float32, in the same order.

        Raises:
            UtteranceTooShortError: one has fewer samples than ``config.receptive_field``.
        """
        waveforms = [waveform.to(self.device) for waveform in waveforms]
        if self.config.normalize:
            waveforms = [F.layer_norm(waveform, waveform.shape) for waveform in waveforms]
        return self.encode(waveforms)

    def normalize(self, samples: Tensor, mean: float, variance: float) -> Tensor:
        """Normalise a part of a waveform, (samples,), by the moments of the whole, as ``forward`` does."""
        samples = samples.to(self.device)
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
        for index, block in enumerate(self.blocks):
            x = block(x, layout, self.alibi, index)
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
        chunk = CPU_CHUNK_FRAMES if stream.device.type == "cpu" else num_frames
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
            x = conv(gapped.T[None])[0].T[rows]
            x = F.gelu(F.layer_norm(x, x.shape[1:]))
        return x

    def _with_extra_tokens(self, x: Tensor, layout: _Layout) -> Tensor:
        if self.extra_tokens is None:
            return x
        utterances = torch.split(x, [utterance.num_frames for utterance in layout.utterances])
        return torch.cat([part for utterance in utterances for part in (self.extra_tokens, utterance)])


class _ConvBlock(nn.Module):
    """A strided convolution without padding or bias, its norm and GELU, channels last.

    (time, channels_in) → (floor((time - kernel) / stride) + 1, channels).
    """

    def __init__(self, channels_in: int, layer: ConvLayer, norm: nn.Module) -> None:
        super().__init__()
        self.kernel, self.stride = layer.kernel, layer.stride
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.kernel, channels_in))
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self._convolve(x)))

    def _convolve(self, x: Tensor) -> Tensor:
        # Rows t·stride … t·stride + taps - 1 of a contiguous signal are one row of a matrix without a copy, as long
        # as taps ≤ stride (BLAS wants rows that don't overlap). So a kernel of 3 with stride 2 is two products.
        x = x.contiguous()
        y = self._rows(x, 0) @ self._taps(0)
        for tap in range(self.stride, self.kernel, self.stride):
            y.addmm_(self._rows(x, tap), self._taps(tap))
        return y

    def _taps(self, first: int) -> Tensor:
        """Up to ``stride`` taps of the kernel: (taps · channels_in, channels)."""
        return self.weight[:, first : first + self.stride].flatten(1).T

    def _rows(self, x: Tensor, first: int) -> Tensor:
        """What these taps see at every step: (time', taps · channels_in)."""
        channels_in = x.shape[1]
        time = (len(x) - self.kernel) // self.stride + 1
        taps = min(self.stride, self.kernel - first)
        offset = x.storage_offset() + first * channels_in
        return x.as_strided((time, taps * channels_in), (self.stride * channels_in, 1), offset)


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


class _Block(nn.Module):
    """A transformer block over the tokens of all utterances, upstream's ``AltBlock``: (tokens, dim) → (tokens, dim)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layer_norm_first = config.layer_norm_first
        self.norm1 = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.attention = _Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)

    def forward(self, x: Tensor, layout: _Layout, alibi: _Alibi | None, layer: int) -> Tensor:
        if self.layer_norm_first:
            x = x + self.attention(self.norm1(x), layout, alibi, layer)
            x = self._mlp(self.norm2(x))
            # Upstream adds the output of the MLP to itself, not to its input, and models were trained so.
            return x + x
        x = self.norm1(x + self.attention(x, layout, alibi, layer))
        normed: Tensor = self.norm2(x + self._mlp(x))
        return normed

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Attention(nn.Module):
    """Multi-head self-attention, each utterance over its own tokens."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, layout: _Layout, alibi: _Alibi | None, layer: int) -> Tensor:
        qkv = self.qkv(x)
        attended = []
        first = 0
        for count, tokens in layout.same_length:
            rows = qkv[first : first + count * tokens]
            # (3, utterances, heads, tokens, head_dim): views of the rows, no copies
            q, k, v = rows.view(count, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
            attended.append(_attend(q, k, v, alibi, layer).transpose(1, 2).reshape(count * tokens, -1))
            first += count * tokens
        out: Tensor = self.proj(torch.cat(attended))
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor, alibi: _Alibi | None, layer: int) -> Tensor:
    """Attention of utterances of one length: each (utterances, heads, tokens, head_dim)."""
    if alibi is None:
        return F.scaled_dot_product_attention(q, k, v)
    heads, tokens = q.shape[1:3]
    block = tokens if tokens <= ALIBI_CACHED_TOKENS else max(1, ALIBI_BLOCK_ELEMENTS // (heads * tokens))
    parts = [
        F.scaled_dot_product_attention(queries, k, v, attn_mask=alibi.bias(layer, first, queries, tokens))
        for first, queries in zip(range(0, tokens, block), torch.split(q, block, dim=2), strict=True)
    ]
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


class _Alibi(nn.Module):
    """The attention bias of ALiBi (Press et al., 2022), symmetric, with learned scales: -slope · scale · |i - j|.

    It is zero on the rows and columns of the extra tokens, which stand before the frames.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_heads, self.num_extra_tokens = config.num_heads, config.num_extra_tokens
        self.slopes = alibi_slopes(config.num_alibi_heads)
        self.scale = nn.Parameter(torch.ones(config.alibi_scales))
        self._cached: Tensor | None = None

    def bias(self, layer: int, first: int, queries: Tensor, tokens: int) -> Tensor:
        """Make the bias of a layer for some of ``tokens`` tokens as queries: (1, heads, rows, tokens), of their type.

        Args:
            layer: which, counted from 0.
            first: the token of the first query.
            queries: (utterances, heads, rows, head_dim).
            tokens: number of keys.
        """
        rows = queries.shape[2]
        if len(self.scale) > 1 or tokens > ALIBI_CACHED_TOKENS:
            return self._make(layer, first, rows, tokens).to(queries.dtype)[None]
        cached = self._cached
        if cached is None or tokens > cached.shape[1]:
            self._cached = cached = self._make(0, 0, tokens, tokens).to(queries.dtype)
        return cached[None, :, first : first + rows, :tokens]

    def _make(self, layer: int, first: int, rows: int, tokens: int) -> Tensor:
        scale = self.scale[layer if len(self.scale) > 1 else 0].clamp_min(0)
        slopes = F.pad(scale.new_tensor(self.slopes) * scale, (0, self.num_heads - len(self.slopes)))
        positions = torch.arange(tokens, device=scale.device)
        distances = (positions[first : first + rows, None] - positions).abs()
        distances[:, : self.num_extra_tokens] = 0
        distances[: max(0, self.num_extra_tokens - first)] = 0
        return -slopes[:, None, None] * distances


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

    @property
    def same_length(self) -> Iterator[tuple[int, int]]:
        """(number of utterances, tokens of each), in order."""
        for tokens, group in groupby(utterance.num_tokens for utterance in self.utterances):
            yield sum(1 for _ in group), tokens

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
    return torch.cat([torch.arange(first, first + length) for first, length in ranges]).to(device)
