"""The four kinds of attention, each one step beyond the one before it.

All follow one way: project the input to queries, keys and values; score every query against every key; turn the
scores into weights; mix the values by the weights into context vectors. `DotAttention` has nothing trained,
`SelfAttention` trains the projections, `CausalAttention` hides the future, `MultiHeadAttention` does it several
times side by side.

`Attention.forward` runs fused kernels that never hold the weights. Whoever wants to see them calls `project`,
`scores` and `weights`, which are the same computation spelled out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model.functions import rms_norm


def causal_mask(n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """Which keys each query may see, `(n_queries, n_keys)`, True where it may; the last query sees every key."""
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


class Rotary(nn.Module):
    """Turns queries and keys by an angle that grows with their position (Su et al. 2021, section 3.2).

    Value i of the first half and value i of the second half are the two coordinates of a point, as in Llama. It is
    turned by the position times 10000^(-2i / D), so the product of a query and a key depends on how far apart they are,
    and not on where they stand.

    Args:
        context_length: positions that there can be.
        head_size: D, an even number.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, context_length: int, head_size: int) -> None:
        super().__init__()
        speeds = 10_000.0 ** (-torch.arange(0, head_size, 2) / head_size)
        angles = torch.outer(torch.arange(context_length), speeds)  # (context) x (D / 2) -> (context, D / 2)
        cos, sin = angles.cos(), angles.sin()
        # Computed and not trained: no part of a checkpoint.
        self.register_buffer("cos", torch.cat([cos, cos], dim=-1), persistent=False)  # (context, D)
        self.register_buffer("sin", torch.cat([-sin, sin], dim=-1), persistent=False)  # (context, D)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Turn `(B, T, 2, H, D)` by positions `(T)` or `(B, T)`, by default 0 to T - 1; the shape stays."""
        if positions is None:
            cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        else:
            cos, sin = self.cos[positions], self.sin[positions]
        cos, sin = (table[..., None, None, :].to(x.dtype) for table in (cos, sin))  # (..., T, D) -> (..., T, 1, 1, D)
        other = x.roll(x.shape[-1] // 2, dims=-1)  # the other coordinate of each point
        return x * cos + other * sin


class Attention(nn.Module):
    """What the four kinds share; while training, dropout on the weights too.

    Args:
        config: uses `n_embd`, `n_head`, `positions`, `qk_norm`, `scale_scores`, `normalize_scores`, `dropout`, `bias`
            and `qkv_bias`.
    """

    is_causal = False

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.scale = 1.0 / math.sqrt(config.head_size) if config.scale_scores else 1.0
        self.normalize = config.normalize_scores
        self.dropout = config.dropout

    def project(self, x: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the input `(B, T, C)`, each `(B, H, T, D)`, as they meet in the scores.

        Where the inputs stand, `(T)` or `(B, T)`, is by default 0 to T - 1; it matters to rotary positions only.
        """
        raise NotImplementedError

    def output(self, context: Tensor) -> Tensor:
        """Bring the heads' context vectors `(B, H, T, D)` together as `(B, T, C)`."""
        return context.transpose(1, 2).flatten(2)  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """How well each query fits each key: `(B, H, T, D)` twice -> `(B, H, T, T)`.

        Queries times keys, divided by the square root of D unless configured raw (Vaswani et al. 2017, eq. 1).
        """
        return query @ key.mT * self.scale

    def weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """The share of attention that each query pays to each key: `(B, H, T, T)`, rows sum to 1.

        Keys that a query may not see get 0: those where the mask is False. Default: the mask of this kind.
        """
        if mask is None and self.is_causal:
            mask = causal_mask(scores.shape[-2], scores.shape[-1], scores.device)
        if self.normalize == "sum":
            scores = scores if mask is None else scores.masked_fill(~mask, 0.0)
            return scores / scores.sum(dim=-1, keepdim=True)
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        return torch.softmax(scores, dim=-1)

    def context(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the values by the weights: three `(B, H, T, D)` -> context vectors `(B, H, T, D)`.

        A mask, True where a query may see a key, takes the place of this kind's own.
        """
        dropout = self.dropout if self.training else 0.0
        if self.normalize == "sum":  # no fused kernel divides by the sum
            weights = self.weights(self.scores(query, key), mask)
            return F.dropout(weights, dropout) @ value
        is_causal = self.is_causal and mask is None
        if _is_quicker_in_float32(query):
            with torch.autocast("cpu", enabled=False):
                parts = query.float(), key.float(), value.float()
                context = F.scaled_dot_product_attention(*parts, mask, dropout, is_causal, scale=self.scale)
            return context.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal, scale=self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: `(B, T, C)` -> `(B, T, C)`."""
        return self.output(self.context(*self.project(x)))


class DotAttention(Attention):
    """Weight-free attention: every vector is its own query, key and value. Nothing is trained."""

    def project(self, x: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The input itself, three times, as one head."""
        del positions
        x = x.unsqueeze(1)  # (B, T, C) -> (B, 1, T, C)
        return x, x, x


class SelfAttention(Attention):
    """Trained attention: the input times Wq, Wk and Wv. Every position sees the whole text."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.n_head = config.heads
        # Wq, Wk and Wv side by side, so that one matrix product does the work of three.
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.qkv_bias)
        self.qk_gain: nn.Parameter | None = None
        if config.qk_norm:  # begins as in Henry et al. 2020, section 3: a score of a perfect match beats all others
            T = max(2, config.context_length)
            self.qk_gain = nn.Parameter(torch.tensor(math.log2(T * T - T)))
        self.rotary = Rotary(config.context_length, config.head_size) if config.positions == "rotary" else None

    def project(self, x: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The input times the three trained matrices, cut into heads; queries and keys normalised and turned."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)  # (B, T, C) -> (B, T, 3, H, D)
        if self.qk_gain is None and self.rotary is None:
            query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, T, 3, H, D) -> 3 x (B, H, T, D)
            return query, key, value
        qk, value = qkv[:, :, :2], qkv[:, :, 2]  # queries and keys in one go: (B, T, 2, H, D), (B, T, H, D)
        if self.qk_gain is not None:
            qk = rms_norm(qk)  # a root mean square of 1: the length is the square root of D
        if self.rotary is not None:
            qk = self.rotary(qk, positions)
        query, key = qk.permute(2, 0, 3, 1, 4)  # (B, T, 2, H, D) -> 2 x (B, H, T, D)
        if self.qk_gain is not None:  # the scaled score is then the gain times the cosine
            query = query * (self.qk_gain / math.sqrt(query.shape[-1]))
        return query, key, value.transpose(1, 2)  # (B, T, H, D) -> (B, H, T, D)


class CausalAttention(SelfAttention):
    """Trained attention that sees only the past."""

    is_causal = True


class MultiHeadAttention(CausalAttention):
    """Several causal heads of size C / H side by side, concatenated and mixed by an output projection."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.projection = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def output(self, context: Tensor) -> Tensor:
        """Concatenate the heads and project: `(B, H, T, D)` -> `(B, T, C)`."""
        return self.projection(super().output(context))


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


def build_attention(config: GPTConfig) -> Attention:
    """The attention that `config.attention` names."""
    return ATTENTION_KINDS[config.attention](config)
