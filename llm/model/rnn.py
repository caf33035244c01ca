"""Recurrent networks that translate: before attention, and the first attention.

Bahdanau et al. 2014, "Neural Machine Translation by Jointly Learning to Align and Translate"
(https://arxiv.org/abs/1409.0473), appendix A; and as they compare it with, a decoder that has nothing of the source but
the encoder's last hidden state (Cho et al. 2014, Sutskever et al. 2014).

Letters: B batch, S source tokens, T target tokens, C embedding size, H hidden size, M size of the encoder's states,
A size of the layer within the attention, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llm.config import RNNConfig
from llm.errors import ConfigError
from llm.model.embeddings import Head
from llm.model.encoder_decoder import EncoderDecoder, Memory
from llm.model.gpt import refuse_too_long
from llm.model.padding import is_real
from llm.model.stages import AttentionHook, Hook, Stage

_CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


def build_recurrent(config: RNNConfig, input_size: int, bidirectional: bool) -> nn.RNNBase:
    """Recurrent layers of `config`'s kind: `(B, T, input_size)` -> `(B, T, H)`, twice H in both directions.

    Recurrent matrices begin orthogonal (appendix B.1), so that a state neither grows nor vanishes over many tokens.
    """
    dropout = config.dropout if config.n_layer > 1 else 0.0
    recurrent = _CELLS[config.cell](
        input_size,
        config.hidden_size,
        config.n_layer,
        batch_first=True,
        dropout=dropout,
        bidirectional=bidirectional,
    )
    for name, parameter in recurrent.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.detach().split(config.hidden_size):
                nn.init.orthogonal_(gate)
        elif name.startswith("bias"):
            nn.init.zeros_(parameter)
    return recurrent


class RecurrentEncoder(nn.Module):
    """Reads a source in one or both directions (appendix A.2.1).

    Args:
        config: the architecture.
    """

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.recurrent = build_recurrent(config, config.n_embd, config.bidirectional)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeddings `(B, S, C)`, of which `lengths` (B) are real -> states `(B, S, M)`, zero at padding.

        Sequences are packed, so that no state is one of padding: the backward direction begins at the last real token.
        """
        if lengths is None:
            return self.recurrent(x)[0]  # (B, S, C) -> (B, S, M)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=x.shape[1])
        return states


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


@dataclass(frozen=True)
class RNNState:
    """What the decoder keeps between two tokens.

    Args:
        hidden: (L, B, H), and of an LSTM its cells, (L, B, H).
        keys: (B, S, A) the encoder's states times U; None without attention, as the next two.
        values: (B, S, M) the encoder's states.
        real: (B, S) which of them are no padding; None also where all are.
        length: how many tokens it has read.
    """

    hidden: tuple[Tensor, ...]
    keys: Tensor | None = None
    values: Tensor | None = None
    real: Tensor | None = None
    length: int = 0

    def select(self, rows: Tensor) -> Self:
        """The state of these rows, (R), in this order."""
        hidden = tuple(part[:, rows] for part in self.hidden)
        keys, values, real = (None if part is None else part[rows] for part in (self.keys, self.values, self.real))
        return type(self)(hidden, keys, values, real, self.length)


class RecurrentDecoder(nn.Module):
    """Reads the target so far; with attention, also what it looks at in the source for each token (appendix A.2.2).

    Args:
        config: the architecture.
    """

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = AdditiveAttention(config) if config.attention == "bahdanau" else None
        n_context = 0 if self.attention is None else config.memory_size
        self.recurrent = build_recurrent(config, config.n_embd + n_context, bidirectional=False)
        self.n_states = 2 if config.cell == "lstm" else 1
        self.initial = nn.Linear(config.memory_size, self.n_states * config.n_layer * config.hidden_size)

    def start(self, memory: Memory) -> RNNState:
        """The state before the first token, from the encoder's last hidden state: of each direction, where it ends."""
        states, lengths = memory
        H = self.config.hidden_size
        last = states[:, -1, :H]  # (B, H)
        if lengths is not None:
            last = states[torch.arange(len(states), device=states.device), lengths - 1, :H]
        if self.config.bidirectional:
            last = torch.cat([last, states[:, 0, H:]], -1)  # (B, M)
        initial = torch.tanh(self.initial(last)).unflatten(-1, (-1, H))  # (B, M) -> (B, L, H), of an LSTM twice
        hidden = tuple(part.transpose(0, 1).contiguous() for part in initial.chunk(self.n_states, 1))  # (L, B, H)
        if self.attention is None:
            return RNNState(hidden)
        real = None if lengths is None else is_real(lengths, states.shape[1])
        return RNNState(hidden, self.attention.key(states), states, real)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Embeddings of a target `(B, T, C)` -> its states `(B, T, H)`; with attention also contexts, `(B, T, H + M)`.

        Without attention all tokens are read at once; with it one after the other, since where the decoder looks
        depends on its state.
        """
        state = self.start(memory)
        if self.attention is None:
            return self._read(x, state.hidden)[0]
        outputs, scores = [], []
        for token in x.unbind(1):
            output, state, score = self._look_and_read(self.attention, token, state)
            outputs.append(output)
            scores.append(score)
        contexts = self.attention(torch.stack(scores, 1), memory.states)
        return torch.cat([torch.stack(outputs, 1), contexts], -1)

    def step(self, x: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        """Read one token in each row: embeddings (B, C) -> what `forward` has of them, and the state after them."""
        if self.attention is None:
            output, hidden = self._read(x[:, None], state.hidden)
            return output[:, 0], RNNState(hidden, length=state.length + 1)
        assert state.values is not None
        output, after, scores = self._look_and_read(self.attention, x, state)
        context = self.attention(scores[:, None], state.values)[:, 0]  # (B, 1, M) -> (B, M)
        return torch.cat([output, context], -1), after

    def _look_and_read(
        self, attention: AdditiveAttention, x: Tensor, state: RNNState
    ) -> tuple[Tensor, RNNState, Tensor]:
        """Look at the source, then read a token (B, C): its state (B, H), all that is kept, and the scores (B, S)."""
        assert state.keys is not None
        assert state.values is not None
        scores = attention.scores(state.hidden[0][-1], state.keys, state.real)
        context = attention.forward(scores[:, None], state.values)  # (B, 1, M); the probe sees all tokens at once
        output, hidden = self._read(torch.cat([x[:, None], context], -1), state.hidden)
        return output[:, 0], dataclasses.replace(state, hidden=hidden, length=state.length + 1), scores

    def _read(self, x: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The recurrent layers: `(B, T, input size)` -> `(B, T, H)`, and the state after them."""
        output, after = self.recurrent(x, hidden if self.n_states == 2 else hidden[0].to(x.dtype))
        return output, after if self.n_states == 2 else (after,)


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
            ConfigError: S is longer than the context.
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
