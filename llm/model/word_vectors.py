"""Word vectors learned from the words around each word: skip-gram and continuous bag of words.

Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their Compositionality"
(https://arxiv.org/abs/1310.4546), and "Efficient Estimation of Word Representations in Vector Space"
(https://arxiv.org/abs/1301.3781).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import WordVectorsConfig


class WordVectors(nn.Module):
    """Two vectors for each word: one as the word that predicts, which is the result, and one as the word predicted.

    Args:
        config: the architecture.
    """

    def __init__(self, config: WordVectorsConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.n_embd)
        self.predicted = nn.Embedding(config.vocab_size, config.n_embd)
        # as word2vec's: small, and zero, so that at first every logit is zero
        nn.init.uniform_(self.token.weight, -0.5 / config.n_embd, 0.5 / config.n_embd)
        nn.init.zeros_(self.predicted.weight)

    def forward(self, ids: Tensor, others: Tensor, sizes: Tensor) -> Tensor:
        """What predicts: of skip-gram the word itself, of a bag of words the mean of its context.

        Args:
            ids: (B, T) int64, words.
            others: (P) int64, the places among the B T words of those in each context, one context after the other.
            sizes: (B, T) int64, how many words are in the context of each.

        Returns:
            (B, T, C); zero where a bag of words has no context.
        """
        if self.config.objective == "skip_gram":
            return self.token(ids)  # (B, T) -> (B, T, C)
        ends = sizes.flatten().cumsum(0)  # (B T)
        words = ids.flatten()[others]  # (P)
        means = F.embedding_bag(words, self.token.weight, ends - sizes.flatten(), mode="mean")  # (P) -> (B T, C)
        return means.view(*ids.shape, -1)  # (B T, C) -> (B, T, C)

    @property
    def n_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())
