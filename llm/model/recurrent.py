"""A recurrent encoder, and a recurrent decoder that may look back at its states (Bahdanau et al. 2014, appendix A.2).

Letters: B batch, S source tokens, T target tokens, C embedding size, H hidden size, M size of the encoder's states,
A size of the layer within the attention, L layers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llm.config import RNNConfig
from llm.errors import ConfigError
from llm.model.additive_attention import AdditiveAttention
from llm.model.encoder_decoder import Memory
from llm.model.padding import is_real

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

        Raises:
            ConfigError: a row has no real token.
        """
        if lengths is None:
            return self.recurrent(x)[0]  # (B, S, C) -> (B, S, M)
        lengths = lengths.cpu()
        if (lengths < 1).any():
            row = int(lengths.argmin())
            raise ConfigError(f"source {row} of the batch has no token; give it at least one, its end token")
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=x.shape[1])
        return states


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
