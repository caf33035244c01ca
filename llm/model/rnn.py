"""Recurrent networks that translate: before attention, and the first attention.

Bahdanau et al. 2014, "Neural Machine Translation by Jointly Learning to Align and Translate"
(https://arxiv.org/abs/1409.0473), appendix A; and as they compare it with, a decoder that has nothing of the source but
the encoder's last hidden state (Cho et al. 2014, Sutskever et al. 2014).

Letters: B batch, S source tokens, T target tokens, C embedding size, H hidden size, M size of the encoder's states.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llm.config import RNNConfig
from llm.errors import ConfigError
from llm.model.embeddings import Head
from llm.model.encoder_decoder import EncoderDecoder, Memory
from llm.model.gpt import refuse_too_long
from llm.model.recurrent import RecurrentDecoder, RecurrentEncoder, RNNState
from llm.model.stages import AttentionHook, Hook


class Readout(nn.Module):
    """What the output layer reads: of two linear layers the greater value, a maxout layer (appendix A.2.2).

    Args:
        config: the architecture.
        size: of what it reads.
    """

    def __init__(self, config: RNNConfig, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 2 * config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., size)` -> `(..., C)`."""
        return self.dropout(self.linear(x).unflatten(-1, (-1, 2)).amax(-1))  # (..., 2 C) -> (..., C, 2) -> (..., C)


class RNN(EncoderDecoder):
    """A recurrent encoder and decoder, with Bahdanau's attention or without any.

    Args:
        config: the architecture.
    """

    config: RNNConfig  # type: ignore[assignment]

    def __init__(self, config: RNNConfig) -> None:
        super().__init__(config)  # type: ignore[arg-type]
        self.source_embedding = nn.Embedding(config.source_vocab_size, config.n_embd)
        self.encoder = RecurrentEncoder(config)
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.share_embeddings:
            self.source_embedding.weight = self.embedding.weight
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = RecurrentDecoder(config)
        n_context = config.memory_size if config.attention == "bahdanau" else 0
        self.readout = Readout(config, config.n_embd + config.hidden_size + n_context)
        self.head = Head(config)  # type: ignore[arg-type]

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Memory:
        """Read the source `(B, S)`, of which `source_lengths` (B) tokens are real: states `(B, S, M)`.

        Raises:
            ConfigError: S is longer than the context, or a row has no real token.
        """
        refuse_too_long(source, self.config)  # type: ignore[arg-type]
        x = self.dropout(self.source_embedding(source))  # (B, S) -> (B, S, C)
        return Memory(self.encoder(x, source_lengths), source_lengths)

    def decode(self, ids: Tensor, memory: Memory) -> Tensor:
        """What the head reads, of the begin token and the target: `(B, T)` -> `(B, T, C)`."""
        x = self.dropout(self.embedding(ids))  # (B, T) -> (B, T, C)
        return self.readout(torch.cat([self.decoder(x, memory), x], -1))  # (B, T, H + M + C) -> (B, T, C)

    def start(self, memory: Memory) -> RNNState:
        """The state before the first token."""
        return self.decoder.start(memory)

    def step(self, ids: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        """Read one more token in each row, (B): the logits of the next, (B, V), and the state with it.

        Raises:
            ConfigError: the context is full.
        """
        if state.length >= self.config.context_length:
            raise ConfigError(f"the target has reached the context of {self.config.context_length} tokens")
        x = self.dropout(self.embedding(ids))  # (B) -> (B, C)
        output, state = self.decoder.step(x, state)
        return self.head(self.readout(torch.cat([output, x], -1))), state  # (B, C) -> (B, V)

    @property
    def output_layer(self) -> Head:
        """The head."""
        return self.head

    def logits_of(self, residual: Tensor) -> Tensor:
        """The logits `(B, T, V)` of what the readout gave, `(B, T, C)`."""
        return self.head(residual)

    def stages(self) -> Iterator[Hook | AttentionHook]:
        """What is worth a look, in the order in which it runs."""
        yield Hook("source token embeddings", self.source_embedding, "(B, S, C)")
        yield Hook("memory", self.encoder, "(B, S, M)")
        yield Hook("token embeddings", self.embedding)
        if self.decoder.attention is not None:
            yield AttentionHook("decoder / cross", self.decoder.attention, kind="cross")
        yield Hook("decoder", self.decoder, "(B, T, H)" if self.decoder.attention is None else "(B, T, H + M)")
        yield Hook("readout", self.readout)
        yield Hook("logits", self.head, "(B, T, V)")
