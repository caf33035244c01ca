"""Muon for the matrices of the blocks, AdamW for the rest, in one optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Newton-Schulz coefficients: steepest at zero while singular values stay near 1 (Jordan et al. 2024)."""


class MuonWithAdamW(AdamW):
    """Muon for some groups of parameters, AdamW for the others.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

    Muon averages the gradients of a matrix (Nesterov momentum) and orthogonalizes the average before the step, so that
    all directions move equally far. A step is that of `torch.optim.Muon` with its
    defaults; but matrices of one shape, or of its transpose, are orthogonalized in one batch, and a parameter that is
    several stacked matrices is treated as several.

    Args:
        groups: as for AdamW. A group with the entry `matrices` is Muon's, and has its own `lr` and `momentum`. The
            entry says how many matrices of equal size are stacked in each of its parameters, or lists how many rows
            each of them has.
        options: the defaults of AdamW's groups.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        # A gradient scaler may skip a step; only AdamW's kernel could do so by itself.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both; returns what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self._muon_step([group for group in groups if "matrices" in group])
        try:
            self.param_groups = [group for group in groups if "matrices" not in group]
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _muon_step(self, groups: list[dict[str, Any]]) -> None:
        # Each matrix of a parameter, its group, and its update; by shape, so that all go in one batch.
        batches: dict[tuple[Any, ...], list[tuple[Tensor, dict[str, Any], Tensor]]] = defaultdict(list)
        for group in groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            states = [self._state_of(parameter) for parameter in parameters]
            means = [state["momentum_buffer"] for state in states]
            torch._foreach_add_([state["step"] for state in states], 1)
            torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, means, group["momentum"])
            for parameter, update in zip(parameters, updates, strict=True):
                parts = (_as_matrices(tensor, group["matrices"]) for tensor in (parameter, update))
                for part, its_update in zip(*parts, strict=True):
                    rows, columns = part.shape[1:]
                    shape = (min(rows, columns), max(rows, columns), part.device, part.dtype)
                    batches[shape].append((part, group, its_update))
        for batch in batches.values():
            wide = torch.cat([update if update.shape[1] <= update.shape[2] else update.mT for _, _, update in batch])
            orthogonal = orthogonalize(wide).split([len(update) for _, _, update in batch])
            for (part, group, _), step in zip(batch, orthogonal, strict=True):
                rows, columns = part.shape[1:]
                if rows > columns:
                    step = step.mT
                if group["weight_decay"]:
                    part.mul_(1 - group["lr"] * group["weight_decay"])
                # A tall matrix needs a longer step for its outputs to change as much (as torch.optim.Muon's default).
                rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
                part.add_(step, alpha=-rate)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # counts only: AdamW expects that every state has it
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state


def _as_matrices(tensor: Tensor, matrices: int | list[int]) -> list[Tensor]:
    """The matrices stacked in one, `(N, rows, columns)` each, as views."""
    if isinstance(matrices, int):
        return [tensor.unflatten(0, (matrices, -1))]  # (N rows, columns) -> (N, rows, columns)
    return [part[None] for part in tensor.split(matrices)]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest orthogonal matrices, roughly: singular values end up between about 0.7 and 1.2.

    A Newton-Schulz iteration in bfloat16: with M M^T = A, each step replaces M by (a + b A + c A^2) M, which moves
    every singular value towards 1 and keeps the singular vectors (Jordan et al. 2024).

    Args:
        matrices: `(N, rows, columns)`, no more rows than columns.
        steps: of the iteration.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)  # now no singular value is above 1
    for _ in range(steps):
        gram = x @ x.mT  # (N, rows, columns) -> (N, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
