"""The architecture of word vectors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from llm.config.checks import checks


@dataclass(frozen=True)
class WordVectorsConfig:
    """The architecture of word vectors that are learned apart from any other model (Mikolov et al. 2013).

    Args:
        vocab_size: V. On the command line it comes from the tokenizer.
        n_embd: C, size of the vectors.
        objective: `skip_gram` predicts each word of the context from the word in the middle; `cbow`, a continuous bag
            of words, predicts the word in the middle from the mean of the vectors of its context.
        negatives: k, how many noise words each pair of words is to be told from.
    """

    vocab_size: int = 50257
    n_embd: int = 100
    objective: Literal["skip_gram", "cbow"] = "skip_gram"
    negatives: float = 5

    def __post_init__(self) -> None:
        with checks(self) as check:
            check(self.vocab_size > 0, f"vocab_size must be at least 1, got {self.vocab_size}")
            check(self.n_embd > 0, f"n_embd must be at least 1, got {self.n_embd}")
            check(
                self.objective in ("skip_gram", "cbow"), f"objective must be skip_gram or cbow, got {self.objective!r}"
            )
            check(self.negatives > 0, f"negatives must be above 0, got {self.negatives}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as primitives, as checkpoints store them."""
        return dataclasses.asdict(self)
