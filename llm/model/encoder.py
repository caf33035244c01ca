"""The encoder: a Transformer whose every position sees the whole text, and a head that fills in masked words."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llm.config import EncoderConfig
from llm.model.base import Network
from llm.model.block import build_activation, build_blocks, initialize
from llm.model.embeddings import Embeddings, Head
from llm.model.gpt import refuse_too_long
from llm.model.norm import build_norm
from llm.model.padding import Side, attention_mask, is_real, positions_of
from llm.model.stages import AttentionHook, Hook


class EncoderEmbeddings(Embeddings):
    """Token, positional and segment embedding; normalized where the blocks normalize what they give (post-norm).

    Args:
        config: uses `n_segments`, `norm` and `norm_first` beside those of `Embeddings`.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.segment: nn.Embedding | None = None
        if config.n_segments:
            self.segment = nn.Embedding(config.n_segments, config.n_embd)
        self.norm = nn.Identity() if config.norm_first else build_norm(config)

    def forward(self, ids: Tensor, positions: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Look up token ids `(B, T)`, positions `(T)` or `(B, T)`, and segments `(B, T)`, by default 0: `(B, T, C)`."""
        x = self.sum(ids, positions)  # (B, T) -> (B, T, C)
        if self.segment is not None:
            x = x + self.segment(torch.zeros_like(ids) if segments is None else segments)
        return self.dropout(self.norm(x))

    def stages(self) -> Iterator[Hook]:
        """What is worth a look, in the order in which it runs."""
        *tables, whole = super().stages()
        yield from tables
        if self.segment is not None:
            yield Hook("segment embeddings", self.segment)
        yield Hook("embedding norm", self.norm)
        yield whole


class MaskedHead(nn.Module):
    """Logits for masked words: one more layer, then the product with the embedding of every token, and a bias each.

    As BERT's (Devlin et al. 2018; the layer is in its code only).

    Args:
        config: uses `n_embd`, `activation`, `norm` and `bias` beside those of `Head`.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.activation = build_activation(config)
        self.norm = build_norm(config)
        self.output = Head(config, bias=True)

    def transform(self, x: Tensor) -> Tensor:
        """The layer alone: hidden states `(..., C)` -> what the output layer reads, `(..., C)`."""
        return self.norm(self.activation(self.dense(x)))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., C)` -> logits `(..., V)`."""
        return self.output(self.transform(x))


class Encoder(Network):
    """A bidirectional Transformer for masked words (Devlin et al. 2018), of the same blocks as `GPT`.

    Args:
        config: the architecture.
    """

    config: EncoderConfig
    predicts_next = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.embeddings = EncoderEmbeddings(config)
        self.blocks = build_blocks(config)
        self.final_norm = build_norm(config) if config.norm_first else nn.Identity()
        self.head = MaskedHead(config)
        if config.tie_head:
            self.head.output.weight = self.embeddings.token.weight
        initialize(self, config)

    def hidden_states(
        self, ids: Tensor, lengths: Tensor | None = None, segments: Tensor | None = None, side: Side = "right"
    ) -> Tensor:
        """Token ids `(B, T)` -> hidden states `(B, T, C)`; those of padding mean nothing.

        Args:
            ids: (B, T) token ids.
            lengths: (B) how many of them are real; the others are padding, which nothing sees. Default: all.
            segments: (B, T) which kind of text each is of. Default: 0.
            side: where the padding stands.

        Raises:
            ConfigError: T is longer than the context.
        """
        refuse_too_long(ids, self.config)
        mask = positions = None
        if lengths is not None:
            T = ids.shape[1]
            mask = attention_mask(is_real(lengths, T, side), T, is_causal=False)
            positions = positions_of(lengths, T, side)
        x = self.embeddings(ids, positions, segments)  # (B, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x, mask)  # (B, T, C) -> (B, T, C)
        return self.final_norm(x)

    def forward(
        self, ids: Tensor, lengths: Tensor | None = None, segments: Tensor | None = None, side: Side = "right"
    ) -> Tensor:
        """Token ids `(B, T)` -> logits `(B, T, V)`: at each position, those of the token that belongs there."""
        return self.head(self.hidden_states(ids, lengths, segments, side))  # (B, T, C) -> (B, T, V)

    @property
    def output_layer(self) -> Head:
        """The head's last layer."""
        return self.head.output

    def before_output(self, hidden_states: Tensor) -> Tensor:
        """The head's first layer."""
        return self.head.transform(hidden_states)

    def stages(self) -> Iterator[Hook | AttentionHook]:
        """What is worth a look, in the order in which it runs."""
        yield from super().stages()
        yield Hook("head / dense", self.head.dense)
        yield Hook("head / norm", self.head.norm)
        yield Hook("logits", self.head.output, "(B, T, V)")
