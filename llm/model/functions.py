"""Functions of numbers and vectors; the gradients of two are spelled out.

Taken apart into elementary ones, their gradients make several passes over the numbers; on a CPU, where no kernel does
it in one, that is two to ten times as slow.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight: Tensor | None = None, epsilon: float | None = None) -> Tensor:
    """Divide each vector by its root mean square (Zhang & Sennrich 2019, eq. 4), then multiply by a gain.

    Args:
        x: `(..., C)`; the shape stays.
        weight: `(C)` the gain. Default: none.
        epsilon: added to the mean square. Default: the smallest step of the type that it is computed in, which is
            float32 for shorter ones.
    """
    if not _is_worth_it(x):
        return F.rms_norm(x, x.shape[-1:], weight, epsilon)
    y: Tensor = _RMSNorm.apply(x, torch.finfo(_wide(x.dtype)).eps if epsilon is None else epsilon)
    return y if weight is None else y * weight


def squared_relu(x: Tensor) -> Tensor:
    """The square of what is above zero (So et al. 2021, section 4); the shape stays."""
    if not _is_worth_it(x):
        return x.relu().square()
    y: Tensor = _SquaredReLU.apply(x)
    return y


def _is_worth_it(x: Tensor) -> bool:
    """Whether this is a CPU, and no compiler is at work, which does as well."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type that numbers of this type are added up in."""
    return torch.promote_types(dtype, torch.float32)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, epsilon: float) -> Tensor:
        wide = x.to(_wide(x.dtype))
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()  # (..., C) -> (..., 1)
        scale = scale.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        y = wide * scale
        context.save_for_backward(y, scale)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        y, scale = context.saved_tensors
        wide = gradient.to(y.dtype)
        along = (wide * y).mean(dim=-1, keepdim=True)  # the length of a vector does not change its norm
        return torch.addcmul(wide, y, along, value=-1).mul_(scale).to(gradient.dtype), None


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        above = x.relu()
        context.save_for_backward(above)
        return above * above

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (above,) = context.saved_tensors
        return (gradient * above).mul_(2)


def soft_cap(x: Tensor, bound: float) -> Tensor:
    """Values brought between -bound and bound: `bound * tanh(x / bound)` (Bello et al. 2016, section 3)."""
    return torch.tanh(x / bound) * bound
