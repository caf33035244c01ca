"""The first attention: additive, of a recurrent decoder to the states of its encoder (Bahdanau et al. 2014, A.1.2).

Letters: B batch, S source tokens, T target tokens, H size of the decoder's hidden state, M size of the encoder's
states, A size of the layer within.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llm.config import RNNConfig
from llm.model.stages import Stage


class AdditiveAttention(nn.Module):
    """How well each state of the encoder goes with the decoder's: v tanh(W s + U h) (appendix A.1.2).

    Args:
        config: the architecture.
    """

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        size = config.attention_size or config.hidden_size
        self.query = nn.Linear(config.hidden_size, size)  # W
        self.key = nn.Linear(config.memory_size, size, bias=False)  # U
        self.score = nn.Linear(size, 1, bias=False)  # v

    def scores(self, state: Tensor, keys: Tensor, real: Tensor | None) -> Tensor:
        """The scores of the states of the encoder.

        Args:
            state: (B, H) of the decoder.
            keys: (B, S, A) the encoder's states times U.
            real: (B, S) which of them are no padding; None where all are.

        Returns:
            (B, S), minus infinity at padding, so that its weight is exactly 0.
        """
        hidden = torch.tanh(self.query(state)[:, None] + keys)  # (B, 1, A) + (B, S, A) -> (B, S, A)
        scores = self.score(hidden)[..., 0].float()  # (B, S, A) -> (B, S)
        return scores if real is None else scores.masked_fill(~real, -torch.inf)

    def forward(self, scores: Tensor, values: Tensor) -> Tensor:
        """The contexts: scores `(B, T, S)` and the encoder's states `(B, S, M)` -> `(B, T, M)`."""
        return scores.softmax(-1).to(values.dtype) @ values  # (B, T, S) x (B, S, M) -> (B, T, M)

    def spelled_out(self, scores: Tensor, values: Tensor) -> Iterator[Stage]:
        """What `forward` computes of the same inputs, step by step, in its one head; the weights are the alignment."""
        del values
        yield Stage("scores", "(B, 1, T, S)", scores[:, None])
        yield Stage("weights", "(B, 1, T, S)", scores.softmax(-1)[:, None])
