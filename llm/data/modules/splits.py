"""The training, validation and test split of a corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from llm.data.reading.corpus import resolve_corpus
from llm.data.tokens.counting import count_tokens, text_size
from llm.data.tokens.mapped import TokenArray
from llm.data.tokens.opening import find_token_ids, open_corpus
from llm.data.tokens.store import TokenStore
from llm.data.tokens.tokenize import SpecialTokens
from llm.tokenizers import Tokenizer

_STORES = {
    "fit": ("corpus_store", "validation_store"),
    "validate": ("validation_store",),
    "test": ("test_store",),
}


@dataclass
class TextSplits:
    """The token ids of a corpus, split by position; they are opened, or made, when first needed.

    Args:
        corpus: what to train on; see `TextDataModule`.
        tokenizer: what encodes it.
        cache_dir: folder for token ids.
        validation_fraction: fraction of the tokens, from the end of the corpus, that is kept for validation.
        validation_corpus: validate on this instead, and train on the whole corpus.
        test_corpus: what a test uses. Default: the validation tokens.
        special_tokens: what those in a text are.
    """

    corpus: str | list[str]
    tokenizer: Tokenizer
    cache_dir: str
    validation_fraction: float = 0.1
    validation_corpus: str | list[str] | None = None
    test_corpus: str | list[str] | None = None
    special_tokens: SpecialTokens = "as_tokens"
    _bytes_per_token: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, running: str) -> None:
        """Make the token ids that `fit`, `validate` or `test` needs and the cache does not hold.

        Raises:
            DataError: a text can't be read; for `fit`, also if the test corpus is not there.
        """
        if running == "fit" and self.test_corpus is not None and find_token_ids(self.test_corpus) is None:
            resolve_corpus(self.test_corpus)
        for name in _STORES.get(running, ()):
            getattr(self, name)

    def sizes(self, running: str) -> dict[str, int]:
        """Number of tokens in each split that `fit`, `validate` or `test` needs; 0 of a split that must have some."""
        stores = _STORES.get(running, ())
        found: dict[str, int] = {}
        if "corpus_store" in stores:
            found["train"] = len(self.train_tokens())
        if "validation_store" in stores and (self.validation_corpus is not None or self.validation_fraction > 0):
            found["validation"] = len(self.validation_tokens)
        if "test_store" in stores:
            found["test"] = len(self.test_tokens)
        return found

    @cached_property
    def corpus_store(self) -> TokenStore:
        """The training corpus (and, without one of its own, the validation text) as token ids."""
        return self._open(self.corpus)

    @cached_property
    def validation_store(self) -> TokenStore:
        """What the validation tokens are part of."""
        return self.corpus_store if self.validation_corpus is None else self._open(self.validation_corpus)

    @cached_property
    def test_store(self) -> TokenStore:
        """What the test tokens are part of."""
        return self.validation_store if self.test_corpus is None else self._open(self.test_corpus)

    def _open(self, corpus: str | list[str]) -> TokenStore:
        return open_corpus(corpus, self.tokenizer, self.cache_dir, self.special_tokens)

    @property
    def split_at(self) -> int:
        """Where validation begins. Split before windowing, so that no window crosses it."""
        n_tokens = self.corpus_store.n_tokens
        fraction = self.validation_fraction if self.validation_corpus is None else 0.0
        return n_tokens - math.ceil(n_tokens * fraction)

    def train_tokens(self, read_ahead: bool = True) -> TokenArray:
        """(N,) ids to train on: the corpus up to the fraction that is kept for validation.

        Args:
            read_ahead: see `MappedTokens`.
        """
        return self.corpus_store.tokens(0, self.split_at, read_ahead)

    @property
    def validation_tokens(self) -> TokenArray:
        """(N,) ids to validate on; empty with a fraction of 0 and no validation corpus."""
        if self.validation_corpus is None:
            return self.corpus_store.tokens(self.split_at)
        return self.validation_store.tokens()

    @property
    def test_tokens(self) -> TokenArray:
        """(N,) ids to test on: the test corpus, or else the validation tokens."""
        return self.validation_tokens if self.test_corpus is None else self.test_store.tokens()

    def bytes_per_token(self, split: str) -> float:
        """Mean size in UTF-8 bytes of a token of a split: what turns nats per token into bits per byte.

        Counted token by token; special tokens have none. Where tokens don't keep white space (words),
        the mean over the whole text instead.
        """
        if split not in self._bytes_per_token:
            self._bytes_per_token[split] = self._count_bytes_per_token(split)
        return self._bytes_per_token[split]

    def _count_bytes_per_token(self, split: str) -> float:
        if split == "train":
            store, tokens = self.corpus_store, self.train_tokens()
        elif split == "validation":
            store, tokens = self.validation_store, self.validation_tokens
        else:
            store, tokens = self.test_store, self.test_tokens
        if store.n_bytes > 0 and (not self.tokenizer.lossless or len(tokens) == 0):
            return store.n_bytes / store.n_tokens
        n_bytes = text_size(count_tokens(tokens, self.tokenizer.vocab_size), self.tokenizer).n_bytes
        return n_bytes / len(tokens) if n_bytes else math.nan
