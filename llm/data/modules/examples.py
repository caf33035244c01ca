"""Examples of unequal length as batches: the base of tasks with samples of their own."""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llm.data.examples import Examples
from llm.data.held_out import held_out_rows, problems_of_fraction
from llm.data.loader import BatchLoader, RowSource
from llm.data.modules.base import SAMPLE_TOKENS, ResumableDataModule, first_words
from llm.data.order import BatchOrder, LengthOrder, padding_fraction
from llm.data.tokens.examples import Example, ExampleStore, open_or_build_examples
from llm.data.tokens.mapped import TokenArray
from llm.errors import DataError
from llm.runtime.words import counted
from llm.tokenizers import Tokenizer

log = logging.getLogger("llm")

_MEASURED_BATCHES = 1000


class ExampleDataModule(ResumableDataModule):
    """Examples of unequal length, kept in a store and batched by length.

    A subclass says where examples come from: `read_examples` gives those of a split, and `source_of` says what they are
    made from. A split without a source of its own is taken from another: validation from a fraction of the training
    examples, test from validation.

    Args:
        tokenizer: what the examples are encoded with.
        context_length: T, the most tokens that an example may have.
        batch_size: examples in a batch, on each device.
        shuffle: give the training examples a new order every epoch.
        drop_last: skip the training examples that don't fill a last batch.
        validation_fraction: fraction of the training examples, chosen once for all seeds, that is kept for validation.
        num_workers: processes that gather batches; 0 is the training process itself.
        seed: of the order of the training examples.
        cache_dir: folder for stores of examples, so that they are made only once.
        allow_changed_data: resume from a checkpoint although the data or its order is no longer the same.
        evaluation_batch_size: examples in a batch of validation and test, whose losses do not depend on it. null means
            as many as have 8,192 tokens together where each has T, but no fewer than `batch_size`.

    Raises:
        ConfigError: a setting is invalid.
    """

    order_settings: ClassVar[tuple[str, ...]] = ("context_length", *ResumableDataModule.order_settings)
    least: ClassVar[dict[str, int]] = {"context_length": 1, **ResumableDataModule.least}
    rows_name: ClassVar[str] = "examples"

    def __init__(
        self,
        tokenizer: Tokenizer,
        context_length: int = 256,
        batch_size: int = 4,
        shuffle: bool = True,
        drop_last: bool = True,
        validation_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 123,
        cache_dir: str = "data/cache",
        allow_changed_data: bool = False,
        evaluation_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            *(context_length, batch_size, shuffle, drop_last, num_workers, seed, allow_changed_data),
            evaluation_batch_size,
        )
        self.validation_fraction = validation_fraction
        self.cache_dir = cache_dir
        self._check_settings(*problems_of_fraction(validation_fraction))
        self.tokenizer = tokenizer
        self.vocab_size = int(tokenizer.vocab_size)
        self._stores: dict[str, ExampleStore] = {}
        self._examples: dict[str, Examples | None] = {}

    # What a subclass says.

    @abstractmethod
    def source_of(self, split: str) -> str | None:
        """A hash of what the examples of `train`, `validation` or `test` are made from, and of the settings that decide
        how; None if the split has nothing of its own, which `train` must have."""

    @abstractmethod
    def read_examples(self, split: str) -> Iterator[Example]:
        """The examples of a split that has a source; called only if they are not in the cache."""

    # The examples

    def examples(self, split: str) -> Examples | None:
        """The examples of `train`, `validation` or `test`; None for no validation.

        Raises:
            DataError: they can't be read.
        """
        if split not in self._examples:
            self._examples[split] = self._find_examples(split)
        return self._examples[split]

    def _find_examples(self, split: str) -> Examples | None:
        own = self.source_of(split) is not None
        if split == "test" and not own:
            return self.examples("validation")
        if split != "train" and own:
            return Examples(self._store(split), vocab_size=self.vocab_size)
        store = self._store("train")
        divided = self.source_of("validation") is None
        for_validation = held_out_rows(store.n_examples, self.validation_fraction if divided else 0)
        if split == "train":
            for_training = np.setdiff1d(np.arange(store.n_examples), for_validation)
            return Examples(store, for_training, self.vocab_size)
        return Examples(store, for_validation, self.vocab_size) if len(for_validation) else None

    @property
    def train_examples(self) -> Examples:
        """What to train on."""
        found = self.examples("train")
        assert found is not None
        return found

    def _store(self, split: str) -> ExampleStore:
        if split not in self._stores:
            source = self.source_of(split)
            if source is None:
                raise DataError(f"there are no examples for {split}")
            self._stores[split] = open_or_build_examples(
                lambda: self.read_examples(split), source, self.tokenizer, self.cache_dir
            )
        return self._stores[split]

    @cached_property
    def batch_tokens(self) -> int:
        """Tokens in a batch of one device without padding: B times the mean length of a row."""
        return max(1, round(self.batch_size * float(self.row_lengths.mean())))

    @property
    def row_lengths(self) -> npt.NDArray[np.int64]:
        """(N) tokens in each row of a training batch."""
        return self.train_examples.lengths

    @property
    def train_tokens(self) -> TokenArray:
        """The token ids of the examples to train on, one example after the other."""
        return self.train_examples.store.inputs

    def split_tokens(self, split: str) -> int:
        """How many tokens `train` or `validation` has."""
        found = self.examples(split)
        return 0 if found is None else int(found.lengths.sum())

    @property
    def longest_row(self) -> int:
        """Tokens in the longest row to train on."""
        return int(self.row_lengths.max())

    def sample_ids(self, most: int) -> list[int]:
        """The longest validation example of so few tokens, or the beginning of the shortest."""
        return self._example_of(most)[:most]

    def sample_text(self) -> str:
        """That example, whole if it is short."""
        ids = self._example_of(SAMPLE_TOKENS)
        return first_words(self.tokenizer.decode(ids[:SAMPLE_TOKENS]), is_cut=len(ids) > SAMPLE_TOKENS)

    def _example_of(self, most: int) -> list[int]:
        found = self.examples("validation") or self.train_examples
        return [int(token) for token in found[self._index_of(found, most)][0]]

    @staticmethod
    def _index_of(found: Examples, most: int) -> int:
        """The longest example of up to so many tokens, or the shortest."""
        fitting = np.where(found.lengths <= most, found.lengths, 0)
        return int(fitting.argmax() if fitting.any() else found.lengths.argmin())

    # What Lightning calls.

    def prepare_data(self) -> None:
        """Make the stores that are not in the cache yet; on one process of each machine."""
        for split in self._splits():
            self.examples(split)

    def setup(self, stage: str) -> None:
        """Check the examples against the context length.

        Raises:
            DataError: an example is longer; or there is none to test on.
        """
        del stage
        for split in self._splits():
            found = self.examples(split)
            if found is None or len(found) == 0:
                if split != "validation":
                    raise DataError(f"there are no examples to {self._running()} on; give more, or a file for {split}")
                continue
            longest = int(found.lengths.argmax())
            if found.lengths[longest] > self.context_length:
                raise DataError(
                    f"example {found.numbers[longest]:,} for {split} has {found.lengths[longest]:,} tokens, more than "
                    f"context_length {self.context_length:,}; shorten it, or set a larger context_length"
                )
        if self._running() == "fit" and self._rank_and_world_size()[0] == 0:
            order = self.train_order(0, self._rank_and_world_size()[1])
            measured = itertools.islice(order, _MEASURED_BATCHES)
            fraction = padding_fraction(measured, self.row_lengths)
            count = counted(len(self.train_examples), "example")
            self._say_once("%s to train on; %.1f %% of a batch is padding", count, 100 * fraction)

    def train_source(self) -> RowSource:
        """The training examples."""
        return self.train_examples

    def make_train_order(self, rank: int, world_size: int) -> BatchOrder:
        """The training examples, shuffled, in batches of similar length."""
        lengths = self.train_examples.lengths
        return LengthOrder(lengths, self.batch_size, self.shuffle, self.drop_last, self.seed, rank, world_size)

    def validation_loader(self) -> BatchLoader | list[Any]:
        """The validation examples by length, all of them."""
        found = self.examples("validation")
        return [] if found is None else self._by_length(found)

    def test_dataloader(self) -> BatchLoader | list[Any]:
        """The test examples by length, all of them."""
        found = self.examples("test")
        return [] if found is None else self._by_length(found)

    # What a checkpoint needs to know of the data.

    def data_identity(self) -> dict[str, Any]:
        """Which examples, which tokenizer, and how many of them are for training."""
        return {
            "examples": self._store("train").content_hash,
            "tokenizer": self.tokenizer.fingerprint,
            "train_examples": len(self.train_examples),
        }
