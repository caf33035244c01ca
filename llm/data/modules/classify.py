"""Labelled texts as batches: the data of a classifier."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from llm.config import TokenizerConfig
from llm.data.batch import IGNORED
from llm.data.examples import Examples
from llm.data.labelled import counts, encode_text
from llm.data.labelled_splits import LabelledSplits
from llm.data.modules.base import SAMPLE_TOKENS, first_words
from llm.data.modules.examples import ExampleDataModule
from llm.data.modules.tokenizers import ready_tokenizer
from llm.data.order import BalancedOrder, BatchOrder
from llm.data.reading.labelled import LabelledText, labelled_files
from llm.data.tokens.examples import Example
from llm.errors import ConfigError, DataError, TokenizerError
from llm.tokenizers import Tokenizer, build_tokenizer

log = logging.getLogger("llm")

_SAMPLE_CHARACTERS = 120

Balance = Literal["none", "undersample", "oversample", "weights"]
_GPT2 = TokenizerConfig()


class ClassifyDataModule(ExampleDataModule):
    """Texts with a label each. Every text counts once, whatever its white space and case, and is in one split only.

    Texts longer than the context lose their ends; texts without words, and those with several labels, are left out. All
    three are counted and said.

    Args:
        corpus: what to train on: a `.csv`, `.tsv`, `.jsonl` or `.parquet` file with a column of texts and one of
            labels, a folder with a folder of `*.txt` for each label, `messages` (generated), `sms-spam`, or a list of
            these.
        text_column: the column of the text. Default: it is guessed, from its name, or where there are two.
        label_column: the column of the label. Default: it is guessed.
        labels: the labels, in the order of the logits. Default: those of the corpus, in alphabetical order. On the
            command line they come from trained weights, if these have labels.
        tokenizer: which tokenizer, and its options; in Python also a ready one. A vocabulary that has to be learned is
            that of the training texts.
        context_length: T, the most tokens that are read of a text.
        batch_size: texts in a batch, on each device.
        balance: what to do about labels of unequal frequency: `undersample` keeps as many texts of each as the rarest
            has, in all splits; `oversample` repeats texts of the rarer ones in training, differently in every epoch;
            `weights` weighs losses by the inverse frequency of the label.
        shuffle: give the training texts a new order every epoch.
        drop_last: skip the training texts that don't fill a last batch.
        validation_fraction: fraction of the texts of each label that is kept for validation.
        test_fraction: fraction of the texts of each label that is kept for `test`.
        split_seed: chooses which texts are kept; apart from `seed`, so that runs can be compared.
        validation_corpus: validate on this instead. What is in it is not trained on.
        test_corpus: test on this instead. What is in it is not trained on.
        num_workers: processes that gather batches; 0 is the training process itself.
        seed: of the order of the training texts.
        cache_dir: folder for token ids, so that a text is tokenized only once.
        allow_changed_data: resume from a checkpoint although the texts or their order are no longer the same.
        evaluation_batch_size: texts in a batch of validation and test, whose losses do not depend on it. null means
            as many as have 8,192 tokens together where each has T, but no fewer than `batch_size`.

    Raises:
        ConfigError: a setting is invalid.
        DataError: the corpus can't be read, has fewer than two labels, or a label that is not among `labels`.
        CheckpointError: `tokenizer.checkpoint` is not a checkpoint with a tokenizer.
    """

    order_settings: ClassVar[tuple[str, ...]] = (*ExampleDataModule.order_settings, "balance")
    rows_name: ClassVar[str] = "texts"

    def __init__(
        self,
        corpus: str | list[str] = "messages",
        text_column: str | None = None,
        label_column: str | None = None,
        labels: list[str] | None = None,
        tokenizer: TokenizerConfig = _GPT2,
        context_length: int = 128,
        batch_size: int = 8,
        balance: Balance = "none",
        shuffle: bool = True,
        drop_last: bool = True,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        validation_corpus: str | list[str] | None = None,
        test_corpus: str | list[str] | None = None,
        num_workers: int = 0,
        seed: int = 123,
        cache_dir: str = "data/cache",
        allow_changed_data: bool = False,
        evaluation_batch_size: int | None = None,
    ) -> None:
        self.corpus, self.validation_corpus, self.test_corpus = corpus, validation_corpus, test_corpus
        self.balance: Balance = balance
        self.splits = LabelledSplits(
            corpus,
            validation_corpus,
            test_corpus,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            seed=split_seed,
            text_column=text_column,
            label_column=label_column,
            undersampled=balance == "undersample",
        )
        self.rows = self.splits.rows
        self.labels = self._labels(labels)
        super().__init__(
            self._make_tokenizer(tokenizer),
            context_length,
            batch_size,
            shuffle,
            drop_last,
            validation_fraction,
            num_workers,
            seed,
            cache_dir,
            allow_changed_data,
            evaluation_batch_size,
        )

    # The texts

    def _labels(self, given: list[str] | None) -> list[str]:
        """The labels, which every row must have one of."""
        if given is None:
            found = sorted(counts(self.rows["train"]))
            if len(found) < 2:
                raise DataError(
                    "a classifier needs texts of two labels or more to train on; the corpus has "
                    f"{f'only {found[0]!r}' if found else 'none'}"
                )
        else:
            found = list(given)
            if len(found) < 2 or len(set(found)) < len(found):
                raise ConfigError(f"labels must be two or more, all different, got {found}")
        own = {"validation": self.validation_corpus, "test": self.test_corpus}
        for split, rows in self.rows.items():
            hint = f"; --data.{split}_corpus null holds out a part of the corpus" if own.get(split) is not None else ""
            if split == "train":
                hint = "; --data.labels null takes those of the corpus, with a new head"
            for row in rows:
                if row.label not in found:
                    raise DataError(
                        f"{row.place}: the label {row.label!r} ({split}) is none of those that are trained: "
                        f"{', '.join(found)[:80]}{hint}"
                    )
        return found

    def _make_tokenizer(self, tokenizer: TokenizerConfig | Tokenizer) -> Tokenizer:
        if isinstance(tokenizer := ready_tokenizer(tokenizer), Tokenizer):
            return tokenizer
        return build_tokenizer(tokenizer, [row.text for row in self.rows["train"]])

    def counts(self, split: str) -> dict[str, int]:
        """How many texts of each label a split has."""
        found = counts(self.rows[split])
        return {label: found[label] for label in self.labels}

    @cached_property
    def class_weights(self) -> list[float] | None:
        """What the losses of each label are multiplied by, 1 on average over the texts; None for no weights."""
        if self.balance != "weights":
            return None
        found = self.counts("train")
        total = sum(found.values())
        return [total / (len(found) * max(1, count)) for count in found.values()]

    # What the base asks for

    @property
    def files(self) -> list[Path]:
        """The files of the corpus; none if it is generated."""
        return labelled_files(self.corpus)

    def sample_text(self) -> str:
        """The beginning of the text to look at, as it stands in the corpus: its words may be new to the model."""
        split = "validation" if self.rows["validation"] else "train"
        found = self.examples(split)
        assert found is not None
        text = self.rows[split][self._index_of(found, SAMPLE_TOKENS)].text
        return first_words(text[:_SAMPLE_CHARACTERS], is_cut=len(text) > _SAMPLE_CHARACTERS)

    def _find_examples(self, split: str) -> Examples | None:
        if split == "test" and not self.rows["test"]:
            return self.examples("validation")
        return Examples(self._store(split), vocab_size=self.vocab_size) if self.rows[split] else None

    def source_of(self, split: str) -> str | None:
        """A hash of the texts and labels of a split."""
        if not self.rows[split] and split != "train":
            return None
        described: list[Any] = [self.context_length, self.labels, [(row.text, row.label) for row in self.rows[split]]]
        if self.tokenizer.prefix_ids:
            described.append(self.tokenizer.prefix_ids)
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def read_examples(self, split: str) -> Iterator[Example]:
        """The texts of a split as token ids, each with its class as the target of the last token."""
        cut = 0
        for row in self.rows[split]:
            try:
                ids = encode_text(self.tokenizer, row.text, self.context_length + 1)
            except TokenizerError as error:
                raise TokenizerError(f"{row.place}: {error}") from error
            cut += len(ids) > self.context_length
            ids = ids[: self.context_length]
            yield Example(ids, [IGNORED] * (len(ids) - 1) + [self.labels.index(row.label)])
        if cut:
            verb, whose = ("is", "its end is") if cut == 1 else ("are", "their ends are")
            log.info(
                "%s of %s texts for %s %s longer than the context: %s cut off",
                *(cut, len(self.rows[split]), split, verb, whose),
            )

    def _classes(self, rows: Sequence[LabelledText]) -> np.ndarray:
        return np.array([self.labels.index(row.label) for row in rows], np.int64)

    def make_train_order(self, rank: int, world_size: int) -> BatchOrder:
        """The training texts, shuffled, in batches of similar length; balanced, if they are to be oversampled."""
        if self.balance != "oversample":
            return super().make_train_order(rank, world_size)
        return BalancedOrder(
            self._classes(self.rows["train"]),
            self.train_examples.lengths,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    @property
    def supervised_fraction(self) -> float:
        """One token of each text has a target."""
        return self.batch_size / self.batch_tokens

    def bytes_per_token(self, split: str) -> None:
        """None: a label says nothing about bytes."""
        del split
