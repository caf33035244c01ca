"""The base of the data modules: batches in an order that a run can resume."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import lightning as L

from llm.data.examples import Examples
from llm.data.loader import BatchLoader, RowSource
from llm.data.modules.resuming import refuse_other_data
from llm.data.order import BatchOrder, LengthOrder
from llm.data.translation import TranslationRows
from llm.errors import CheckpointError, ConfigError, DataError
from llm.runtime.words import counted
from llm.tokenizers import Tokenizer

log = logging.getLogger("llm")

SAMPLE_TOKENS = 32
"""Tokens at the most of which some words are taken to use a trained model on."""
_SPLITS = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}
_CHARACTERS = 8
"""Of a text without spaces, there."""
_EVALUATION_TOKENS = 8192
"""Of a batch without gradients: enough that a GPU has work, few enough for a processor's cache. Measured: a token takes
as long from 6,000 to 12,000 of them, and up to a quarter longer beyond."""


class ResumableDataModule(L.LightningDataModule, ABC):
    """Batches in an order that a run can resume from its position alone.

    A subclass says what the training rows are (`train_source`), in which order they come (`train_order`) and what a
    checkpoint must know to recognize them (`data_identity`).

    Args:
        context_length: T, the most tokens of a row.
        batch_size: rows in a batch, on each device.
        shuffle: give the training rows a new order every epoch.
        drop_last: skip the training rows that don't fill a last batch.
        num_workers: processes that gather batches; 0 is the training process itself.
        seed: of the order of the training rows.
        allow_changed_data: resume from a checkpoint although the data or its order is no longer the same.
        evaluation_batch_size: rows in a batch of validation and test. None: as many as have 8,192 tokens together
            where each has T, but no fewer than `batch_size`.

    Raises:
        ConfigError: a setting is invalid.
    """

    order_settings: ClassVar[tuple[str, ...]] = ("batch_size", "shuffle", "drop_last", "seed")
    """The settings that training batches depend on; a checkpoint keeps them."""

    least: ClassVar[dict[str, int]] = {"batch_size": 1, "evaluation_batch_size": 1, "num_workers": 0, "seed": 0}
    """The least value of each of these settings."""

    rows_name: ClassVar[str] = "rows"
    own_splits: ClassVar[tuple[str, ...]] = ()
    """Corpora that come with what is held out of them, whatever fraction is set."""

    advice_on_too_few: ClassVar[str] = "use a smaller batch_size, or --data.drop_last false"

    tokenizer: Tokenizer
    vocab_size: int

    def __init__(
        self,
        context_length: int,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        num_workers: int,
        seed: int,
        allow_changed_data: bool,
        evaluation_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.context_length = context_length
        self.batch_size = batch_size
        self.evaluation_batch_size = (
            max(batch_size, _EVALUATION_TOKENS // max(1, context_length))
            if evaluation_batch_size is None
            else evaluation_batch_size
        )
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.seed = seed
        self.allow_changed_data = allow_changed_data
        self._said: set[str] = set()

    def _check_settings(self, *problems: str) -> None:
        """Check the settings in `least` against their least values.

        Raises:
            ConfigError: they are below it, or there are other problems.
        """
        found = [
            f"{name} must be at least {least}, got {getattr(self, name)}"
            for name, least in self.least.items()
            if getattr(self, name) < least
        ]
        if found or problems:
            raise ConfigError(*found, *problems)

    # What a subclass says.

    @abstractmethod
    def train_source(self) -> RowSource:
        """The rows to train on."""

    @abstractmethod
    def make_train_order(self, rank: int, world_size: int) -> BatchOrder:
        """Which of them make up which batch of one process."""

    @abstractmethod
    def data_identity(self) -> dict[str, Any]:
        """What identifies the training data, as primitives: a checkpoint keeps it beside `order_settings`."""

    @property
    @abstractmethod
    def batch_tokens(self) -> int:
        """Tokens in a batch of one device: B * T where all rows have T tokens, else B times their mean length.

        It is the same for all batches of a run.
        """

    @property
    def supervised_fraction(self) -> float:
        """Fraction of the tokens in a batch that have a target, about."""
        return 1.0

    @abstractmethod
    def validation_loader(self) -> BatchLoader | list[Any]:
        """The batches of the validation split; empty where there is none."""

    @property
    def files(self) -> list[Path]:
        """The files of the training corpus; none if it is of no file."""
        return []

    @abstractmethod
    def split_tokens(self, split: str) -> int:
        """How many tokens `train` or `validation` has."""

    @property
    @abstractmethod
    def longest_row(self) -> int:
        """Tokens in the longest row."""

    def refuse_other_corpus(self, state_dict: dict[str, Any]) -> None:
        """As `load_state_dict`, as far as that can be told before the corpus is tokenized.

        Raises:
            CheckpointError: it is another one, and `allow_changed_data` is off.
            DataError: it can't be read.
        """
        del state_dict

    @abstractmethod
    def sample_ids(self, most: int) -> list[int]:
        """Token ids to look at, `most` at the most: of the validation split, or of the training split without one."""

    def sample_text(self) -> str:
        """Some words to use a trained model on; none of them is cut."""
        ids = self.sample_ids(SAMPLE_TOKENS + 1)
        return first_words(self.tokenizer.decode(ids[:SAMPLE_TOKENS]), is_cut=len(ids) > SAMPLE_TOKENS)

    def _say_once(self, message: str, *values: Any, level: int = logging.INFO) -> None:
        """Log a line that may come again, when the data that the preflight has set up is set up for the run."""
        if (line := message % values) not in self._said:
            self._said.add(line)
            log.log(level, "%s", line)

    # Loaders

    @property
    def overfits(self) -> bool:
        """Whether the run sees the same few batches again and again, and is validated on them (`overfit_batches`)."""
        return getattr(self.trainer, "overfit_batches", 0) > 0 and self._running() == "fit"

    def rows_to_overfit(self) -> list[int]:
        """The training rows that such a run sees, of all processes."""
        assert self.trainer is not None
        batches, world_size = int(self.trainer.num_training_batches), self._rank_and_world_size()[1]
        orders = [self.train_order(rank, world_size) for rank in range(world_size)]
        return [row for batch in range(batches) for order in orders for row in order.rows_of(0, batch)]

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """The batches of the validation split; those that are trained on, where the run is to overfit them."""
        if self.overfits:
            return self._evaluation_loader(self.train_source(), self.train_order(*self._rank_and_world_size()))
        return self.validation_loader()

    def train_order(self, rank: int = 0, world_size: int = 1) -> BatchOrder:
        """The training batches of one process.

        Raises:
            DataError: there is not one full batch, and `drop_last` skips the others.
        """
        order = self.make_train_order(rank, world_size)
        if len(order) == 0:
            rows = counted(order.n_rows, self.rows_name.removesuffix("s"), self.rows_name)
            raise DataError(
                f"no full batch to train on: {rows} for a batch_size of {self.batch_size} on "
                f"{counted(world_size, 'device')}; {self.advice_on_too_few}"
            )
        return order

    def train_dataloader(self) -> BatchLoader:
        """The training batches of this process, from the position that the run has reached.

        Raises:
            DataError: there is not one full batch, and `drop_last` skips the others.
        """
        order = self.train_order(*self._rank_and_world_size())
        return BatchLoader(self.train_source(), order, self._position, self.num_workers, self._pins_memory)

    def _evaluation_loader(self, source: RowSource, order: BatchOrder) -> BatchLoader:
        return BatchLoader(source, order, num_workers=self.num_workers, pin_memory=self._pins_memory)

    def _by_length(self, rows: Examples | TranslationRows) -> BatchLoader:
        """All rows once, those of similar length in a batch."""
        rank, world_size = self._rank_and_world_size()
        order = LengthOrder(rows.lengths, self.evaluation_batch_size, False, False, self.seed, rank, world_size)
        return self._evaluation_loader(rows, order)

    @property
    def _pins_memory(self) -> bool:
        strategy = getattr(self.trainer, "strategy", None)
        return strategy is not None and strategy.root_device.type == "cuda"

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def position_of(self, n_batches: int) -> tuple[int, int]:
        """(epoch, batch) of the training batch that so many batches of the run came before.

        Where the run is to overfit, all epochs are the first.
        """
        assert self.trainer is not None
        epoch, batch = divmod(n_batches, int(self.trainer.num_training_batches))
        return (0 if self.overfits else epoch), batch

    def _position(self) -> tuple[int, int] | None:
        """(epoch, batch) that comes next: from the number of batches taken since the run began."""
        return None if self.trainer is None else self.position_of(self.trainer.fit_loop.total_batch_idx + 1)

    # What a checkpoint needs to know of the data.

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> Any:
        """Not possible; Lightning would unpickle what a URL points to, code included."""
        raise CheckpointError(f"a checkpoint holds no data: make a {cls.__name__} with the settings of the run")

    def state_dict(self) -> dict[str, Any]:
        """What the training batches depend on, besides the position, which is the trainer's."""
        settings = {name: getattr(self, name) for name in self.order_settings}
        return {**settings, "world_size": self._rank_and_world_size()[1], **self.data_identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure that a resumed run has the data that it began with.

        Raises:
            CheckpointError: something differs, and `allow_changed_data` is off.
        """
        if self.trainer is None or self.trainer.state.fn != "fit" or self.allow_changed_data:
            return
        refuse_other_data(state_dict, self.state_dict())

    def _splits(self) -> tuple[str, ...]:
        """The splits that are needed for what is running."""
        return _SPLITS.get(self._running(), ())

    def _running(self) -> str:
        """The stage of the Trainer: `fit`, `validate`, `test` or `predict`; `fit` without one."""
        running = self.trainer.state.fn if self.trainer is not None else "fit"
        return str(getattr(running, "value", running))


def first_words(text: str, is_cut: bool, most: int | None = None) -> str:
    """The words that a text begins with, on one line; where it has no spaces, as in Chinese, its first characters.

    Args:
        text: the first tokens of one, decoded.
        is_cut: whether it goes on behind them, so that its last word may not be whole.
        most: words at the most. Default: all.
    """
    words = text.split()
    whole = words[:-1] if is_cut else words
    return " ".join(whole[:most]) or "".join(words).replace("\ufffd", "")[:_CHARACTERS] or "Once"
