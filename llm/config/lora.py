"""Low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from llm.config.checks import checks


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters: beside each chosen weight W, which is frozen, a trained product B A (Hu et al. 2021).

    Args:
        rank: r, the rows of A and the columns of B; 0 for no adapters.
        alpha: the product is multiplied by alpha / r.
        modules: which linear layers have one: the last part of their name, such as `qkv`, `projection` or `expand`; or
            a pattern of whole names, such as `blocks.3.*`.
        base_precision: of the frozen weights of these layers: `bfloat16` takes half the memory, and rounds them.
        token_rows: how many of the last rows of token embedding and head are trained beside the adapters. Default:
            those of the tokens that a run adds to the vocabulary of its weights, such as a chat template's.
        adapter_only: whether checkpoints hold only what is trained; to read one takes the weights that
            `model.pretrained` named, too.
    """

    rank: int = 0
    alpha: float = 16.0
    modules: tuple[str, ...] = ("qkv", "projection")
    base_precision: Literal["float32", "bfloat16"] = "float32"
    token_rows: int | None = None
    adapter_only: bool = False

    def __post_init__(self) -> None:
        with checks(self) as check:
            object.__setattr__(self, "modules", tuple(self.modules))
            check(0 <= self.rank < 2**31, f"lora.rank must be from 0 to 2**31 - 1, got {self.rank}")
            check(self.alpha > 0, f"lora.alpha must be above 0, got {self.alpha}")
            names = bool(self.modules) and all(isinstance(name, str) and name for name in self.modules)
            check(names, f"lora.modules must name linear layers, such as qkv; got {list(self.modules)}")
            rows = self.token_rows
            check(rows is None or rows >= 0, f"lora.token_rows must not be negative, got {rows}")
            check(self.rank > 0 or not rows, "lora.token_rows needs adapters: give lora.rank, such as 8")
            check(
                self.rank > 0 or not self.adapter_only,
                "lora.adapter_only needs adapters: give lora.rank, such as 8",
            )

    def with_new_tokens(self, n_new: int) -> LoRAConfig:
        """These settings in a run that adds so many tokens to the vocabulary of its weights."""
        if not n_new or not self.rank or self.token_rows is not None:
            return self
        return replace(self, token_rows=n_new)

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank
