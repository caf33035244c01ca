"""The classifier: a GPT whose head gives a logit for each label, from the last token of a text."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llm.config import ClassifierConfig
from llm.model.block import initialize
from llm.model.embeddings import Head
from llm.model.gpt import Decoder
from llm.model.padding import Side
from llm.model.stages import AttentionHook, Hook


def last_real(values: Tensor, lengths: Tensor | None = None, side: Side = "right") -> Tensor:
    """What stands at the last real token of each row, `(B, T, ...)` -> `(B, ...)`.

    Args:
        values: (B, T, ...).
        lengths: (B) how many tokens are real. Default: all.
        side: where the padding stands.
    """
    if lengths is None or side == "left":
        return values[:, -1]
    rows = torch.arange(len(values), device=values.device)
    return values[rows, lengths - 1]  # (B, T, ...) -> (B, ...)


class LabelHead(Head):
    """A logit for each label: the hidden state of the last token times one row of weights for each, and a bias.

    Args:
        config: uses `n_embd` and `labels`.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        nn.Linear.__init__(self, config.n_embd, len(config.labels))
        self.softcap = None


class Classifier(Decoder):
    """A GPT that reads a text and gives a logit for each label (Radford et al. 2018, section 3.2).

    The head reads the hidden state of the last real token, which is found by the length of the text. With causal
    attention it is the only one that has seen all of it.

    Args:
        config: the architecture.
    """

    config: ClassifierConfig
    predicts_next = False
    predicts_tokens = False

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.head = LabelHead(config)
        initialize(self, config)

    def pooled(self, ids: Tensor, lengths: Tensor | None = None, side: Side = "right") -> Tensor:
        """What the head reads: token ids `(B, T)` -> the last real token's hidden state `(B, C)`.

        Args:
            ids: (B, T) token ids.
            lengths: (B) how many of them are real. Default: all.
            side: where the padding stands.

        Raises:
            ConfigError: T is longer than the context.
        """
        return last_real(self.hidden_states(ids, lengths, side), lengths, side)  # (B, T, C) -> (B, C)

    def forward(self, ids: Tensor, lengths: Tensor | None = None, side: Side = "right") -> Tensor:
        """Token ids `(B, T)` -> logits `(B, N)`, one for each label."""
        return self.head(self.pooled(ids, lengths, side))  # (B, C) -> (B, N)

    @property
    def output_layer(self) -> LabelHead:
        """The head."""
        return self.head

    def stages(self) -> Iterator[Hook | AttentionHook]:
        """What is worth a look, in the order in which it runs."""
        yield from super().stages()
        yield Hook("last token", self.head, "(B, C)", of_input=True)
        yield Hook("logits", self.head, "(B, N)")
