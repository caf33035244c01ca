"""What every network of the task `translate` has: an encoder of the source, and a decoder that writes the target."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor

from llm.errors import ConfigError
from llm.model.base import Network
from llm.model.gpt import refuse_too_long
from llm.model.stages import AttentionHook


class Memory(NamedTuple):
    """The source as the encoder has read it.

    Args:
        states: (B, S, C) the encoder's hidden states; those of padding mean nothing.
        lengths: (B) how many of them are real; None where all are.
    """

    states: Tensor
    lengths: Tensor | None = None


class DecoderState(Protocol):
    """All that a decoder keeps of its sources and of the tokens that it has read, B rows of them."""

    def select(self, rows: Tensor) -> Self:
        """The state of these rows, (R), in this order, repeated where a row is named twice: for beam search."""


class EncoderDecoder(Network):
    """A network from a source and the target so far to the logits of the target's next token.

    The decoder's inputs are the target behind a begin token, its targets the target and an end token. `forward` reads a
    whole target at once, to train; `encode`, `start` and `step` write one token at a time, to translate, and give the
    same logits.

    Its configuration has `vocab_size` (of the target), `source_vocab_size` and `context_length` (the most tokens of
    either); attention to the source is an `AttentionHook` of kind `cross` among its `stages`.
    """

    @abstractmethod
    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Memory:
        """Read the source.

        Args:
            source: (B, S) token ids.
            source_lengths: (B) how many of them are real; the others are padding, which nothing sees. Default: all.

        Raises:
            ConfigError: S is longer than the context.
        """

    def hidden_states(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        source: Tensor | None = None,
        source_lengths: Tensor | None = None,
        *_: Any,
    ) -> Tensor:
        """What the head reads: the begin token and the target `(B, T)`, and its source `(B, S)` -> `(B, T, C)`.

        Args:
            ids: (B, T) token ids.
            lengths: (B) how many of them are real. The rest stands behind, where no real token sees it.
            source: (B, S) token ids.
            source_lengths: (B) how many of those are real; nothing sees the rest.

        Raises:
            ConfigError: T or S is longer than the context, or there is no source.
        """
        del lengths
        if source is None:
            raise ConfigError("a translation needs a source; give source, (B, S) token ids")
        refuse_too_long(ids, self.config)
        return self.decode(ids, self.encode(source, source_lengths))

    @abstractmethod
    def decode(self, ids: Tensor, memory: Memory) -> Tensor:
        """What the head reads, of a whole target and a source that has been read: `(B, T)` -> `(B, T, C)`."""

    def forward(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        source: Tensor | None = None,
        source_lengths: Tensor | None = None,
    ) -> Tensor:
        """The begin token and the target `(B, T)`, and its source `(B, S)` -> logits `(B, T, V)` of the next tokens."""
        return self.logits_of_hidden(self.hidden_states(ids, lengths, source, source_lengths))

    def logits_of_hidden(self, hidden_states: Tensor) -> Tensor:
        """Hidden states `(..., C)` -> logits `(..., V)`."""
        return self.output_layer(self.before_output(hidden_states))

    @property
    def attends_to_source(self) -> bool:
        """Whether the decoder has attention to the source, so that there is an alignment of the two."""
        return any(isinstance(hook, AttentionHook) and hook.kind == "cross" for hook in self.stages())

    @abstractmethod
    def start(self, memory: Memory) -> Any:
        """The `DecoderState` before the first token; what depends on the source alone is computed here, once."""

    @abstractmethod
    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one more token in each row.

        Args:
            ids: (B) the tokens; the begin token first.
            state: what `start` or the last step gave; it is not changed.

        Returns:
            The logits (B, V) of the next token, and the state with these tokens.
        """
