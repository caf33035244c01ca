"""The architecture of a bidirectional encoder."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config.checks import checks
from llm.config.gpt import GPTConfig


@dataclass(frozen=True)
class EncoderConfig(GPTConfig):
    """The architecture of a bidirectional encoder: that of a GPT whose positions see the whole text.

    With `norm_first` off, `gelu_exact` and two segments it is BERT's (Devlin et al. 2018).

    Args:
        causal: false, since every position sees the whole text.
        n_segments: kinds of text in one input, such as a question and a paragraph, each with a trained vector that is
            added to those of its tokens; 0 for none.
    """

    causal: bool | None = False
    n_segments: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        with checks(self) as check:
            check(not self.is_causal, "an encoder sees the whole text: causal must be false, got true")
            check(0 <= self.n_segments < 2**31, f"n_segments must be from 0 to 2**31 - 1, got {self.n_segments}")
