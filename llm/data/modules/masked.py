"""Windows of a text with some of their tokens masked."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, ClassVar

from llm.data.loader import RowSource
from llm.data.masking import MaskedRows, Masking, WordEdges
from llm.data.modules.text import TextDataModule
from llm.data.tokens.mapped import TokenArray
from llm.errors import ConfigError
from llm.tokenizers import MASK

EVALUATION_SEED = 123
"""Of the masks for validation and test, so that runs with different seeds are measured alike."""


class MaskedDataModule(TextDataModule):
    """A text corpus, and the windows cut from it with some of their tokens masked; after BERT (Devlin et al. 2018).

    The masks depend on nothing but (seed, epoch, window), so that a resumed run repeats them; those for validation and
    test on the window alone. The tokenizer has the special token `[MASK]`, which is added where it is missing. Texts
    are encoded without it, so that a text is tokenized once for this task and for language models.

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
        self.tokenizer = encoder.with_special(MASK)
        self.vocab_size = int(self.tokenizer.vocab_size)

    @cached_property
    def masking(self) -> Masking:
        """The masking of the tokens to train on."""
        return self._masking(self.seed)

    @cached_property
    def evaluation_masking(self) -> Masking:
        """The masking of the tokens to validate and test on."""
        return self._masking(EVALUATION_SEED)

    def _masking(self, seed: int) -> Masking:
        specials = self.tokenizer.special_ids
        special_ids = list(specials.values())
        return Masking(specials[MASK], special_ids, self.vocab_size, self.masked_fraction, seed, self._word_edges)

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
        return MaskedRows(super().make_rows(tokens, stride, training=training), masking)
