"""Rotary positions: where a token stands, told to queries and keys instead of to the embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llm.config import GPTConfig, RopeScaling


class Rotary(nn.Module):
    """Rotates queries and keys by an angle that grows with their position (Su et al. 2021, section 3.2).

    Value i of the first half and value i of the second half are the two coordinates of a point, as in Llama. It is
    rotated by the position times theta^(-2i / D), so the product of a query and a key depends on how far apart they
    are, and not on where they stand. With a `partial_rotary_factor`, D counts the first so many values of each head,
    and the others stay.

    Args:
        config: uses `context_length`, `rotary_dim`, `rope_theta` and `rope_scaling`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_tables()

    def compute_tables(self) -> None:
        """Sine and cosine of every angle; to be called again if they were made on the meta device."""
        config = self.config
        speeds, length = scaled_speeds(config.rope_theta, config.rotary_dim, config.rope_scaling)
        angles = torch.outer(torch.arange(config.context_length), speeds)  # (context) x (D / 2) -> (context, D / 2)
        cos, sin = angles.cos() * length, angles.sin() * length
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
        rotated, kept = x.tensor_split([cos.shape[-1]], dim=-1)  # (B, T, H, D), and what is beyond it
        other = rotated.roll(rotated.shape[-1] // 2, dims=-1)  # the other coordinate of each point
        rotated = rotated * cos + other * sin
        return torch.cat([rotated, kept], dim=-1) if kept.shape[-1] else rotated


def scaled_speeds(theta: float, head_size: int, scaling: RopeScaling) -> tuple[Tensor, float]:
    """The angle from one position to the next, `(D / 2)`, and what queries and keys are multiplied by."""
    speeds = 1.0 / theta ** (torch.arange(0, head_size, 2) / head_size)
    slow = speeds / scaling.factor
    if scaling.kind == "linear":
        return slow, 1.0
    if scaling.kind == "llama3":
        assert scaling.original_context is not None
        turns = speeds * scaling.original_context / (2 * math.pi)  # of each point in the context before
        kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
        return torch.lerp(slow, speeds, kept.clamp(0, 1)), 1.0
    if scaling.kind == "yarn":
        first, last = (_pair_that_turns(turns, theta, head_size, scaling) for turns in (scaling.fast, scaling.slow))
        first, last = max(math.floor(first), 0), min(math.ceil(last), head_size - 1)
        ramp = (torch.arange(head_size // 2) - first) / max(last - first, 0.001)
        length = 0.1 * math.log(scaling.factor) + 1 if scaling.length is None else scaling.length
        return torch.lerp(speeds, slow, ramp.clamp(0, 1)), length
    return speeds, 1.0


def _pair_that_turns(turns: float, theta: float, head_size: int, scaling: RopeScaling) -> float:
    """Which i makes a point turn so often in the context before (Peng et al. 2023, section 3.2 and its code)."""
    assert scaling.original_context is not None
    return head_size * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))
