"""Whether a step is taken, decided on a GPU without waiting for it.

Loss and gradients of a step are known when the GPU has come to them. A program that waits for them before each
optimizer step leaves the GPU without work while it prepares what comes next. So the GPU decides for itself: the fused
kernel of AdamW changes neither weights nor moments where its flag `found_inf` is set, which loss scaling uses, too.
The program learns of it a step later, when the GPU is at work on the next forward pass: nothing has been lost by then,
neither the weights nor the gradients that the report counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW

from llm.training.step import MicroBatch, TotalsInFlight


class StepToJudge(NamedTuple):
    """A step of whose loss and gradients it has to be seen whether they are finite.

    Args:
        number: how many steps came before it.
        totals: of it.
        micro_batches: of this process.
    """

    number: int
    totals: TotalsInFlight
    micro_batches: Sequence[MicroBatch]


def may_be_judged_later(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Whether the optimizer can skip a step on the device's word, and waiting for that would cost something."""
    return device.type == "cuda" and type(optimizer) is AdamW and bool(optimizer.defaults["fused"])


def take_if(is_counted: Tensor, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Have the optimizer take its next steps only if `is_counted` turns out to be true, with gradients times `factor`.

    Args:
        is_counted: a boolean tensor.
        optimizer: AdamW in a fused kernel.
        gradients: of all its parameters.
        factor: a float32 tensor.
    """
    optimizer.found_inf = (~is_counted).to(torch.float32)  # type: ignore[attr-defined]
    torch._foreach_mul_(list(gradients), torch.where(is_counted, factor, 1.0))


def take_always(optimizer: torch.optim.Optimizer) -> None:
    """Undo `take_if`."""
    vars(optimizer).pop("found_inf", None)
