"""Rows of words and their contexts, for word vectors."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np

from llm.config import TokenizerConfig
from llm.data.contexts import ContextRows, WordSampling
from llm.data.loader import RowSource
from llm.data.modules.masked import EVALUATION_SEED
from llm.data.modules.text import TextDataModule
from llm.data.tokens.counting import count_tokens
from llm.data.tokens.mapped import TokenArray
from llm.data.tokens.opening import open_corpus
from llm.errors import ConfigError, DataError
from llm.runtime.words import counted
from llm.tokenizers import Tokenizer, WordTokenizer

_WORDS = TokenizerConfig("word", pattern="lowercase")
_UNKNOWN = "<|unk|>"


class WordVectorsDataModule(TextDataModule):
    """A text corpus as rows of words, in which frequent words are thinned out, contexts are of random width, and noise
    words are drawn; after Mikolov et al. 2013.

    What is drawn depends on nothing but (seed, epoch, row), so that a resumed run repeats it; for validation and test
    on the row alone. A context does not go beyond its row. A vocabulary of words that is learned here is in the order
    of frequency, without the rare words.

    Args:
        min_count: words that occur less often in the corpus are dropped before there are contexts.
        window: the widest context: so many words on each side. The width of each is drawn from 1 to this.
        sample: t, the threshold for frequent words: one of relative frequency f is kept with the probability
            sqrt(t / f) + t / f. 0 keeps all.
        n_noise: noise words drawn for each row, which all its pairs are told from, weighted as `negatives` words.
        tokenizer: which tokenizer, and its options; in Python also a ready one.
        context_length: T, words in a row, before frequent ones are dropped.
        batch_size: rows in a batch, on each device.
        **options: the other ones of a `TextDataModule`.

    Raises:
        ConfigError: a setting is invalid.
        CheckpointError: `tokenizer.checkpoint` is not a checkpoint with a tokenizer.
        DataError: the corpus can't be read, or no word in it occurs `min_count` times.
    """

    order_settings: ClassVar[tuple[str, ...]] = (
        *TextDataModule.order_settings,
        "min_count",
        "window",
        "sample",
        "n_noise",
    )
    least: ClassVar[dict[str, int]] = {
        **TextDataModule.least,
        "context_length": 2,
        "min_count": 1,
        "window": 1,
        "n_noise": 1,
    }

    def __init__(
        self,
        *,
        min_count: int = 5,
        window: int = 5,
        sample: float = 1e-3,
        n_noise: int = 64,
        tokenizer: TokenizerConfig = _WORDS,
        context_length: int = 128,
        batch_size: int = 64,
        **options: Any,
    ) -> None:
        self.min_count = min_count
        self.window = window
        self.sample = sample
        self.n_noise = n_noise
        if not 0 <= sample < 1:
            raise ConfigError(f"sample must be in [0, 1), got {sample}")
        super().__init__(tokenizer=tokenizer, context_length=context_length, batch_size=batch_size, **options)

    def _make_tokenizer(self, tokenizer: TokenizerConfig | Tokenizer) -> Tokenizer:
        """As its base does; where that learns the words of the corpus, without the rare ones."""
        made = super()._make_tokenizer(tokenizer)
        is_ready = isinstance(tokenizer, Tokenizer) or tokenizer.checkpoint is not None
        if is_ready or not isinstance(made, WordTokenizer) or self.min_count == 1:
            return made
        store = open_corpus(self.corpus, made, self.cache_dir)
        counts = count_tokens(store.tokens(), made.vocab_size)[: len(made.vocabulary)]
        by_frequency = np.argsort(-counts, kind="stable")
        words = [made.vocabulary[word] for word in by_frequency.tolist() if counts[word] >= self.min_count]
        if not words:
            raise DataError(
                f"no word of the corpus occurs {counted(self.min_count, 'time')}; use a smaller min_count or more text"
            )
        return WordTokenizer(words, made.pattern, made.specials).with_special(_UNKNOWN)

    @cached_property
    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(V) how often each word occurs in the training tokens; 0 for special tokens, and for rare words."""
        counts = count_tokens(self.train_tokens, self.vocab_size)
        counts[list(self.tokenizer.special_ids.values())] = 0
        return np.where(counts >= min(self.min_count, counts.max()), counts, 0)

    def setup(self, stage: str) -> None:
        """As its base does, and make sure that there is something to learn, and to measure it on.

        Raises:
            DataError: a single word is learned, or none of what is measured on.
        """
        super().setup(stage)
        if len(learned := self.counts.nonzero()[0]) == 1:
            word = self.tokenizer.decode(learned.tolist())
            raise DataError(
                f"{word!r} is the only word that occurs often enough to learn a vector for it, and a vector is worth "
                "something beside others; use a smaller min_count or more text"
            )
        held_out = {"fit": "validation", "validate": "validation", "test": "test"}.get(self._running())
        if held_out is None or not self.counts.any():  # what there is to train on, `train_source` says
            return
        tokens = self.test_tokens if held_out == "test" else self.validation_tokens
        if len(tokens) and not count_tokens(tokens, self.vocab_size)[self.counts > 0].any():
            raise DataError(
                f"the {held_out} text has none of the words that are learned; give it more text or another one "
                f"(data.{held_out}_corpus), or use a smaller min_count"
            )

    def bytes_per_token(self, split: str) -> float | None:
        """None: a text is not coded by what its words cost, each seen from both sides."""
        del split
        return None

    def make_rows(self, tokens: TokenArray, stride: int, *, training: bool) -> RowSource:
        """The rows of a split, with what is drawn for each."""
        rows = super().make_rows(tokens, stride, training=training)
        seed = self.seed if training else EVALUATION_SEED
        sampling = WordSampling(self.counts, self.window, self.sample, self.n_noise, seed)
        return cast(RowSource, ContextRows(rows, sampling))
