"""The four kinds of attention, each one step beyond the one before it.

All follow one way: project the input to queries, keys and values; score every query against every key; turn the
scores into weights; mix the values by the weights into context vectors. `DotAttention` has nothing trained,
`SelfAttention` trains the projections, `CausalAttention` hides the future, `MultiHeadAttention` does it several
times side by side.

Keys and values come from the input itself, or from a memory, another sequence (`llm.model.cross_attention`). Whether
the future is hidden is a value, `is_causal`; a mask hides whatever else must not be seen, such as padding
(`llm.model.padding`).

`Attention.forward` runs fused kernels that never hold the weights. Whoever wants to see them calls `project`,
`scores`, `weights` and `mix`, which are the same computation spelled out (`spelled_out` does so).

Letters: B batch, T queries, S keys, C embedding size, H query heads, K key and value heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model.functions import rms_norm, soft_cap
from llm.model.norm import query_key_norms
from llm.model.padding import causal_mask, window_mask
from llm.model.rotary import Rotary
from llm.model.stages import Stage


class Attention(nn.Module):
    """What the four kinds share; while training, dropout on the weights too.

    Args:
        config: uses `n_embd`, `n_head`, `n_kv_head`, `head_size`, `causal`, `sliding_window`, `positions`, `qk_norm`,
            `scale_scores`, `attention_softcap`, `normalize_scores`, `dropout`, `bias` and `qkv_bias`.
        layer: its number, counted from 0: a sliding window may be on some layers only.
    """

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.is_causal = config.is_causal
        self.window = config.window(layer)
        self.scale = 1.0 / math.sqrt(config.head_dim) if config.scale_scores else 1.0
        self.softcap = config.attention_softcap
        self.normalize = config.normalize_scores
        self.dropout = config.dropout

    def project(
        self, x: Tensor, positions: Tensor | None = None, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `(B, H, T, D)`, keys and values `(B, K, S, D)`, as they meet in the scores.

        Args:
            x: (B, T, C) what asks.
            positions: (T) or (B, T), where it stands, by default 0 to T - 1; it matters to rotary positions only.
            memory: (B, S, C) what is looked at. Default: x itself, S = T.
        """
        raise NotImplementedError

    def output(self, context: Tensor) -> Tensor:
        """Bring the heads' context vectors `(B, H, T, D)` together as `(B, T, C)`."""
        return context.transpose(1, 2).flatten(2)  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """How well each query fits each key: `(B, H, T, D)` and `(B, K, S, D)` -> `(B, H, T, S)`.

        Queries times keys, divided by the square root of D unless configured raw (Vaswani et al. 2017, eq. 1), and
        capped if configured so.
        """
        scores = query @ _for_each_query_head(key, query.shape[1]).mT * self.scale
        return scores if self.softcap is None else soft_cap(scores, self.softcap)

    def own_mask(self, n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor | None:
        """What this kind lets a query see, `(T, S)`: no future, and nothing before its window; None for everything."""
        if not self.is_causal:
            return None
        mask = causal_mask(n_queries, n_keys, device)
        if self.window is None or n_keys <= self.window:
            return mask
        return mask & window_mask(torch.arange(n_keys - n_queries, n_keys, device=device), n_keys, self.window)

    def within_window(self, mask: Tensor | None, positions: Tensor) -> Tensor | None:
        """A mask, without what is before the window of queries at these positions, `(T)` or `(B, T)`."""
        if mask is None or self.window is None:
            return mask
        seen = window_mask(positions, mask.shape[-1], self.window)  # (T, S) or (B, T, S)
        return mask & (seen if seen.ndim == 2 else seen[:, None])

    def weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much of its attention each query pays to each key: `(B, H, T, S)`, rows sum to 1.

        Keys that a query may not see get exactly 0: those where the mask, broadcast to `(B, H, T, S)`, is False. A
        query that may see no key pays no attention at all: a row of zeros. Default: the mask of this kind.
        """
        if mask is None:
            mask = self.own_mask(scores.shape[-2], scores.shape[-1], scores.device)
        if self.normalize == "sum":
            if mask is None:
                return scores / scores.sum(dim=-1, keepdim=True)
            scores = scores.masked_fill(~mask, 0.0)
            return scores / scores.sum(dim=-1, keepdim=True).masked_fill(~mask.any(-1, keepdim=True), 1.0)
        if mask is None:
            return torch.softmax(scores, dim=-1)
        # The lowest number, and not minus infinity, since the softmax of a row of nothing else would be NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1).masked_fill(~mask, 0.0)

    def mix(self, weights: Tensor, value: Tensor) -> Tensor:
        """The values by their weights: `(B, H, T, S)` and `(B, K, S, D)` -> context vectors `(B, H, T, D)`."""
        return weights @ _for_each_query_head(value, weights.shape[1])

    def context(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Context vectors `(B, H, T, D)` of queries `(B, H, T, D)`, keys and values `(B, K, S, D)`.

        A mask, True where a query may see a key and broadcast to `(B, H, T, S)`, takes the place of this kind's own.
        """
        dropout = self.dropout if self.training else 0.0
        if self.normalize == "sum" or self.softcap is not None:  # no fused kernel divides by the sum, or caps scores
            weights = self.weights(self.scores(query, key), mask)
            return self.mix(F.dropout(weights, dropout), value)
        sees = None
        if mask is not None:  # what kernels give for a query that sees nothing differs: here it is 0
            sees = mask.any(dim=-1, keepdim=True)
            mask = mask | ~sees
        context = self.fused(query, key, value, mask, dropout)
        return context if sees is None else context.masked_fill(~sees, 0.0)

    def fused(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """As `context`, by torch's kernels."""
        if mask is None and self.window is not None and key.shape[-2] > self.window:
            mask = self.own_mask(query.shape[-2], key.shape[-2], query.device)
        is_causal, is_grouped = self.is_causal and mask is None, key.shape[1] < query.shape[1]
        if _is_quicker_in_float32(query):
            with torch.autocast("cpu", enabled=False):
                parts = query.float(), key.float(), value.float()
                context = F.scaled_dot_product_attention(
                    *parts, mask, dropout, is_causal, scale=self.scale, enable_gqa=is_grouped
                )
            return context.to(query.dtype)
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal, scale=self.scale, enable_gqa=is_grouped
        )

    def forward(self, x: Tensor, mask: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        """Attend: `(B, T, C)` -> `(B, T, C)`.

        Args:
            x: (B, T, C).
            mask: True where a query may see a key, broadcast to (B, H, T, S); it takes the place of this kind's own,
                except for its window.
            memory: (B, S, C) another sequence to look at (cross-attention), by an attention that is not causal.
        """
        mask = self.within_window(mask, torch.arange(x.shape[1], device=x.device))
        return self.output(self.context(*self.project(x, memory=memory), mask))

    def spelled_out(self, x: Tensor, mask: Tensor | None = None, memory: Tensor | None = None) -> Iterator[Stage]:
        """What `forward` computes of the same inputs, step by step and in float32.

        The names and axes of the notes. Q, K and V are one matrix product, counted with Q.
        """
        query, key, value = (part.float() for part in self.project(x, memory=memory))
        mask = self.within_window(mask, torch.arange(x.shape[1], device=x.device))
        scores = self.scores(query, key)
        weights = self.weights(scores, mask)
        keys = "T" if memory is None else "S"
        kv_heads = "H" if key.shape[1] == query.shape[1] else "K"
        projection = getattr(self, "projection", None)
        n_parameters = sum(p.numel() for p in self.parameters())
        n_output = 0 if projection is None else sum(p.numel() for p in projection.parameters())
        yield Stage("Q", "(B, H, T, D)", query, n_parameters - n_output)
        yield Stage("K", f"(B, {kv_heads}, {keys}, D)", key)
        yield Stage("V", f"(B, {kv_heads}, {keys}, D)", value)
        yield Stage("scores", f"(B, H, T, {keys})", scores)
        yield Stage("weights", f"(B, H, T, {keys})", weights)
        yield Stage("context", "(B, H, T, D)", self.mix(weights, value))


class DotAttention(Attention):
    """Weight-free attention: every vector is its own query, key and value. Nothing is trained."""

    def project(
        self, x: Tensor, positions: Tensor | None = None, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The input itself, three times, as one head."""
        del positions
        memory = x if memory is None else memory
        return x.unsqueeze(1), memory.unsqueeze(1), memory.unsqueeze(1)  # (B, T, C) -> (B, 1, T, C)


class SelfAttention(Attention):
    """Trained attention: the input times Wq, Wk and Wv. Every position sees the whole text."""

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        H, K, D = config.heads, config.kv_heads, config.head_dim
        self.n_head, self.n_kv_head, self.head_size = H, K, D
        # Wq, Wk and Wv side by side, so that one matrix product does the work of three.
        self.qkv = nn.Linear(config.n_embd, (H + 2 * K) * D, bias=config.qkv_bias)
        self.qk_gain, self.query_norm, self.key_norm = query_key_norms(config)
        self.rotary = Rotary(config) if config.positions == "rotary" else None

    def project(
        self, x: Tensor, positions: Tensor | None = None, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The input times the three trained matrices, cut into heads; queries and keys normalized and rotated.

        Raises:
            ValueError: there is a memory, which needs projections of its own (`llm.model.cross_attention`).
        """
        if memory is not None:
            raise ValueError("self-attention looks at its input alone; build_cross_attention makes one for a memory")
        H, K, D = self.n_head, self.n_kv_head, self.head_size
        qkv = self.qkv(x).unflatten(-1, (H + 2 * K, D))  # (B, T, C) -> (B, T, H + 2 K, D)
        if self.qk_gain is None and self.query_norm is None and self.rotary is None:
            query, key, value = qkv.split([H, K, K], dim=2)  # (B, T, H, D), 2 x (B, T, K, D)
        else:
            qk, value = qkv.split([H + K, K], dim=2)  # queries and keys in one go
            if self.qk_gain is not None:
                qk = rms_norm(qk)  # a root mean square of 1: the length is the square root of D
            elif self.query_norm is not None and self.key_norm is not None:
                query, key = qk.split([H, K], dim=2)
                qk = torch.cat([self.query_norm(query), self.key_norm(key)], dim=2)
            if self.rotary is not None:
                qk = self.rotary(qk, positions)
            query, key = qk.split([H, K], dim=2)
        if self.qk_gain is not None:  # the scaled score is then the gain times the cosine
            query = query * (self.qk_gain / math.sqrt(D))
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # (B, T, H, D) -> (B, H, T, D)


class CausalAttention(SelfAttention):
    """Trained attention that sees only the past."""

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        self.is_causal = True


class MultiHeadAttention(SelfAttention):
    """Several heads of size D side by side, concatenated and mixed by an output projection.

    Causal unless configured otherwise. With fewer key and value heads than query heads, each serves several of those
    (grouped-query attention, Ainslie et al. 2023).
    """

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        self.projection = nn.Linear(config.heads * config.head_dim, config.n_embd, bias=config.bias)

    def output(self, context: Tensor) -> Tensor:
        """Concatenate the heads and project: `(B, H, T, D)` -> `(B, T, C)`."""
        return self.projection(super().output(context))


def _for_each_query_head(x: Tensor, n_head: int) -> Tensor:
    """Keys or values once for every query head that they serve: `(B, K, S, D)` -> `(B, H, S, D)`."""
    return x if x.shape[1] == n_head else x.repeat_interleave(n_head // x.shape[1], dim=1)


def _is_quicker_in_float32(query: Tensor) -> bool:
    """Whether to attend in float32 although the projections gave bfloat16.

    Torch's kernel for processors takes up to three times as long for the gradients of short rows in bfloat16 as in
    float32; from some 256 positions on it does not (bench/README.md).
    """
    return (
        query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.requires_grad and query.shape[-2] < 256
    )


ATTENTION_KINDS: dict[str, type[Attention]] = {
    "dot": DotAttention,
    "self": SelfAttention,
    "causal": CausalAttention,
    "multi_head": MultiHeadAttention,
}
"""The classes behind the words of `GPTConfig.attention`."""


def build_attention(config: GPTConfig, layer: int = 0) -> Attention:
    """The attention that `config.attention` names, of one layer."""
    return ATTENTION_KINDS[config.attention](config, layer)
