"""What of a corpus is for training, for validation and for a test."""

from __future__ import annotations

import math
from functools import cached_property

from llm.data.tokens.counting import count_tokens, text_size
from llm.data.tokens.mapped import TokenArray
from llm.data.tokens.opening import open_corpus
from llm.data.tokens.store import TokenStore
from llm.tokenizers import Tokenizer


class Splits:
    """The token ids of a data module, which has the settings; they are opened, or made, when first asked for."""

    corpus: str | list[str]
    validation_fraction: float
    validation_corpus: str | list[str] | None
    test_corpus: str | list[str] | None
    cache_dir: str
    tokenizer: Tokenizer
    vocab_size: int

    @cached_property
    def corpus_store(self) -> TokenStore:
        """The training corpus (and, without one of its own, the validation text) as token ids."""
        return self._store(self.corpus)

    @cached_property
    def validation_store(self) -> TokenStore:
        """What the validation tokens are part of."""
        return self.corpus_store if self.validation_corpus is None else self._store(self.validation_corpus)

    @cached_property
    def test_store(self) -> TokenStore:
        """What the test tokens are part of."""
        return self.validation_store if self.test_corpus is None else self._store(self.test_corpus)

    def _store(self, corpus: str | list[str]) -> TokenStore:
        return open_corpus(corpus, self.tokenizer, self.cache_dir)

    @property
    def train_tokens(self) -> TokenArray:
        """(N,) ids to train on: the corpus up to the share that is kept for validation."""
        return self.corpus_store.tokens(0, self.split_at)

    @property
    def validation_tokens(self) -> TokenArray:
        """(N,) ids to validate on; empty with a share of 0 and no validation corpus."""
        if self.validation_corpus is None:
            return self.corpus_store.tokens(self.split_at)
        return self.validation_store.tokens()

    @property
    def test_tokens(self) -> TokenArray:
        """(N,) ids to test on: the test corpus, or else the validation tokens."""
        return self.validation_tokens if self.test_corpus is None else self.test_store.tokens()

    @property
    def split_at(self) -> int:
        """Where validation begins. Cut before windowing, so that no window reaches over it."""
        n_tokens = self.corpus_store.n_tokens
        share = self.validation_fraction if self.validation_corpus is None else 0.0
        return n_tokens - math.ceil(n_tokens * share)

    def bytes_per_token(self, split: str) -> float:
        """Mean size in UTF-8 bytes of a token of `validation` or `test`: what turns nats per token into bits per byte.

        Counted token by token; special tokens are no text and have none. Where tokens don't keep white space (words),
        the mean over the whole text instead.
        """
        store = self.validation_store if split == "validation" else self.test_store
        tokens = self.validation_tokens if split == "validation" else self.test_tokens
        if store.n_bytes > 0 and (not self.tokenizer.lossless or len(tokens) == 0):
            return store.n_bytes / store.n_tokens
        n_bytes = text_size(count_tokens(tokens, self.vocab_size), self.tokenizer).n_bytes
        return n_bytes / len(tokens) if n_bytes else math.nan
