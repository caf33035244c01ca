"""Rotary positions: where a token stands, told to queries and keys instead of to the embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Rotates queries and keys by an angle that grows with their position (Su et al. 2021, section 3.2).

    Value i of the first half and value i of the second half are the two coordinates of a point, as in Llama. It is
    rotated by the position times 10000^(-2i / D), so the product of a query and a key depends on how far apart they
    are, and not on where they stand.

    Args:
        context_length: positions that there can be.
        head_size: D, an even number.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, context_length: int, head_size: int) -> None:
        super().__init__()
        speeds = 10_000.0 ** (-torch.arange(0, head_size, 2) / head_size)
        angles = torch.outer(torch.arange(context_length), speeds)  # (context) x (D / 2) -> (context, D / 2)
        cos, sin = angles.cos(), angles.sin()
        # Computed and not trained: no part of a checkpoint.
        self.register_buffer("cos", torch.cat([cos, cos], dim=-1), persistent=False)  # (context, D)
        self.register_buffer("sin", torch.cat([-sin, sin], dim=-1), persistent=False)  # (context, D)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Rotate `(B, T, H, D)` by positions `(T)` or `(B, T)`, by default 0 to T - 1; the shape stays."""
        if positions is None:
            cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        else:
            cos, sin = self.cos[positions], self.sin[positions]
        cos, sin = (table[..., None, :].to(x.dtype) for table in (cos, sin))  # (..., T, D) -> (..., T, 1, D)
        other = x.roll(x.shape[-1] // 2, dims=-1)  # the other coordinate of each point
        return x * cos + other * sin
