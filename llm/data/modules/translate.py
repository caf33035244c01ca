"""Pairs of sentences, to learn to translate the one into the other."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llm.config import TokenizerConfig
from llm.data.dates import DATES, date_pairs
from llm.data.held_out import held_out_rows, problems_of_fraction
from llm.data.loader import BatchLoader
from llm.data.modules.base import ResumableDataModule
from llm.data.modules.tokenizers import ready_tokenizer
from llm.data.order import BatchOrder, LengthOrder
from llm.data.reading.pairs import Pair, read_pairs
from llm.data.translation import TranslationRows
from llm.errors import ConfigError, DataError, TokenizerError
from llm.pretrained import read_source_tokenizer, read_tokenizer
from llm.runtime.words import counted
from llm.tokenizers import LEARNED, Tokenizer, build_tokenizer
from llm.tokenizers.base import UnknownPieceError

log = logging.getLogger("llm")

_CHARACTERS = TokenizerConfig(kind="char")


class TranslationDataModule(ResumableDataModule):
    """Pairs of a source sentence and its translation, batched by length.

    All pairs are held in memory. A sentence that occurs with several translations is in one split with all of them:
    splits are by distinct source.

    Args:
        corpus: what to train on: `dates`, which is generated; a table with a tab between columns, or JSON lines
            (`.jsonl`); or a list of two text files, of which each line of the second translates that of the first.
        fields: which columns of a table, counted from 1, or which fields of JSON lines are source and target. Default:
            1 and 2, or `source` and `target`.
        tokenizer: which tokenizer, and its options, for targets; in Python also a ready one. A vocabulary that has to
            be learned is that of `corpus`.
        share_tokenizer: whether sources have the same tokenizer, which then learns from both sides.
        source_tokenizer: as `tokenizer`, for sources; used where they don't share it.
        context_length: the most tokens that a source may have with its end token, and a target with its.
        skip_longer: leave longer pairs out, and say how many; else they are an error.
        batch_size: pairs in a batch, on each device.
        shuffle: give the training pairs a new order every epoch.
        drop_last: skip the training pairs that don't fill a last batch.
        validation_fraction: fraction of the distinct sources, chosen once for all seeds, that is kept for validation;
            `dates` has splits of its own.
        validation_corpus: validate on this instead, and train on the whole corpus.
        test_corpus: what `test` uses. Default: the validation pairs; those of `dates` for it, where corpus is `dates`.
        num_workers: processes that gather batches; 0 is the training process itself, usually the fastest.
        seed: of the order of the training pairs.
        allow_changed_data: resume from a checkpoint although the pairs or their order are no longer the same, so that
            the run no longer repeats an uninterrupted one.
        evaluation_batch_size: pairs in a batch of validation and test, whose losses do not depend on it. null means as
            many as have 8,192 tokens together where each has `context_length`, but no fewer than `batch_size`.

    Raises:
        ConfigError: a setting is invalid.
        CheckpointError: a tokenizer's `checkpoint` is not a checkpoint with a tokenizer.
        DataError: a vocabulary has to be learned from pairs that can't be read.
    """

    order_settings: ClassVar[tuple[str, ...]] = ("context_length", *ResumableDataModule.order_settings)
    least: ClassVar[dict[str, int]] = {"context_length": 2, **ResumableDataModule.least}
    rows_name: ClassVar[str] = "pairs"
    own_splits: ClassVar[tuple[str, ...]] = (DATES,)

    def __init__(
        self,
        corpus: str | list[str] = DATES,
        fields: list[int | str] | None = None,
        tokenizer: TokenizerConfig = _CHARACTERS,
        share_tokenizer: bool = True,
        source_tokenizer: TokenizerConfig = _CHARACTERS,
        context_length: int = 64,
        skip_longer: bool = False,
        batch_size: int = 64,
        shuffle: bool = True,
        drop_last: bool = True,
        validation_fraction: float = 0.05,
        validation_corpus: str | list[str] | None = None,
        test_corpus: str | list[str] | None = None,
        num_workers: int = 0,
        seed: int = 123,
        allow_changed_data: bool = False,
        evaluation_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            *(context_length, batch_size, shuffle, drop_last, num_workers, seed, allow_changed_data),
            evaluation_batch_size,
        )
        self.corpus, self.fields, self.skip_longer = corpus, fields, skip_longer
        self.validation_fraction = validation_fraction
        self.validation_corpus, self.test_corpus = validation_corpus, test_corpus
        self._check_settings(*problems_of_fraction(validation_fraction))
        self._pairs: dict[str, list[Pair]] = {}
        self._rows: dict[str, TranslationRows] = {}
        sides = ("source", "target") if share_tokenizer else ("target",)
        self.tokenizer = self._make_tokenizer(tokenizer, sides)
        self.source_tokenizer = (
            self.tokenizer if share_tokenizer else self._make_tokenizer(source_tokenizer, ("source",))
        )
        self.vocab_size = int(self.tokenizer.vocab_size)
        self.source_vocab_size = int(self.source_tokenizer.vocab_size)

    def _make_tokenizer(self, tokenizer: TokenizerConfig | Tokenizer, sides: Sequence[str]) -> Tokenizer:
        found = ready_tokenizer(tokenizer, read_source_tokenizer if sides == ("source",) else read_tokenizer)
        if not isinstance(found, Tokenizer):
            is_learned = found.kind in LEARNED
            texts = (getattr(pair, side) for pair in self._whole_corpus for side in sides) if is_learned else ()
            found = build_tokenizer(found, texts)
        if found.end_of_text_id is None:
            raise ConfigError(
                "a translation ends with a token that this tokenizer lacks: add <|endoftext|> to its specials"
            )
        return found

    # The pairs

    @property
    def files(self) -> list[Path]:
        """The files of the training pairs; none where they are generated."""
        files = [self.corpus] if isinstance(self.corpus, str) else self.corpus
        return [Path(file) for file in files if file != DATES]

    @cached_property
    def _whole_corpus(self) -> list[Pair]:
        """What the vocabulary is learned from."""
        return list(date_pairs("train")) if self.corpus == DATES else read_pairs(self.corpus, self.fields)

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of `train`, `validation` or `test`, those left out that are too long; none for no validation.

        Raises:
            DataError: they can't be read, or one is too long.
            TokenizerError: one can't be encoded.
        """
        self.rows(split)
        return self._pairs[split]

    def rows(self, split: str) -> TranslationRows:
        """The pairs of a split as token ids; raises what `pairs` raises."""
        if split not in self._rows:
            self._pairs[split], self._rows[split] = self._encode(split, self._read(split))
        return self._rows[split]

    def sentences(self, split: str, most: int) -> list[Pair]:
        """So many pairs of a split, evenly spaced over it: the same in every epoch and for every seed.

        Where the run is to overfit, those of `validation` are the ones that it trains on.
        """
        pairs = self.pairs(split)
        if split == "validation" and self.overfits:
            pairs = [self.pairs("train")[row] for row in self.rows_to_overfit()]
        return [pairs[number] for number in np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int)]

    def _read(self, split: str) -> list[Pair]:
        own = {"train": self.corpus, "validation": self.validation_corpus, "test": self.test_corpus}[split]
        if split != "train" and (own == DATES or (own is None and self.corpus == DATES)):
            return list(date_pairs("validation" if split == "validation" else "test"))
        if split != "train" and own is not None:
            return read_pairs(own, self.fields)
        if split == "test":
            return self._read("validation")
        return [pair for pair in self._whole_corpus if (pair.source in self._held_out) == (split == "validation")]

    @cached_property
    def _held_out(self) -> set[str]:
        """The sources whose pairs are not trained on, but validated on."""
        if self.validation_corpus is not None or self.corpus == DATES:
            return set()
        sources = list(dict.fromkeys(pair.source for pair in self._whole_corpus))
        return {sources[number] for number in held_out_rows(len(sources), self.validation_fraction)}

    def _encode(self, split: str, pairs: list[Pair]) -> tuple[list[Pair], TranslationRows]:
        kept, sources, targets = [], [], []
        for pair in pairs:
            try:
                source, target = self._source_ids(pair.source), self.tokenizer.encode_array(pair.target)
            except TokenizerError as error:
                raise TokenizerError(f"{split} pair {pair.source[:40]!r}, {pair.target[:40]!r}: {error}") from error
            side, length = ("source", len(source)) if len(source) >= len(target) else ("target", len(target))
            if length + 1 <= self.context_length:
                kept.append(pair)
                sources.append(source)
                targets.append(target)
            elif not self.skip_longer:
                raise DataError(
                    f"the {side} {getattr(pair, side)[:40]!r}... for {split} has {length + 1:,} tokens with its end "
                    f"token, more than context_length {self.context_length:,}; set a larger context_length, or "
                    "skip_longer true"
                )
        if len(kept) < len(pairs):
            are_left_out = counted(
                len(pairs) - len(kept), f"pair for {split} is left out", f"pairs for {split} are left out"
            )
            log.info("%s: longer than context_length", are_left_out)
        end_id, source_end_id = self.tokenizer.end_of_text_id, self.source_tokenizer.end_of_text_id
        assert end_id is not None
        assert source_end_id is not None
        return kept, TranslationRows(sources, targets, source_end_id, end_id)

    def _source_ids(self, source: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        try:
            return self.source_tokenizer.encode_array(source)
        except UnknownPieceError as error:
            is_shared = self.source_tokenizer is self.tokenizer
            raise error if is_shared else error.in_setting("data.source_tokenizer") from error

    @cached_property
    def batch_tokens(self) -> int:
        """Tokens to predict in a batch of one device: B times the mean length of the targets."""
        return max(1, round(self.batch_size * float(self.rows("train").targets.lengths.mean() + 1)))

    def split_tokens(self, split: str) -> int:
        """How many tokens the targets of `train` or `validation` have."""
        return int(self.rows(split).targets.lengths.sum())

    @property
    def longest_row(self) -> int:
        """Tokens in the longer side of the longest pair to train on, the token before or behind it included."""
        rows = self.rows("train")
        return int(max(rows.sources.lengths.max(), rows.targets.lengths.max())) + 1

    def sample_ids(self, most: int) -> list[int]:
        """The beginning of the shortest target."""
        pair = min(self.sentences("validation", 100) or self.sentences("train", 100), key=lambda pair: len(pair.target))
        return self.tokenizer.encode(pair.target)[:most]

    def sample_text(self) -> str:
        """The shortest of some sources."""
        return min((pair.source for pair in self.sentences("train", 100)), key=len)

    # What Lightning calls.

    def setup(self, stage: str) -> None:
        """Read and encode what is needed; for `fit`, a test corpus, too, which is to be refused before the run.

        Raises:
            DataError: there is nothing to train or to test on.
        """
        del stage
        if self._running() == "fit" and self.test_corpus is not None:
            self.rows("test")
        for split in self._splits():
            if len(self.rows(split)) == 0 and split != "validation":
                raise DataError(f"there are no pairs to {self._running()} on; give more, or a file for {split}")
        if self._running() == "fit" and self._rank_and_world_size()[0] == 0:
            counts = [f"{len(self.rows(split)):,} for {split}" for split in self._splits()]
            sizes = f"{self.source_vocab_size:,} source and {self.vocab_size:,} target tokens in the vocabularies"
            self._say_once("pairs:       %s; %s", ", ".join(counts), sizes)

    def train_source(self) -> TranslationRows:
        """The training pairs."""
        return self.rows("train")

    def make_train_order(self, rank: int, world_size: int) -> BatchOrder:
        """The training pairs, shuffled, in batches of similar length."""
        lengths = self.rows("train").lengths
        return LengthOrder(lengths, self.batch_size, self.shuffle, self.drop_last, self.seed, rank, world_size)

    def validation_loader(self) -> BatchLoader | list[Any]:
        """The validation pairs by length, all of them."""
        return self._all_of("validation")

    def test_dataloader(self) -> BatchLoader | list[Any]:
        """The test pairs by length, all of them."""
        return self._all_of("test")

    def _all_of(self, split: str) -> BatchLoader | list[Any]:
        rows = self.rows(split)
        return self._by_length(rows) if len(rows) else []

    # What a checkpoint needs to know of the data.

    def data_identity(self) -> dict[str, Any]:
        """Which pairs, which tokenizers, and how many pairs are for training."""
        digest = hashlib.sha256()
        for pair in self.pairs("train"):
            digest.update(f"{pair.source}\t{pair.target}\n".encode("utf-8", "surrogatepass"))
        return {
            "corpus": digest.hexdigest(),
            "tokenizer": self.tokenizer.fingerprint,
            "source_tokenizer": self.source_tokenizer.fingerprint,
            "train_pairs": len(self.pairs("train")),
        }
