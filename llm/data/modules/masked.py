"""Windows of a text with some of their tokens masked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch

from llm.data.batch import TokenBatch
from llm.data.loader import RowSource
from llm.data.masking import MaskedRows, Masking, WholeRows, WordEdges
from llm.data.modules.base import SAMPLE_TOKENS, first_words
from llm.data.modules.text import TextDataModule
from llm.data.tokens.mapped import TokenArray
from llm.errors import ConfigError, TokenizerError
from llm.tokenizers import MASK

EVALUATION_SEED = 123
"""Of the masks for validation and test, so that runs with different seeds are measured alike."""


class MaskedDataModule(TextDataModule):
    """A text corpus, and the windows cut from it with some of their tokens masked; after BERT (Devlin et al. 2018).

    The masks depend on nothing but (seed, epoch, window), so that a resumed run repeats them; those for validation and
    test on the window alone. The tokenizer has the special token `[MASK]`, which is added where it is missing. Texts
    are encoded without it, so that a text is tokenized once for this task and for language models. Where the tokenizer
    puts tokens around a text, as BERT's does with `[CLS]` and `[SEP]`, they stand around each window and count to it.

    Args:
        masked_fraction: of the tokens of a window, how many are to be predicted; at least one is.
        whole_words: mask all tokens of a word or none.
        **options: those of a `TextDataModule`.

    Raises:
        ConfigError: a setting is invalid.
        CheckpointError: `tokenizer.checkpoint` is not a checkpoint with a tokenizer.
        DataError: the vocabulary has to be learned from a corpus that can't be read, or the token ids can't be.
    """

    order_settings: ClassVar[tuple[str, ...]] = (*TextDataModule.order_settings, "masked_fraction", "whole_words")

    def __init__(self, *, masked_fraction: float = 0.15, whole_words: bool = False, **options: Any) -> None:
        if not 0 < masked_fraction <= 1:
            raise ConfigError(f"masked_fraction must be in (0, 1], got {masked_fraction}")
        if options.get("separate_documents"):
            raise ConfigError("separate_documents needs causal attention; masked words are seen from both sides")
        super().__init__(**options)
        self.masked_fraction = masked_fraction
        self.whole_words = whole_words
        encoder = self.tokenizer.without_special(MASK)
        self.splits = dataclasses.replace(self.splits, tokenizer=encoder)
        self.tokenizer = encoder.with_special(MASK) if self.tokenizer.mask_id is None else self.tokenizer
        if self.window_length < 1:
            raise ConfigError(
                f"context_length {self.context_length} has no room for a text: the tokenizer puts "
                f"{len(self._around)} tokens around it"
            )
        if options.get("stride") is None:
            self.stride = self.window_length
        self.vocab_size = int(self.tokenizer.vocab_size)

    @property
    def _around(self) -> tuple[int, ...]:
        return (*self.tokenizer.prefix_ids, *self.tokenizer.suffix_ids)

    @property
    def window_length(self) -> int:
        """Tokens of the text in a window: T, without those around it."""
        return self.context_length - len(self._around)

    def sample_ids(self, most: int) -> list[int]:
        """The beginning of the validation tokens, or of those to train on, as a window has it."""
        ids = super().sample_ids(max(1, most - len(self._around)))
        return [*self.tokenizer.prefix_ids, *ids, *self.tokenizer.suffix_ids]

    def sample_text(self) -> str:
        """The first words of the training text, and a mask behind them."""
        specials = set(self.tokenizer.special_ids.values())
        ids = [token_id for token_id in self.train_tokens[:SAMPLE_TOKENS].tolist() if token_id not in specials]
        words = first_words(self.tokenizer.decode(ids), len(self.train_tokens) > SAMPLE_TOKENS, most=2)
        try:
            self.tokenizer.encode(" ")
        except TokenizerError:  # of characters, learned from a text without spaces
            return f"{words}{MASK}"
        return f"{words} {MASK}"

    def masked_sample(self, ids: Sequence[int]) -> list[int]:
        """Token ids (T) to look at, masked as those of a window are."""
        row = torch.tensor([list(ids)])
        return list(self.evaluation_masking(TokenBatch(row, row), [0], 0).inputs[0].tolist())

    @cached_property
    def masking(self) -> Masking:
        """The masking of the tokens to train on."""
        return self._masking(self.seed)

    @cached_property
    def evaluation_masking(self) -> Masking:
        """The masking of the tokens to validate and test on."""
        return self._masking(EVALUATION_SEED)

    def _masking(self, seed: int) -> Masking:
        special_ids, mask_id = list(self.tokenizer.special_ids.values()), self.tokenizer.mask_id
        assert mask_id is not None
        return Masking(mask_id, special_ids, self.vocab_size, self.masked_fraction, seed, self._word_edges)

    @cached_property
    def _word_edges(self) -> WordEdges | None:
        return WordEdges.of(self.tokenizer) if self.whole_words else None

    @property
    def supervised_fraction(self) -> float:
        """The masked fraction."""
        return self.masked_fraction

    def bytes_per_token(self, split: str) -> float | None:
        """None: a text is not coded by what masked tokens cost, each seen from both sides."""
        del split
        return None

    def make_rows(self, tokens: TokenArray, stride: int, *, training: bool) -> RowSource:
        """The windows over a split, masked."""
        masking = self.masking if training else self.evaluation_masking
        rows = super().make_rows(tokens, stride, training=training)
        if self._around:
            rows = WholeRows(rows, self.tokenizer.prefix_ids, self.tokenizer.suffix_ids)
        return MaskedRows(rows, masking)
