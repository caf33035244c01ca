"""Both ends of the model: from token ids to vectors, and from hidden states to logits."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model.functions import soft_cap
from llm.model.stages import Hook


class Embeddings(nn.Module):
    """Token embedding plus positional embedding.

    Two tables with rows of size C: one row for each token id, and one for each position in the context. A token's
    vector is the sum of its two rows, so the same word at two places is two different vectors. With rotary positions
    there is no second table, since attention itself knows the positions.

    Args:
        config: uses `vocab_size`, `vocab_multiple`, `context_length`, `positions`, `n_embd`, `scale_embeddings` and
            `dropout`.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.scale = math.sqrt(config.n_embd) if config.scale_embeddings else None
        self.position: nn.Embedding | None = None
        if config.positions == "learned":
            self.position = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Look up token ids `(B, T)` at positions `(T)` or `(B, T)`, by default 0 to T - 1: vectors `(B, T, C)`."""
        return self.dropout(self.sum(ids, positions))

    def sum(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """As `forward`, before dropout."""
        tokens = self.token(ids)  # (B, T) -> (B, T, C)
        if self.scale is not None:
            tokens = tokens * self.scale
        if self.position is None:
            return tokens
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        return tokens + self.position(positions)  # (B, T, C) + (T, C) -> (B, T, C)

    def stages(self) -> Iterator[Hook]:
        """What is worth a look, in the order in which it runs."""
        yield Hook("token embeddings", self.token)
        if self.position is not None:  # rotary positions have no table: they are in Q and K
            yield Hook("positional embeddings", self.position, "(T, C)")
        yield Hook("input embeddings", self)


class Head(nn.Linear):
    """The logits of every token of the vocabulary: the hidden state times one row of weights for each.

    There may be more rows than tokens (`vocab_multiple`), because GPUs multiply round sizes faster; their logits are
    omitted.

    Args:
        config: uses `vocab_size`, `vocab_multiple`, `n_embd` and `logit_softcap`.
        bias: whether a trained number is added to each logit.
    """

    def __init__(self, config: GPTConfig, bias: bool = False) -> None:
        super().__init__(config.n_embd, config.padded_vocab_size, bias=bias)
        self.out_features = config.vocab_size  # what comes out, which may be less than there are rows
        self.softcap = config.logit_softcap

    @property
    def table(self) -> Tensor:
        """The weights that are used, (padded V, C)."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` -> logits `(B, T, V)`."""
        logits = F.linear(x, self.weight, self.bias)  # (B, T, C) -> (B, T, padded V)
        return self.capped(logits[..., : self.out_features])  # (B, T, padded V) -> (B, T, V)

    def capped(self, logits: Tensor) -> Tensor:
        """Logits within the bound that is configured, if there is one."""
        return logits if self.softcap is None else soft_cap(logits, self.softcap)
