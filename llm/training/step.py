"""What a training step is the gradient of: a sum over supervised tokens, divided once by how many there are.

Means of means are wrong where micro-batches, or processes, hold unequal numbers of supervised tokens. So each
micro-batch contributes the gradient of its sum of losses, and the whole is divided once, before clipping, by the number
of supervised tokens of all micro-batches and processes.

The sums are scaled by a constant, `1 / nominal tokens`, so that 16-bit gradients neither overflow nor vanish, and so
that where all is as nominal (full windows, full groups) the division is by one and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
        factor: what these have to be multiplied by.
        losses: the sum of losses of each micro-batch of this process.
        counts: the supervised tokens of each.
        loss: sum of losses of all processes.
        n_tokens: supervised tokens of all processes.
        n_correct: how many of these were predicted correctly; 0 if not counted.
        n_unsupervised: micro-batches, of all processes, in which nothing is supervised.
        faults: for each process: 0 if all is finite, 1 if a gradient is NaN/Inf, 2 if a loss is.
        nominal: the tokens of a full step.
    """

    norm: float
    factor: float
    losses: list[float]
    counts: list[float]
    loss: float
    n_tokens: float
    n_correct: float
    n_unsupervised: float
    faults: list[int]
    nominal: int

    @property
    def is_counted(self) -> bool:
        """Whether there is a step to take: all is finite, and something supervised."""
        return max(self.faults) == 0 and self.n_tokens > 0

    @property
    def mean_norm(self) -> float:
        """Of the divided gradients, before they are clipped."""
        return self.norm * self.nominal / self.n_tokens


def nominal_tokens(trainer: L.Trainer) -> int:
    """Tokens of a full micro-batch, the same on all processes and for the whole run."""
    tokens = getattr(getattr(trainer, "datamodule", None), "batch_tokens", None)
    return tokens if isinstance(tokens, int) and tokens > 0 else NOMINAL_TOKENS


def loss_scale(trainer: L.Trainer) -> float:
    """What the sum of losses of a micro-batch is multiplied by, so that a full step's gradient needs no division."""
    return 1.0 / (nominal_tokens(trainer) * trainer.accumulate_grad_batches)


class TotalsInFlight:
    """The totals of a step while they are on the device, where they may not even have been computed yet.

    Args:
        norm: of the accumulated gradients.
        losses: `(N)`, of this process's micro-batches.
        counts: `(N)`, their supervised tokens.
        everybody: `(W, 5)`, for each process its loss, tokens, correct ones, micro-batches in which nothing is
            supervised, and fault.
        nominal: the tokens of a full step.
        clip: the largest norm of the divided gradients; None for any.
    """

    def __init__(
        self, norm: Tensor, losses: Tensor, counts: Tensor, everybody: Tensor, nominal: int, clip: float | None
    ) -> None:
        n_tokens = everybody[:, 1].sum()
        self.is_counted = (everybody[:, 4].amax() == 0) & (n_tokens > 0)
        """Whether there is a step to take, all finite and something supervised: a boolean tensor."""
        factor = nominal / n_tokens
        self.norm = norm * factor
        """Of the divided gradients, before they are clipped."""
        if clip:
            clipped = factor * (clip / (self.norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grads_with_norm_
            factor = torch.where(self.norm <= clip, factor, clipped)
        self.factor = factor.to(torch.float32)
        """What the accumulated gradients have to be multiplied by: 1 for a full step whose norm is small enough."""
        self._n, self._nominal = len(losses), nominal
        self._values = torch.cat([norm[None], self.factor[None], losses, counts, everybody.flatten()])
        self._arrival: torch.cuda.Event | None = None

    def send(self) -> None:
        """Have the values copied as soon as they are there, so that `read` need not wait for what comes after them."""
        if self._values.is_cuda:
            pinned = torch.empty(self._values.shape, dtype=self._values.dtype, pin_memory=True)
            self._values = pinned.copy_(self._values, non_blocking=True)
            self._arrival = torch.cuda.Event()
            self._arrival.record()

    def read(self) -> StepTotals:
        """The values; waits for the device."""
        if self._arrival is not None:
            self._arrival.synchronize()
        n = self._n
        norm, factor, *rest = self._values.tolist()
        rows = [rest[start : start + 5] for start in range(2 * n, len(rest), 5)]
        loss, n_tokens, n_correct, n_unsupervised = (sum(column) for column in list(zip(*rows, strict=True))[:4])
        faults = [int(row[4]) for row in rows]
        sums = loss, n_tokens, n_correct, n_unsupervised
        return StepTotals(norm, factor, rest[:n], rest[n : 2 * n], *sums, faults, self._nominal)


def totals_of(
    trainer: L.Trainer,
    micro_batches: Sequence[MicroBatch],
    norm: Tensor,
    clip: float | None = None,
    judges_norm: bool = True,
) -> TotalsInFlight:
    """Sum over a step, on all processes, without waiting for the device.

    Args:
        trainer: the run's.
        micro_batches: of this process.
        norm: of the accumulated gradients.
        clip: the largest norm of the divided gradients; None for any.
        judges_norm: whether a norm that is NaN or infinite is a fault; a loss scaler deals with it itself.
    """
    precision = torch.float32 if norm.device.type == "mps" else torch.float64  # which Apple's GPUs do not have

    def together(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([part.to(norm.device, precision) for part in parts])  # N times () -> (N)

    losses, counts = together([m.loss for m in micro_batches]), together([m.n_tokens for m in micro_batches])
    correct = [m.n_correct for m in micro_batches if m.n_correct is not None]
    n_correct = together(correct).sum() if correct else losses.new_zeros(())
    fault = (~norm.isfinite()).to(precision) if judges_norm else losses.new_zeros(())
    fault = torch.where(losses.isfinite().all(), fault, 2.0)
    mine = torch.stack([losses.sum(), counts.sum(), n_correct, (counts == 0).sum().to(precision), fault])  # (5)
    everybody = mine[None] if trainer.world_size == 1 else trainer.strategy.all_gather(mine).view(-1, len(mine))
    nominal = nominal_tokens(trainer) * trainer.accumulate_grad_batches * trainer.world_size
    return TotalsInFlight(norm.to(precision), losses, counts, everybody, nominal, clip)
