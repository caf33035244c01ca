"""Word vectors learned from the words around each word: skip-gram and continuous bag of words.

Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their Compositionality"
(https://arxiv.org/abs/1310.4546), and "Efficient Estimation of Word Representations in Vector Space"
(https://arxiv.org/abs/1301.3781).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import WordVectorsConfig

_FAR = 2**30
"""Farther than any context reaches."""


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

    def forward(self, ids: Tensor, reach: Tensor, lengths: Tensor) -> Tensor:
        """What predicts: of skip-gram the word itself, of a bag of words the mean of its context.

        Args:
            ids: (B, T) int64, words.
            reach: (B, T) int64, how many words to each side of a word belong to its context, at least 1.
            lengths: (B) int64, how many words of a row are real.

        Returns:
            (B, T, C); zero where a bag of words has no context.
        """
        if self.config.objective == "skip_gram":
            return self.token(ids)  # (B, T) -> (B, T, C)
        words, starts = bags_of(ids, reach, lengths)
        means = F.embedding_bag(words, self.token.weight, starts, mode="mean")  # (P) -> (B T, C)
        return means.view(*ids.shape, -1)  # (B T, C) -> (B, T, C)

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
    is_real = _is_real(reach, lengths)  # (B, T)
    position = torch.arange(reach.shape[1], device=reach.device, dtype=torch.int32)
    distance = (position[:, None] - position).abs().fill_diagonal_(_FAR)  # (T, T)
    reach = torch.where(is_real, reach, 0).int()
    return (distance <= reach[..., None]) & is_real[:, None]  # (B, T, T)


def bags_of(ids: Tensor, reach: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The words in the context of each word, one after the other, as `embedding_bag` takes them.

    Args:
        ids: (B, T) int64, words.
        reach: (B, T) int64, how many words to each side of a word belong to its context.
        lengths: (B) int64, how many words of a row are real.

    Returns:
        The words of all contexts, (P); and where among them that of each word begins, (B T).
    """
    T = ids.shape[1]
    widest = min(int(reach.max()), T)
    steps = torch.cat([torch.arange(-widest, 0), torch.arange(1, widest + 1)]).to(ids.device)  # (W), W = 2 widest
    place = torch.arange(T, device=ids.device)[:, None] + steps  # (T, W)
    is_context = (steps.abs() <= reach[..., None]) & (place >= 0) & (place < lengths[:, None, None])  # (B, T, W)
    is_context &= _is_real(reach, lengths)[..., None]
    words = ids[:, place.clamp(0, T - 1)][is_context]  # (B, T, W) -> (P)
    sizes = is_context.sum(-1).flatten()  # (B T)
    return words, sizes.cumsum(0) - sizes


def _is_real(reach: Tensor, lengths: Tensor) -> Tensor:
    """(B, T) bool, whether a place is a word rather than padding."""
    return torch.arange(reach.shape[1], device=reach.device) < lengths[:, None]
