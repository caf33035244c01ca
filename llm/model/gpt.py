"""The language model: embeddings, blocks, and a head that scores every token of the vocabulary."""

from __future__ import annotations

import math

from torch import Tensor, nn

from llm.config import GPTConfig
from llm.errors import ConfigError
from llm.model.block import Block, build_norm
from llm.model.embeddings import Embeddings, Head


class GPT(nn.Module):
    """A decoder-only Transformer (Radford et al. 2019).

    With `multi_head`, `layer_norm`, `gelu`, biases and a tied head it is GPT-2; with the other choices it is each of
    the steps on the way there, or beyond it. Weights start as GPT-2's do, unless configured otherwise.

    Args:
        config: the architecture.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.final_norm = build_norm(config)
        self.head = Head(config)
        if config.tie_head:
            self.head.weight = self.embeddings.token.weight
        self.apply(_initialise)
        # GPT-2 scales what is added to the residual stream by the number of additions, two per block.
        std = 0.0 if config.projection_init == "zero" else 0.02 / math.sqrt(2 * config.n_layer)
        for name, parameter in self.named_parameters():
            if name.endswith("projection.weight"):
                nn.init.normal_(parameter, std=std)

    def features(self, ids: Tensor) -> Tensor:
        """What the head reads: token ids `(B, T)` -> normalised last vectors `(B, T, C)`.

        Raises:
            ConfigError: T is longer than the context.
        """
        T = ids.shape[1]
        if self.config.context_length < T:
            raise ConfigError(
                f"the input has {T} tokens, the model's context holds {self.config.context_length}: "
                "crop the input, or train with a longer context_length"
            )
        x = self.embeddings(ids)  # (B, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x)  # (B, T, C) -> (B, T, C)
        return self.final_norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids `(B, T)` -> logits `(B, T, V)`: at each position, a score for each next token."""
        return self.head(self.features(ids))  # (B, T, C) -> (B, T, V)

    @property
    def n_parameters(self) -> int:
        """Number of trained values, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
