"""The architecture of recurrent networks that translate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from llm.config.checks import checks

_SIZES = ("vocab_size", "source_vocab_size", "context_length", "n_layer", "n_embd", "hidden_size", "attention_size")


@dataclass(frozen=True)
class RNNConfig:
    """The architecture of a recurrent encoder and decoder, with or without attention (Bahdanau et al. 2014).

    Args:
        vocab_size: V, the number of token ids of the target. On the command line it comes from the tokenizer.
        context_length: the most tokens of a target, and of a source. On the command line it comes from
            `data.context_length`.
        source_vocab_size: number of token ids of the source. On the command line it comes from the tokenizer.
        attention: `none`: the decoder starts from the encoder's last hidden state, and knows no more of the source;
            `bahdanau`: it looks back at every state of the encoder, by additive attention.
        cell: `gru` (Cho et al. 2014) or `lstm` (Hochreiter & Schmidhuber 1997).
        n_layer: recurrent layers of the encoder, and of the decoder.
        n_embd: C, size of the embedding vectors, and of what the output layer reads.
        hidden_size: size of a hidden state, in each direction of the encoder.
        attention_size: size of the layer within the attention. Default: hidden_size.
        bidirectional: whether the encoder reads in both directions.
        share_embeddings: whether source and target have one table of token embeddings; they need the same tokenizer.
        dropout: fraction of values dropped in training, of embeddings, between layers and before the output, from 0 up
            to but not including 1.
    """

    vocab_size: int = 50257
    context_length: int = 256
    source_vocab_size: int = 50257
    attention: Literal["none", "bahdanau"] = "bahdanau"
    cell: Literal["gru", "lstm"] = "gru"
    n_layer: int = 1
    n_embd: int = 64
    hidden_size: int = 128
    attention_size: int | None = None
    bidirectional: bool = True
    share_embeddings: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        with checks(self) as check:
            for name in _SIZES:
                value = getattr(self, name)
                check(value is None or 1 <= value < 2**31, f"{name} must be from 1 to 2**31 - 1, got {value}")
            check(self.attention in ("none", "bahdanau"), f"attention must be none or bahdanau, got {self.attention!r}")
            check(self.cell in ("gru", "lstm"), f"cell must be gru or lstm, got {self.cell!r}")
            check(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
            check(
                not self.share_embeddings or self.source_vocab_size == self.vocab_size,
                f"share_embeddings needs one vocabulary for source and target, got {self.source_vocab_size:,} and "
                f"{self.vocab_size:,} tokens",
            )

    @property
    def memory_size(self) -> int:
        """Size of a state of the encoder, of both directions together."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the output layer: one for each token."""
        return self.vocab_size

    @property
    def n_logits(self) -> int:
        """One for each token."""
        return self.vocab_size

    @property
    def logit_softcap(self) -> float | None:
        """None: logits are as they are."""
        return None

    @property
    def heads(self) -> int:
        """One: each target token has one alignment."""
        return 1

    @property
    def is_causal(self) -> bool:
        """A target token sees no later ones."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """The settings as primitives, as checkpoints store them."""
        return dataclasses.asdict(self)
