"""Five scores of an attention head.

All are means over queries of attention weights, or of something computed from them, and lie between 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.config import GPTConfig
from llm.errors import ConfigError
from llm.inspection.probe import attention_maps
from llm.model import Network

_REPEATED_TOKENS = 25
_ROWS = 2


@dataclass(frozen=True)
class HeadScores:
    """The scores of one head; None where the text is too short.

    Args:
        layer: counted from 0.
        head: counted from 0.
        entropy: how evenly it attends: 1 is the same weight on every visible key, 0 all weight on one.
        sink: weight on the first token, to which heads attend that contribute nothing (Xiao et al. 2023).
        previous_token: weight on the token before.
        duplicate_token: weight on the earlier occurrence of the same token.
        induction: weight on the token after that earlier occurrence, as if to copy it (Olsson et al. 2022).
    """

    layer: int
    head: int
    entropy: float | None
    sink: float | None
    previous_token: float | None
    duplicate_token: float | None
    induction: float | None


SCORES = ("entropy", "sink", "previous_token", "duplicate_token", "induction")
"""The names of the five, in the order of the fields."""


def entropy(weights: Tensor, causal: bool) -> Tensor:
    """Entropy of the weights over the logarithm of the number of visible keys, mean over queries: (..., T, T) -> (...).

    Uniform weights give 1, a one-hot row 0. A query that sees only one key is excluded.
    """
    T = weights.shape[-1]
    visible = torch.arange(1, T + 1) if causal else torch.full((T,), T)
    rows = torch.special.entr(_double(weights)).sum(-1)[..., visible > 1]  # (..., T, T) -> (..., T or T - 1)
    return (rows / visible[visible > 1].double().log()).mean(-1)


def sink(weights: Tensor) -> Tensor:
    """Weight on the first token, mean over all later queries: (..., T, T) -> (...)."""
    return _double(weights)[..., 1:, 0].mean(-1)


def previous_token(weights: Tensor) -> Tensor:
    """Weight on the token before, mean over all queries that have one: (..., T, T) -> (...)."""
    return _double(weights).diagonal(-1, -2, -1).mean(-1)


def duplicate_token(weights: Tensor) -> Tensor:
    """Weight on the same token in the first half, on a text repeated once: (..., 2 n, 2 n) -> (...)."""
    return _double(weights).diagonal(-(weights.shape[-1] // 2), -2, -1).mean(-1)


def induction(weights: Tensor) -> Tensor:
    """Weight on the token after the same token in the first half, on a text repeated once: (..., 2 n, 2 n) -> (...)."""
    n = weights.shape[-1] // 2
    return _double(weights).diagonal(1 - n, -2, -1)[..., 1:].mean(-1)  # the first is query n - 1, before the repeat


def repeated_tokens(vocab_size: int, context_length: int, seed: int = 0) -> Tensor | None:
    """Random distinct tokens, and the same again: (2, 2 n) ids; None if context or vocabulary hold no two.

    The text is meaningless, so what a head does here depends on positions and repetition alone.
    """
    n = min(_REPEATED_TOKENS, context_length // 2, vocab_size)
    if n < 2:
        return None
    random = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(vocab_size, generator=random)[:n] for _ in range(_ROWS)])
    return rows.repeat(1, 2)  # (2, n) -> (2, 2 n)


def head_scores(model: Network, maps: Sequence[Tensor]) -> list[HeadScores]:
    """The scores of every head: entropy and sink on a text, the others on repeated random tokens.

    Args:
        model: whose heads.
        maps: for each layer the weights on the text, (H, T, T).
    """
    config = model.config
    device = next(model.parameters()).device
    ids = repeated_tokens(config.vocab_size, config.context_length)
    repeated = None if ids is None else attention_maps(model, ids.to(device))
    found = []
    for layer, weights in enumerate(maps):
        H, T, _ = weights.shape
        columns: list[list[float | None]] = [[None] * H] * 2
        if T > 1:
            columns = [entropy(weights, config.is_causal).tolist(), sink(weights).tolist()]
        for score in (previous_token, duplicate_token, induction):
            columns.append([None] * H if repeated is None else score(repeated[layer]).mean(0).tolist())
        found += [HeadScores(layer, head, *(column[head] for column in columns)) for head in range(H)]
    return found


def _double(weights: Tensor) -> Tensor:
    """On the CPU, since not every device has float64."""
    return weights.cpu().double()


def heads_table(scores: Sequence[HeadScores]) -> str:
    """The scores as text, one line a head."""
    lines = ["head    " + "".join(f"{name.replace('_', ' '):>17}" for name in SCORES)]
    for row in scores:
        cells = (getattr(row, name) for name in SCORES)
        numbers = "".join(f"{'-' if cell is None else format(cell, '.3f'):>17}" for cell in cells)
        lines.append(f"{f'{row.layer}.{row.head}':<8}{numbers}")
    return "\n".join(lines)


def layer_and_head(name: str) -> tuple[int, int]:
    """Both numbers, of `0.1`.

    Raises:
        ConfigError: it is not of this form.
    """
    if not re.fullmatch(r"\d+\.\d+", name):
        raise ConfigError(f"inspect.head must be layer and head, such as 0.1, got {name!r}")
    layer, head = map(int, name.split("."))
    return layer, head


def refuse_missing_head(head: tuple[int, int], config: GPTConfig) -> None:
    """Check that a model has a head.

    Args:
        head: its layer, and its number in it.
        config: of the model.

    Raises:
        ConfigError: it has none of this number.
    """
    for name, value, count in zip(("layer", "head"), head, (config.n_layer, config.heads), strict=True):
        if value >= count:
            raise ConfigError(
                f"inspect.head {'.'.join(map(str, head))}: there is no {name} {value}; this model has {count}, "
                "numbered from 0"
            )
