"""Instructions and conversations, of which the answers are to be learned."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from llm.config import TokenizerConfig
from llm.data.chat.corpus import ERRANDS, corpus_files
from llm.data.chat.messages import Conversation
from llm.data.chat.samples import Losses, SampleMaker
from llm.data.chat.showing import as_text
from llm.data.chat.splits import ConversationSplits
from llm.data.chat.templates import ChatTemplate
from llm.data.examples import Examples
from llm.data.loader import RowSource
from llm.data.modules.examples import ExampleDataModule
from llm.data.modules.tokenizers import ready_tokenizer
from llm.data.order import BatchOrder
from llm.data.packing import PackedExamples
from llm.data.tokens.examples import Example
from llm.data.tokens.opening import cache_key
from llm.errors import TokenizerError
from llm.runtime.files import write_whole
from llm.tokenizers import LEARNED, Tokenizer, build_tokenizer

log = logging.getLogger("llm")

_GPT2 = TokenizerConfig()
_TEMPLATE = "alpaca"


class InstructDataModule(ExampleDataModule):
    """Instructions and their answers, or conversations, as samples of a chat template.

    Samples with the same prompt, whatever its white space and case, are all in one split, so that none is validated on
    that was trained on.

    Args:
        corpus: what to train on: `errands`, which are generated; or files of records, `.json` or `.jsonl`, each with
            `instruction`, `input` and `output` (Alpaca), with `messages`, or with `prompt` and `completion`.
        tokenizer: which tokenizer, and its options; in Python also a ready one. A vocabulary that has to be learned is
            that of the training conversations. It gets the special tokens of the template.
        template: how a conversation becomes text: `alpaca`, `phi3`, `chatml`, `plain`, a file of Jinja, or Jinja
            itself. Default: the one that comes with the tokenizer, else `alpaca`.
        special_tokens: tokens that the template needs in the vocabulary, besides those it is known to need.
        loss_on: what is learned: the `response`, that is each answer and the token that ends it, or `all`. Validation
            and test are about the response in either case.
        packing: put several training samples into one row of up to T tokens, in which none sees another: the same loss,
            and less padding where samples differ in length. A batch then has `batch_size` such rows.
        context_length: T, the most tokens of a sample. Longer prompts are truncated, answers never.
        batch_size: samples in a batch, on each device.
        shuffle: give the training samples a new order every epoch.
        drop_last: skip the training samples that don't fill a last batch.
        validation_fraction: fraction of the different prompts, chosen once for all seeds, that is kept for validation.
        validation_corpus: validate on this instead. Default for `errands`: those with held-out wordings.
        test_corpus: what `test` uses. Default: the validation samples.
        num_workers: processes that gather batches; 0 is the training process itself.
        seed: of the order of the training samples.
        cache_dir: folder for token ids, so that conversations are tokenized only once.
        allow_changed_data: resume from a checkpoint although the data or its order is no longer the same.
        evaluation_batch_size: samples in a batch of validation and test, whose losses do not depend on it. null means
            as many as have 8,192 tokens together where each has T, but no fewer than `batch_size`.

    Raises:
        ConfigError: a setting is invalid, or the template can't be used.
        DataError: a file can't be read, or a record is none of the three forms.
        TokenizerError: there is no such tokenizer.
    """

    rows_name: ClassVar[str] = "samples"
    own_splits: ClassVar[tuple[str, ...]] = (ERRANDS,)

    def __init__(
        self,
        corpus: str | list[str] = ERRANDS,
        tokenizer: TokenizerConfig = _GPT2,
        template: str | None = None,
        special_tokens: list[str] | None = None,
        loss_on: Literal["response", "all"] = "response",
        packing: bool = False,
        context_length: int = 256,
        batch_size: int = 8,
        shuffle: bool = True,
        drop_last: bool = True,
        validation_fraction: float = 0.1,
        validation_corpus: str | list[str] | None = None,
        test_corpus: str | list[str] | None = None,
        num_workers: int = 0,
        seed: int = 123,
        cache_dir: str = "data/cache",
        allow_changed_data: bool = False,
        evaluation_batch_size: int | None = None,
    ) -> None:
        self.corpus = corpus
        self.splits = ConversationSplits(corpus, validation_corpus, test_corpus, validation_fraction)
        self._sources: dict[str, str] = {}
        found = self._make_tokenizer(tokenizer, template or _TEMPLATE, special_tokens or ())
        name = template or getattr(found, "chat_template", None) or _TEMPLATE
        self.template = ChatTemplate.find(name, special_tokens or (), found)
        super().__init__(
            self.template.prepare(found),
            context_length=context_length,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            validation_fraction=validation_fraction,
            num_workers=num_workers,
            seed=seed,
            cache_dir=cache_dir,
            allow_changed_data=allow_changed_data,
            evaluation_batch_size=evaluation_batch_size,
        )
        self.loss_on, self.packing = loss_on, packing
        self.maker = SampleMaker(self.template, self.tokenizer, context_length)

    def _make_tokenizer(
        self, tokenizer: TokenizerConfig | Tokenizer, template: str, special_tokens: Sequence[str]
    ) -> Tokenizer:
        if isinstance(tokenizer := ready_tokenizer(tokenizer), Tokenizer):
            return tokenizer
        if tokenizer.kind not in LEARNED:
            return build_tokenizer(tokenizer)
        found = ChatTemplate.find(template, special_tokens)
        return build_tokenizer(
            tokenizer,
            (text for conversation in self.conversations("train") for text in found.plain_texts(conversation)),
        )

    # The conversations

    def conversations(self, split: str) -> list[Conversation]:
        """Those of `train`, `validation` or `test`, as they stand in the files.

        Raises:
            DataError: a file can't be read, or a record is none of the three forms.
        """
        return [conversation for _, conversation in self.splits.placed(split)]

    def conversations_to_overfit(self) -> list[Conversation]:
        """Those that some sample of comes in the few batches of a run that is to overfit them."""
        if self.packing:  # where a row is of many
            return self.conversations("train")
        wanted, found, losses, n_samples = set(self.rows_to_overfit()), [], Losses(), 0
        for where, conversation in self.splits.placed("train"):
            first, n_samples = n_samples, n_samples + sum(1 for _ in self.maker.samples(conversation, losses, where))
            if not wanted.isdisjoint(range(first, n_samples)):
                found.append(conversation)
        return found

    @property
    def files(self) -> list[Path]:
        """The files of the training corpus; none if it is generated."""
        return corpus_files(self.corpus)

    def sample_text(self) -> str:
        """The first prompt that is held out, or trained on."""
        return self.conversations("validation" if self.examples("validation") else "train")[0][0].content

    # What the base asks for.

    def source_of(self, split: str) -> str | None:
        """A hash of the conversations, and of all that decides how they become samples."""
        if not self.splits.has_own(split):
            return None
        if split not in self._sources:
            self._sources[split] = self._hash(split)
        return self._sources[split]

    def _hash(self, split: str) -> str:
        told = [split, self.validation_fraction, self.context_length, self.loss_on, self.template.to_dict()]
        whole = hashlib.sha256(json.dumps(told).encode())
        for conversation in self.conversations(split):
            whole.update(json.dumps([dataclasses.astuple(message) for message in conversation]).encode())
        return whole.hexdigest()

    def _find_examples(self, split: str) -> Examples | None:
        if split == "validation" and self.splits.divides_corpus and not any(self.splits.held_out):
            return None  # there is one prompt, which is trained on
        return super()._find_examples(split)

    def read_examples(self, split: str) -> Iterator[Example]:
        """The samples of a split; what was lost is written beside the cache."""
        losses = Losses()
        # What is validated on is the response, whatever is learned.
        maker = dataclasses.replace(self.maker, learn_all=self.loss_on == "all" and split == "train")
        for where, conversation in self.splits.placed(split):
            try:
                yield from maker.samples(conversation, losses, where)
            except TokenizerError as error:
                raise TokenizerError(f"{where}: {error}") from error
        path = self._losses_path(split)
        write_whole(path, json.dumps(dataclasses.asdict(losses)).encode())

    def _losses_path(self, split: str) -> Path:
        key = cache_key(str(self.source_of(split)), self.tokenizer.fingerprint, "losses")
        return Path(self.cache_dir) / f"{key}.losses.json"

    def losses(self, split: str) -> Losses:
        """What was lost on the way from the conversations of a split to samples."""
        self.examples(split)
        try:
            return Losses(**json.loads(self._losses_path(split).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # it is not in the cache any more: count again
            losses = Losses()
            for where, conversation in self.splits.placed(split):
                for _ in self.maker.samples(conversation, losses, where):
                    pass
            return losses

    def prepare_data(self) -> None:
        """As for all examples; a test corpus is read before the run that is tested on it."""
        if self._running() == "fit" and self.splits.has_own("test"):
            self.splits.placed("test")
        super().prepare_data()

    def setup(self, stage: str) -> None:
        """Say how much is supervised, and what was lost.

        Raises:
            DataError: there is nothing to train or test on.
        """
        super().setup(stage)
        if self._rank_and_world_size()[0] != 0:
            return
        if self._running() == "fit":
            fraction = 100 * self.supervised_fraction
            self._say_once("supervised:  %.0f %% of the tokens (loss_on %s)", fraction, self.loss_on)
        for split in self._splits():
            if self.examples(split) is not None:
                for sentence in self.losses(self.splits.source(split)).sentences(self.context_length):
                    self._say_once("%s: %s", split, sentence, level=logging.WARNING)

    @property
    def supervised_fraction(self) -> float:
        """Fraction of the tokens to train on that have a target."""
        store = self.train_examples.store
        return store.n_supervised / store.n_tokens

    # Packing

    @cached_property
    def _packed(self) -> PackedExamples:
        return PackedExamples(self.train_examples, self.context_length)

    def train_source(self) -> RowSource:
        """The training samples, or rows of several."""
        return self._packed if self.packing else super().train_source()

    def make_train_order(self, rank: int, world_size: int) -> BatchOrder:
        """Samples in batches of similar length; packed rows are shuffled alone, since all are nearly full."""
        if not self.packing:
            return super().make_train_order(rank, world_size)
        options = self.batch_size, self.shuffle, self.drop_last, self.seed, rank, world_size
        return BatchOrder(len(self._packed), *options)

    @property
    def row_lengths(self) -> npt.NDArray[np.int64]:
        """(N) tokens in each row: a sample, or several."""
        return self._packed.lengths if self.packing else super().row_lengths

    # What is looked at.

    def show_sample(self) -> Example:
        """Show the first sample to train on, with what is supervised in it; gives that sample."""
        example = Example(*self.train_examples[0])
        coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        marks = "in green" if coloured else "between [[ and ]]"
        log.info("a sample, what is supervised %s:\n%s\n", marks, as_text(example, self.tokenizer, coloured))
        return example

    def data_identity(self) -> dict[str, Any]:
        """Which samples, which tokenizer, which template, and whether they are packed."""
        return {**super().data_identity(), "template": self.template.source, "packing": self.packing}
