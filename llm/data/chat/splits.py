"""Which conversations are to train on, to validate on and to test on."""

from __future__ import annotations

import json
from functools import cached_property

from llm.data.chat.corpus import ERRANDS, Placed, held_out, read_corpus
from llm.errors import DataError


class ConversationSplits:
    """The conversations of each split, each corpus read once.

    Args:
        corpus: what to train on.
        validation_corpus: what to validate on. Default: for generated errands those with held-out wordings, else a part
            of `corpus`.
        test_corpus: what to test on. Default: what is validated on.
        validation_fraction: fraction of the different prompts of `corpus` that is validated on, where validation has no
            corpus of its own.
    """

    def __init__(
        self,
        corpus: str | list[str],
        validation_corpus: str | list[str] | None,
        test_corpus: str | list[str] | None,
        validation_fraction: float,
    ) -> None:
        if validation_corpus is None and corpus == ERRANDS:
            validation_corpus = f"{ERRANDS}/held_out"
        self.corpora = {"train": corpus, "validation": validation_corpus, "test": test_corpus}
        self.validation_fraction = validation_fraction
        self._read: dict[str, list[Placed]] = {}

    @property
    def divides_corpus(self) -> bool:
        """Whether what is validated on is a part of the corpus."""
        return self.corpora["validation"] is None

    @cached_property
    def held_out(self) -> list[bool]:
        """Which conversations of the corpus are validated on and not trained on, where it is divided."""
        return held_out(self._all("train"), self.validation_fraction)

    def source(self, split: str) -> str:
        """The split that the conversations of one are: tests without a corpus of their own are of validation."""
        return "validation" if split == "test" and self.corpora["test"] is None else split

    def has_own(self, split: str) -> bool:
        """Whether a split is something by itself, rather than another one or nothing."""
        if split == "validation" and self.divides_corpus:
            return self.validation_fraction > 0
        return self.source(split) == split

    def placed(self, split: str) -> list[Placed]:
        """The conversations of `train`, `validation` or `test`, and where each stands.

        Raises:
            DataError: a file can't be read, or a record is none of the three forms; or there is none.
        """
        split = self.source(split)
        found = self._all(split)
        if split == "test" or not self.divides_corpus:
            return found
        return [placed for placed, kept in zip(found, self.held_out, strict=True) if kept == (split == "validation")]

    def _all(self, split: str) -> list[Placed]:
        """The conversations of the corpus that a split comes from."""
        corpus = self.corpora[split] or self.corpora["train"]
        assert corpus is not None
        key = json.dumps(corpus)
        if key not in self._read:
            self._read[key] = list(read_corpus(corpus))
            if not self._read[key]:
                raise DataError(f"{corpus!r} holds no conversation; give a file with at least one record")
        return self._read[key]
