"""How the angles of rotary positions are stretched, for a context that is longer than the one trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.config.checks import checks


@dataclass(frozen=True)
class RopeScaling:
    """How the angles of rotary positions are stretched.

    Args:
        kind: `none`; `linear` divides every angle by the factor (Chen et al. 2023); `llama3` divides those of long
            waves alone (Grattafiori et al. 2024, section 3.4, and its code); `yarn` does so along a ramp, and lengthens
            queries and keys too (Peng et al. 2023, section 3).
        factor: by which the context grows.
        original_context: positions that the model had before, which `llama3` and `yarn` measure waves by.
        low_frequency: `llama3` divides the angles of waves that go round this often or less in the original context.
        high_frequency: `llama3` keeps those that go round this often or more; in between it goes over smoothly.
        slow: as `low_frequency`, for `yarn`.
        fast: as `high_frequency`, for `yarn`.
        length: what `yarn` multiplies queries and keys by. Default: 0.1 ln(factor) + 1.
    """

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_context: int | None = None
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    slow: float = 1.0
    fast: float = 32.0
    length: float | None = None

    def __post_init__(self) -> None:
        with checks(self) as check:
            check(1 <= self.factor <= 1e18, f"factor must be at least 1, at most 1e18, got {self.factor}")
            check(self.length is None or self.length > 0, f"length must be above 0, got {self.length}")
            check(
                self.kind in ("none", "linear") or self.original_context is not None,
                f"{self.kind} needs original_context, the positions that the model had before",
            )
            check(
                self.original_context is None or self.original_context >= 1,
                f"original_context must be at least 1, got {self.original_context}",
            )
            check(
                0 < self.low_frequency < self.high_frequency,
                f"low_frequency must be above 0 and below high_frequency, got {self.low_frequency} and "
                f"{self.high_frequency}",
            )
            check(0 < self.slow < self.fast, f"slow must be above 0 and below fast, got {self.slow} and {self.fast}")
