"""Attention rollout (Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

WHAT_IT_IS = (
    "attention rollout: how much of each input could have reached a position, if heads were averaged, values and MLPs "
    "ignored, and half of every block passed by on the residual path; a rough picture, no explanation"
)


def attention_rollout(maps: Iterable[Tensor], residual: bool = True) -> Tensor:
    """The attention of all layers, one after the other: (T, T), rows sum to 1.

    Each layer is the mean of its heads, mixed half and half with the identity for the residual path, and the layers
    are multiplied (Abnar & Zuidema 2020, section 3).

    Args:
        maps: for each layer, from the first to the last, its weights (H, T, T).
        residual: whether the blocks have a residual path.
    """
    product: Tensor | None = None
    for weights in maps:
        layer = weights.cpu().double().mean(0)  # (H, T, T) -> (T, T)
        if residual:
            layer = (layer + torch.eye(len(layer), dtype=layer.dtype)) / 2
        product = layer if product is None else layer @ product
    if product is None:
        raise ValueError("there is no layer to roll out")
    return product
