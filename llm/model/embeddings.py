"""From token ids to the vectors that the first block reads."""

import torch
from torch import Tensor, nn

from llm.config import GPTConfig


class Embeddings(nn.Module):
    """Token embedding plus positional embedding.

    Two tables with rows of size C: one row for each token id, and one for each position in the context. A token's
    vector is the sum of its two rows, so the same word at two places is two different vectors.

    Args:
        config: uses `vocab_size`, `context_length`, `n_embd` and `dropout`.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.n_embd)
        self.position = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Look up token ids `(B, T)` at positions `(T)` or `(B, T)`, by default 0 to T - 1: vectors `(B, T, C)`."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        tokens = self.token(ids)  # (B, T) -> (B, T, C)
        return self.dropout(tokens + self.position(positions))  # (B, T, C) + (T, C) -> (B, T, C)
