"""Texts of unequal length side by side: which tokens are real, where each stands, and what may be seen.

Padding is known by length, never by id. The masks are True where something may be seen, as
`torch.nn.functional.scaled_dot_product_attention` has them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right"]


def causal_mask(n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """Which keys each query may see, `(n_queries, n_keys)`, True where it may; the last query sees every key."""
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def window_mask(positions: Tensor, n_keys: int, window: int) -> Tensor:
    """Which keys are in each query's sliding window or later: `(..., T)` -> `(..., T, n_keys)`.

    Args:
        positions: (T) or (B, T), where the queries stand.
        n_keys: S; they stand at 0 to S - 1.
        window: how many positions a query sees, itself the last.
    """
    keys = torch.arange(n_keys, device=positions.device)
    return keys > positions[..., None] - window  # (S) > (..., T, 1) -> (..., T, S)


def is_real(lengths: Tensor, length: int, side: Side = "right") -> Tensor:
    """Which tokens are no padding: `(B)` -> `(B, T)`.

    Args:
        lengths: (B) how many tokens each text really has.
        length: T, with padding.
        side: where the padding stands.
    """
    places = torch.arange(length, device=lengths.device)  # (T)
    if side == "left":
        places = length - 1 - places
    return places < lengths[:, None]  # (T) < (B, 1) -> (B, T)


def positions_of(lengths: Tensor, length: int, side: Side = "right") -> Tensor:
    """Where each token stands in its own text, counted from 0: `(B)` -> `(B, T)`; padding on the left is at 0."""
    positions = torch.arange(length, device=lengths.device).expand(len(lengths), length)  # (T) -> (B, T)
    if side == "left":
        positions = (positions - (length - lengths)[:, None]).clamp(min=0)
    return positions


def document_mask(documents: Tensor) -> Tensor:
    """What each query may see where a row holds several documents: no later tokens, and none of other documents.

    Args:
        documents: (B, T) the number of the document that each token belongs to; they stand one after the other.

    Returns:
        (B, 1, T, T), for all heads alike.
    """
    T = documents.shape[1]
    same = documents[:, None, :, None] == documents[:, None, None, :]  # (B, 1, T, 1) == (B, 1, 1, T)
    return same & causal_mask(T, T, documents.device)  # (B, 1, T, T) & (T, T)


def positions_in_documents(documents: Tensor) -> Tensor:
    """Where each token stands in its own document, counted from 0: `(B, T)` -> `(B, T)`."""
    places = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)  # (T) -> (B, T)
    begins = documents != documents.roll(1, dims=1)
    begins[:, 0] = True
    return places - places.where(begins, 0).cummax(dim=1).values


def attention_mask(real: Tensor, n_queries: int, is_causal: bool) -> Tensor:
    """What each query may see of keys of which some are padding: `(B, S)` -> `(B, 1, T or 1, S)`, for all heads alike.

    Args:
        real: (B, S) which keys are no padding.
        n_queries: T.
        is_causal: whether a query sees no later keys either.
    """
    mask = real[:, None, None, :]  # (B, S) -> (B, 1, 1, S)
    return mask & causal_mask(n_queries, real.shape[1], real.device) if is_causal else mask
