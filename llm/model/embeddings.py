"""Both ends of the model: from token ids to vectors, and from vectors to a score for every token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import GPTConfig


class Embeddings(nn.Module):
    """Token embedding plus positional embedding.

    Two tables with rows of size C: one row for each token id, and one for each position in the context. A token's
    vector is the sum of its two rows, so the same word at two places is two different vectors. With rotary positions
    there is no second table, since attention itself knows the positions.

    Args:
        config: uses `vocab_size`, `vocab_multiple`, `context_length`, `positions`, `n_embd` and `dropout`.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.position: nn.Embedding | None = None
        if config.positions == "learned":
            self.position = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Look up token ids `(B, T)` at positions `(T)` or `(B, T)`, by default 0 to T - 1: vectors `(B, T, C)`."""
        tokens = self.token(ids)  # (B, T) -> (B, T, C)
        if self.position is None:
            return self.dropout(tokens)
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        return self.dropout(tokens + self.position(positions))  # (B, T, C) + (T, C) -> (B, T, C)


class Head(nn.Linear):
    """A score for every token of the vocabulary: the vector times one row of weights for each.

    There may be more rows than tokens (`vocab_multiple`), because GPUs multiply round sizes faster; their scores are
    left out.

    Args:
        config: uses `vocab_size`, `vocab_multiple` and `n_embd`.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config.n_embd, config.padded_vocab_size, bias=False)
        self.out_features = config.vocab_size  # what comes out, which may be less than there are rows

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` -> logits `(B, T, V)`."""
        logits = F.linear(x, self.weight)  # (B, T, C) -> (B, T, padded V)
        return logits[..., : self.out_features]  # (B, T, padded V) -> (B, T, V)
