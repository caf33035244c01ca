"""What every network has: a configuration, hidden states, logits, and stages that the probe can look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model.embeddings import Embeddings, Head
from llm.model.stages import AttentionHook, Hook


class Network(nn.Module):
    """A network from token ids to logits that names its stages: embeddings, blocks, a last norm and a head.

    Args:
        config: the architecture.
    """

    embeddings: Embeddings
    blocks: nn.ModuleList
    final_norm: nn.Module
    predicts_next = True
    """Whether the logits at a position are of the token after it, or of the token that belongs there itself."""
    predicts_tokens = True
    """Whether the logits are of tokens at all."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config

    def hidden_states(self, ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the head reads: token ids `(B, T)` -> `(B, T, C)`."""
        raise NotImplementedError

    @property
    def output_layer(self) -> Head:
        """The last layer of all, which gives the logits: the loss goes through it a block of tokens at a time."""
        raise NotImplementedError

    def before_output(self, hidden_states: Tensor) -> Tensor:
        """Hidden states -> what the output layer reads, `(..., C)`: the same, unless the head has more layers."""
        return hidden_states

    def logits_of(self, residual: Tensor) -> Tensor:
        """The logits `(B, T, V)` as if this residual stream `(B, T, C)` were the last; of labels, `(B, T, N)`."""
        return self.output_layer(self.before_output(self.final_norm(residual)))

    def stages(self) -> Iterator[Hook | AttentionHook]:
        """What is worth a look, in the order in which it runs: here, all up to the hidden states."""
        yield from self.embeddings.stages()
        for layer, block in enumerate(self.blocks):
            yield from block.stages(f"block {layer}")  # type: ignore[operator]
        yield Hook("final norm", self.final_norm)

    @property
    def n_parameters(self) -> int:
        """Number of values, shared ones counted once, frozen ones too."""
        return sum(parameter.numel() for parameter in self.parameters())
