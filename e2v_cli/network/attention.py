"""Attention per utterance, with ALiBi: in tiles that stay in a CPU's cache, or in padded groups on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_cli.network.config import NetworkConfig
from e2v_cli.network.layout import Layout, to_device
from e2v_cli.network.packed import ONEDNN_ROWS, multiply_with_onednn
from e2v_cli.network.products import ProductsName

CPU_TILE_SCORES = 1 << 18
"""Attention scores of one tile on CPU (1 MB)."""

GPU_SCORES = 1 << 28
"""Attention scores of a group on a GPU, at most; their bias has as many elements (1 GB of float32)."""

ONEDNN_TOKENS = 256
"""Tokens (5 s) from which oneDNN is faster: it multiplies one head at a time, with a primitive for each length."""

ALIBI_CACHED_TOKENS = 4096
"""Tokens (80 s) up to which distances are kept (64 MB). Of longer utterances they are computed a few rows at a time, so
that memory grows with the length of an utterance and not with its square."""


class TiledAttention:
    """Attention on a CPU, some heads, or some queries of one head, at a time: the scores stay in the cache."""

    def __init__(
        self,
        layout: Layout,
        num_heads: int,
        alibi: Alibi | None,
        products: ProductsName = "torch",
        tile_scores: int = CPU_TILE_SCORES,
    ) -> None:
        self.counts = [utterance.num_tokens for utterance in layout.utterances]
        self.num_heads = num_heads
        self.alibi = alibi
        self.products = products
        self.tile_scores = tile_scores

    def __call__(self, qkv: Tensor, layer: int) -> Tensor:
        """Compute the attention of a layer: (tokens of all utterances, 3 · dim) → (tokens, dim)."""
        slopes = self.alibi.slopes(layer) if self.alibi is not None else None
        attended = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        for rows, out in zip(torch.split(qkv, self.counts), torch.split(attended, self.counts), strict=True):
            self._attend(rows, out, slopes)
        return attended

    def _attend(self, rows: Tensor, out: Tensor, slopes: Tensor | None) -> None:
        tokens = len(rows)
        # Copied, since products are faster where rows of a head are neighbours: each (heads, tokens, head_dim).
        q, k, v = rows.view(tokens, 3, self.num_heads, -1).permute(1, 2, 0, 3).contiguous()
        q *= q.shape[2] ** -0.5
        attended = out.view(tokens, self.num_heads, -1).transpose(0, 1)
        by_head = self.products == "onednn" and tokens >= ONEDNN_TOKENS
        multiply, keys = _multiply_heads, tokens
        if by_head:
            added = -tokens % ONEDNN_ROWS
            # In the order that oneDNN needn't copy, and with rows of zeros that get no attention.
            multiply, k = _multiply_head, F.pad(k, (0, 0, 0, added))
            v = F.pad(v.mT, (0, added)).contiguous().mT
            keys += added
        num_queries = min(tokens, max(1, self.tile_scores // keys))
        num_heads = 1 if by_head else max(1, self.tile_scores // (num_queries * keys))
        for head in range(0, self.num_heads, num_heads):
            heads = slice(head, head + num_heads)
            for query in range(0, tokens, num_queries):
                queries = slice(query, min(query + num_queries, tokens))
                scores = multiply(q[heads, queries], k[heads])
                if self.alibi is not None and slopes is not None:
                    scores.addcmul_(self.alibi.distances(queries, keys), slopes[heads], value=-1)
                scores[:, :, tokens:] = -torch.inf
                torch.softmax(scores, -1, out=scores)
                attended[heads, queries] = multiply(scores, v[heads].mT)


def _multiply_heads(x: Tensor, others: Tensor) -> Tensor:
    """Multiply a matrix of each head by that of another: (heads, n, k), (heads, m, k) → (heads, n, m)."""
    return torch.bmm(x, others.mT)


def _multiply_head(x: Tensor, others: Tensor) -> Tensor:
    """Multiply the matrices of a single head with oneDNN: (1, n, k), (1, m, k) → (1, n, m)."""
    return multiply_with_onednn(others[0].contiguous(), x[0])[None]


class PaddedAttention:
    """Attention on a GPU: utterances of about the same length go together, and the padding is masked."""

    def __init__(
        self,
        layout: Layout,
        num_heads: int,
        alibi: Alibi | None,
        device: torch.device,
        group_scores: int = GPU_SCORES,
    ) -> None:
        self.groups = [_Group.of(counts, device) for counts in layout.group()]
        self.num_heads = num_heads
        self.alibi = alibi
        self.group_scores = group_scores
        self._masks: dict[int, Tensor | None] = {}

    def __call__(self, qkv: Tensor, layer: int) -> Tensor:
        """Compute the attention of a layer: (tokens of all utterances, 3 · dim) → (tokens, dim)."""
        if self.alibi is not None and not self.alibi.is_same_in_all_layers:
            self._masks.clear()
        parts = torch.split(qkv, [sum(group.counts) for group in self.groups])
        return torch.cat([self._attend(rows, number, layer) for number, rows in enumerate(parts)])

    def _attend(self, rows: Tensor, number: int, layer: int) -> Tensor:
        group = self.groups[number]
        count, longest = len(group.counts), group.longest
        padded = rows
        if group.positions is not None:
            padded = rows.new_zeros(count * longest, rows.shape[1]).index_copy_(0, group.positions, rows)
        # (3, utterances, heads, tokens, head_dim): views, no copies
        q, k, v = padded.view(count, longest, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        block = max(1, self.group_scores // (count * self.num_heads * longest))
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
        return attended if group.positions is None else attended.index_select(0, group.positions)

    def _make_mask(self, group: _Group, layer: int, queries: slice, qkv: Tensor) -> Tensor | None:
        """Return the bias of the scores, (utterances or 1, heads or 1, queries or 1, keys); None if it is zero."""
        mask = group.padding
        if self.alibi is not None:
            bias = -self.alibi.slopes(layer) * self.alibi.distances(queries, group.longest)
            mask = bias[None] if mask is None else mask + bias
        return None if mask is None else mask.to(qkv.dtype)


@dataclass(frozen=True)
class _Group:
    """Utterances whose attention is computed together."""

    counts: list[int]
    """Number of tokens of each utterance, the longest last."""
    positions: Tensor | None
    """Row of each token once all utterances are padded to the longest; None if all have the same length."""
    padding: Tensor | None
    """(utterances, 1, 1, longest): 0 for a token, -inf for padding; None without padding."""

    @property
    def longest(self) -> int:
        return self.counts[-1]

    @classmethod
    def of(cls, counts: list[int], device: torch.device) -> _Group:
        """Make a group of utterances with these numbers of tokens, the longest last."""
        longest = counts[-1]
        if counts[0] == longest:
            return cls(counts, None, None)
        is_added = torch.arange(longest) >= torch.tensor(counts)[:, None]
        padding = torch.zeros(is_added.shape).masked_fill_(is_added, -torch.inf)[:, None, None]
        return cls(counts, to_device(device, (~is_added).flatten().nonzero()[:, 0]), to_device(device, padding))


class Alibi(nn.Module):
    """The attention bias of ALiBi (Press et al., 2022), symmetric, with learned scales: -slope · scale · |i - j|.

    It is zero on the rows and columns of the extra tokens, which come before the frames.
    """

    def __init__(self, config: NetworkConfig, cached_tokens: int = ALIBI_CACHED_TOKENS) -> None:
        super().__init__()
        self.cached_tokens = cached_tokens
        self.num_heads, self.num_extra_tokens = config.num_heads, config.num_extra_tokens
        self.unscaled_slopes = alibi_slopes(config.num_alibi_heads)
        self.scale = nn.Parameter(torch.ones(config.alibi_scales))
        self._kept: Tensor | None = None

    @property
    def is_same_in_all_layers(self) -> bool:
        """Whether layers share their scales."""
        return len(self.scale) == 1

    def slopes(self, layer: int) -> Tensor:
        """Return the scaled slopes of a layer, counted from 0: (heads, 1, 1)."""
        scale = self.scale[0 if self.is_same_in_all_layers else layer].clamp_min(0)
        slopes = F.pad(scale.new_tensor(self.unscaled_slopes) * scale, (0, self.num_heads - len(self.unscaled_slopes)))
        return slopes[:, None, None]

    def distances(self, queries: slice, tokens: int) -> Tensor:
        """Return the distances of the queries from all of ``tokens`` tokens: (queries, tokens)."""
        if tokens > self.cached_tokens:
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
    """Return the slopes of ALiBi, as upstream's ``get_alibi`` does.

    For a power of two they are a geometric series; else that of the power below, and then every other slope of the
    power above.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    if power < heads:
        slopes += alibi_slopes(2 * power)[0::2][: heads - power]
    return slopes
