"""The decoder, of embeddings and blocks, and the language model: a decoder with a head for the next token."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from llm.config import GPTConfig
from llm.errors import ConfigError
from llm.model.base import Network
from llm.model.block import build_blocks, initialize
from llm.model.embeddings import Embeddings, Head
from llm.model.norm import build_norm
from llm.model.padding import (
    Side,
    attention_mask,
    document_mask,
    is_real,
    positions_in_documents,
    positions_of,
)
from llm.model.stages import AttentionHook, Hook


class Decoder(Network):
    """The body of a decoder-only Transformer (Radford et al. 2019): all but its head.

    With `multi_head`, `layer_norm`, `gelu` and biases it is GPT-2's; with the other choices it is each of the steps on
    the way there, or beyond it.

    Args:
        config: the architecture.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.blocks = build_blocks(config)
        self.final_norm = build_norm(config) if config.norm_first else nn.Identity()

    def hidden_states(
        self, ids: Tensor, lengths: Tensor | None = None, side: Side = "right", documents: Tensor | None = None
    ) -> Tensor:
        """What the head reads: token ids `(B, T)` -> hidden states `(B, T, C)`, normalized if pre-norm.

        Args:
            ids: (B, T) token ids.
            lengths: (B) how many of them are real; the others are padding, which no real token sees, and whose hidden
                states mean nothing. Default: all.
            side: where the padding stands.
            documents: (B, T) the document that each token belongs to, where a row holds several: none sees another,
                and positions begin anew in each. Rotary positions need not: scores depend on distances alone.

        Raises:
            ConfigError: T is longer than the context, or there are documents and attention is not causal.
        """
        refuse_too_long(ids, self.config)
        mask = positions = None
        if documents is not None:
            if not self.config.is_causal:
                raise ConfigError(f"packed documents need causal attention; {self.config.attention!r} is not")
            mask, positions = document_mask(documents), positions_in_documents(documents)
        elif lengths is not None:
            T, is_causal = ids.shape[1], self.config.is_causal
            positions = positions_of(lengths, T, side)
            if side == "left" or not is_causal:  # else no real token sees what comes later: the quick kernel is right
                mask = attention_mask(is_real(lengths, T, side), T, is_causal)
        x = self.embeddings(ids, positions)  # (B, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x, mask)  # (B, T, C) -> (B, T, C)
        return self.final_norm(x)


class GPT(Decoder):
    """A decoder with a head that gives the logits of the next token.

    Weights start as GPT-2's do, unless configured otherwise.

    Args:
        config: the architecture.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.head = Head(config)
        if config.tie_head:
            self.head.weight = self.embeddings.token.weight
        initialize(self, config)

    def forward(self, ids: Tensor, lengths: Tensor | None = None, side: Side = "right") -> Tensor:
        """Token ids `(B, T)` -> logits `(B, T, V)`: at each position, those of the next token."""
        return self.head(self.hidden_states(ids, lengths, side))  # (B, T, C) -> (B, T, V)

    @property
    def output_layer(self) -> Head:
        """The head."""
        return self.head

    def stages(self) -> Iterator[Hook | AttentionHook]:
        """What is worth a look, in the order in which it runs."""
        yield from super().stages()
        yield Hook("logits", self.head, "(B, T, V)")


def refuse_too_long(ids: Tensor, config: GPTConfig) -> None:
    """Refuse more tokens than there are positions.

    Raises:
        ConfigError: T is longer than the context.
    """
    if config.context_length < (T := ids.shape[1]):
        raise ConfigError(
            f"the input has {T} tokens, the model's context holds {config.context_length}: "
            "crop the input, or train with a longer context_length"
        )
