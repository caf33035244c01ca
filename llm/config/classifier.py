"""The architecture of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm.config.checks import checks
from llm.config.gpt import GPTConfig


@dataclass(frozen=True)
class ClassifierConfig(GPTConfig):
    """The architecture of a classifier: that of a GPT, and a head with a logit for each label in place of each token.

    Args:
        labels: the labels, in the order of the logits. On the command line they come from the data.
    """

    labels: tuple[str, ...] = ("0", "1")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", tuple(self.labels))
        with checks(self) as check:
            check(all(isinstance(label, str) for label in self.labels), f"labels must be strings, got {self.labels}")
            check(len(self.labels) >= 2, f"labels must be at least two, got {len(self.labels)}")
            check(len(set(self.labels)) == len(self.labels), f"labels holds the same label twice: {self.labels}")

    @property
    def n_logits(self) -> int:
        """How many logits the head gives: one for each label."""
        return len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """The settings as primitives, as checkpoints store them."""
        return {**super().to_dict(), "labels": list(self.labels)}
