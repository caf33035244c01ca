"""Word vectors learned from the words around each word: skip-gram and continuous bag of words.

Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their Compositionality"
(https://arxiv.org/abs/1310.4546), and "Efficient Estimation of Word Representations in Vector Space"
(https://arxiv.org/abs/1301.3781).
"""

from __future__ import annotations

import torch
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

    def forward(self, ids: Tensor, contexts: Tensor) -> Tensor:
        """What predicts: of skip-gram the word itself, of a bag of words the mean of its context.

        Args:
            ids: (B, T) int64, words.
            contexts: (B, T, T) bool, whether the second word is in the context of the first.

        Returns:
            (B, T, C); zero where a bag of words has no context.
        """
        vectors = self.token(ids)  # (B, T) -> (B, T, C)
        if self.config.objective == "skip_gram":
            return vectors
        weights = contexts.to(vectors.dtype)
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1)  # (B, T, T)
        return weights @ vectors  # (B, T, T) x (B, T, C) -> (B, T, C)

    def logits(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """How well each word goes with each of some vectors.

        Args:
            vectors: (B, T, C).
            ids: (B, N) int64, words.

        Returns:
            (B, T, N).
        """
        return vectors @ self.predicted(ids).mT  # (B, T, C) x (B, C, N) -> (B, T, N)

    @property
    def n_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())


def contexts_of(reach: Tensor, lengths: Tensor) -> Tensor:
    """Which words are in the context of which.

    Args:
        reach: (B, T) int64, how many words to each side of a word belong to its context.
        lengths: (B) int64, how many words of a row are real.

    Returns:
        (B, T, T) bool: a real word, and a real word near enough to it; never the word itself.
    """
    T = reach.shape[1]
    position = torch.arange(T, device=reach.device)
    distance = (position[:, None] - position[None]).abs()  # (T, T)
    is_real = position < lengths[:, None]  # (B, T)
    near = (distance > 0) & (distance <= reach[..., None])  # (B, T, T)
    return near & is_real[:, :, None] & is_real[:, None]
