"""Rotary positions that turn neighbours, as in Llama's own code, and halves, as in Hugging Face's and ours."""

from __future__ import annotations

from torch import Tensor


def to_halves(rows: Tensor, n_head: int) -> Tensor:
    """The weights or biases of queries or keys, reordered so that the scores stay what they are.

    Args:
        rows: (H D, ...), where rotary positions turn rows 2i and 2i + 1 of a head.
        n_head: H, of queries or of keys.

    Returns:
        (H D, ...), where they turn rows i and i + D/2.
    """
    pairs = rows.unflatten(0, (n_head, -1, 2))  # (H, D/2, 2, ...)
    return pairs.transpose(1, 2).flatten(0, 2)  # (H D, ...)


def to_neighbours(rows: Tensor, n_head: int) -> Tensor:
    """The way back of `to_halves`."""
    halves = rows.unflatten(0, (n_head, 2, -1))  # (H, 2, D/2, ...)
    return halves.transpose(1, 2).flatten(0, 2)  # (H D, ...)
