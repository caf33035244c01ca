"""What a training step is the gradient of: a sum over supervised tokens, divided once by how many there are.

Means of means are wrong where micro-batches, or processes, hold unequal numbers of supervised tokens. So each
micro-batch contributes the gradient of its sum of losses, and the whole is divided once, before clipping, by the number
of supervised tokens of all micro-batches and processes.

The sums are scaled by a constant, `1 / nominal tokens`, so that 16-bit gradients neither overflow nor vanish, and so
that where all is as nominal (full windows, full groups) the division is by one and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from llm.data.batch import TokenBatch

NOMINAL_TOKENS = 1024
"""Of a micro-batch, where no data module states it: any constant is correct."""


class MicroBatch(NamedTuple):
    """One of the batches whose gradients make up a step.

    Args:
        position: how many batches of the run came before it.
        batch: its tokens.
        loss: the cross-entropy in nats, summed over its supervised tokens.
        n_tokens: how many those are.
        n_correct: how many of them were predicted correctly; None if not counted.
    """

    position: int
    batch: TokenBatch
    loss: Tensor
    n_tokens: Tensor
    n_correct: Tensor | None


class StepTotals(NamedTuple):
    """The totals of a step, over all its micro-batches and processes.

    Args:
        norm: of the accumulated gradients, before the division.
        losses: the sum of losses of each micro-batch of this process.
        counts: the supervised tokens of each.
        loss: sum of losses of all processes.
        n_tokens: supervised tokens of all processes.
        n_correct: how many of these were predicted correctly; 0 if not counted.
        n_unsupervised: micro-batches, of all processes, in which nothing is supervised.
        faults: for each process: 0 if all is finite, 1 if a gradient is NaN/Inf, 2 if a loss is.
    """

    norm: float
    losses: list[float]
    counts: list[float]
    loss: float
    n_tokens: float
    n_correct: float
    n_unsupervised: float
    faults: list[int]


def nominal_tokens(trainer: L.Trainer) -> int:
    """Tokens of a full micro-batch, the same on all processes and for the whole run."""
    tokens = getattr(getattr(trainer, "datamodule", None), "batch_tokens", None)
    return tokens if isinstance(tokens, int) and tokens > 0 else NOMINAL_TOKENS


def loss_scale(trainer: L.Trainer) -> float:
    """What the sum of losses of a micro-batch is multiplied by, so that a full step's gradient needs no division."""
    return 1.0 / (nominal_tokens(trainer) * trainer.accumulate_grad_batches)


def correction(trainer: L.Trainer, totals: StepTotals) -> float:
    """What the accumulated gradients have to be multiplied by: 1 for a full step, 0 where nothing is supervised."""
    if not totals.n_tokens:
        return 0.0
    nominal = nominal_tokens(trainer) * trainer.accumulate_grad_batches * trainer.world_size
    return nominal / totals.n_tokens


def totals_of(
    trainer: L.Trainer, micro_batches: Sequence[MicroBatch], norm: Tensor, judges_norm: bool = True
) -> StepTotals:
    """Sum over a step, on all processes. This is where each step synchronizes with the GPU and with other processes.

    Args:
        trainer: the run's.
        micro_batches: of this process.
        norm: of the accumulated gradients.
        judges_norm: whether a norm that is NaN or infinite is a fault; a loss scaler deals with it itself.
    """
    device, n = norm.device, len(micro_batches)
    zero = torch.zeros((), device=device)
    parts = [norm, *(m.loss for m in micro_batches), *(m.n_tokens for m in micro_batches)]
    parts += [zero if m.n_correct is None else m.n_correct for m in micro_batches]
    values = torch.stack([part.to(device, torch.float64 if device.type == "cpu" else torch.float32) for part in parts])
    size, *rest = values.tolist()
    losses, counts, correct = rest[:n], rest[n : 2 * n], rest[2 * n :]
    fault = 1 if judges_norm and not math.isfinite(size) else 0
    if not all(map(math.isfinite, losses)):
        fault = 2
    mine = [sum(losses), sum(counts), sum(correct), float(counts.count(0)), float(fault)]
    everybody = _gather(trainer, mine, device)
    loss, n_tokens, n_correct, n_unsupervised = (sum(column) for column in list(zip(*everybody, strict=True))[:4])
    faults = [int(row[4]) for row in everybody]
    return StepTotals(size, losses, counts, loss, n_tokens, n_correct, n_unsupervised, faults)


def _gather(trainer: L.Trainer, mine: list[float], device: torch.device) -> list[list[float]]:
    """One row per process."""
    if trainer.world_size == 1:
        return [mine]
    gathered: Any = trainer.strategy.all_gather(torch.tensor(mine, device=device, dtype=torch.float32))
    return list(gathered.view(trainer.world_size, len(mine)).tolist())
