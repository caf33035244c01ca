"""Attention to a memory: queries of one sequence, keys and values of another (Vaswani et al. 2017, section 3.2.3)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model.attention import Attention, DotAttention
from llm.model.functions import rms_norm
from llm.model.norm import query_key_norms


class CrossAttention(Attention):
    """Trained attention to a memory, all of which it sees; it knows no positions there.

    Queries have a projection of their own, since keys and values are projected once for a memory, however many queries
    look at it.

    Args:
        config: uses what `Attention` uses; `multi_head` has an output projection.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.is_causal, self.window = False, None
        H, K, D = config.heads, config.kv_heads, config.head_dim
        self.n_head, self.n_kv_head, self.head_size = H, K, D
        self.query = nn.Linear(config.n_embd, H * D, bias=config.qkv_bias)
        self.key_value = nn.Linear(config.n_embd, 2 * K * D, bias=config.qkv_bias)
        self.qk_gain, self.query_norm, self.key_norm = query_key_norms(config)
        self.projection: nn.Module = nn.Identity()
        if config.attention == "multi_head":
            self.projection = nn.Linear(H * D, config.n_embd, bias=config.bias)

    def project(
        self, x: Tensor, positions: Tensor | None = None, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The input times Wq, the memory times Wk and Wv, cut into heads."""
        del positions
        return self.project_query(x), *self.project_memory(x if memory is None else memory)

    def project_query(self, x: Tensor) -> Tensor:
        """What asks: `(B, T, C)` -> queries `(B, H, T, D)`."""
        query = self.query(x).unflatten(-1, (self.n_head, self.head_size))  # (B, T, C) -> (B, T, H, D)
        if self.qk_gain is not None:
            query = rms_norm(query) * (self.qk_gain / math.sqrt(self.head_size))
        elif self.query_norm is not None:
            query = self.query_norm(query)
        return query.transpose(1, 2)  # (B, T, H, D) -> (B, H, T, D)

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What is looked at: `(B, S, C)` -> keys and values `(B, K, S, D)`."""
        K, D = self.n_kv_head, self.head_size
        key, value = self.key_value(memory).unflatten(-1, (2 * K, D)).split([K, K], dim=2)  # 2 x (B, S, K, D)
        if self.qk_gain is not None:
            key = rms_norm(key)
        elif self.key_norm is not None:
            key = self.key_norm(key)
        return key.transpose(1, 2), value.transpose(1, 2)  # (B, S, K, D) -> (B, K, S, D)

    def output(self, context: Tensor) -> Tensor:
        """Concatenate the heads and project: `(B, H, T, D)` -> `(B, T, C)`."""
        return self.projection(super().output(context))


def build_cross_attention(config: GPTConfig) -> Attention:
    """The attention of `config`'s kind that looks at a memory: it sees all of it, and knows no positions there."""
    if config.attention == "dot":
        attention = DotAttention(config)
        attention.is_causal, attention.window = False, None
        return attention
    return CrossAttention(config)
