"""At which optimizer steps a callback runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import lightning as L

from llm.errors import ConfigError


class Every:
    """Every so many optimizer steps, and at the end.

    Args:
        steps: how many; 0 for never. None for about `times` times in a run whose length is known, else every 1,000.
        times: see `steps`.

    Raises:
        ConfigError: a negative number of steps.
    """

    def __init__(self, steps: int | None, times: int = 10) -> None:
        if steps is not None and steps < 0:
            raise ConfigError(f"every must be at least 0 steps, got {steps}; 0 is never")
        self.steps = steps
        self.times = times
        self._last = 0

    @property
    def never(self) -> bool:
        """Whether it never runs."""
        return self.steps == 0

    def is_next(self, trainer: L.Trainer) -> bool:
        """Whether the optimizer step about to be taken is one of them."""
        return not self.never and (trainer.global_step + 1) % self._period(trainer) == 0

    def is_due(self, trainer: L.Trainer) -> bool:
        """Whether this batch ended an optimizer step that is one of them."""
        step = trainer.global_step
        if self.never or step == self._last or step % self._period(trainer) != 0:
            return False
        self._last = step
        return True

    def is_due_at_end(self, trainer: L.Trainer) -> bool:
        """Whether the last step is not one of them."""
        return not self.never and trainer.global_step != self._last

    def _period(self, trainer: L.Trainer) -> int:
        if self.steps is not None:
            return self.steps
        return max(1, trainer.max_steps // self.times) if trainer.max_steps > 0 else 1000


Accumulation = int | Mapping[int, int]
"""Batches of an optimizer step: a number, or one from each epoch on, counted from 0, as Lightning's
`GradientAccumulationScheduler` has it; before the first of them it is 1."""


def steps_of_run(
    max_steps: int, max_epochs: int | None, batches: int, limit: int | float | None, accumulation: Accumulation
) -> int | None:
    """Optimizer steps in a run, or None if only a time limit or an interrupt will end it.

    Args:
        max_steps: Lightning's; -1 is no limit.
        max_epochs: the same.
        batches: of an epoch, as the loader gives them.
        limit: Lightning's `limit_train_batches`: a number of them, or a fraction.
        accumulation: batches of a step. The last step of an epoch may have fewer.
    """
    limits = [max_steps] if max_steps >= 0 else []
    if max_epochs is not None and max_epochs >= 0:
        steps, left, batches = 0, max_epochs, batches_of_epoch(batches, limit)
        for epochs, accumulated in _phases(accumulation):
            planned = int(min(epochs, left))
            steps, left = steps + planned * math.ceil(batches / accumulated), left - planned
        limits.append(steps)
    return min(limits, default=None)


def batches_until(step: int, batches: int, accumulation: Accumulation) -> int:
    """Batches that a run takes up to an optimizer step, in each process.

    Args:
        step: how many steps are made.
        batches: of an epoch, at least 1; see `batches_of_epoch`.
        accumulation: batches of a step. The last step of an epoch takes what is left of it.
    """
    done = 0
    for epochs, accumulated in _phases(accumulation):
        each = math.ceil(batches / accumulated)
        whole = int(min(epochs, step // each))
        done, step = done + whole * batches, step - whole * each
        if whole < epochs:
            return done + step * accumulated
    return done


def batches_of_epoch(batches: int, limit: int | float | None) -> int:
    """How many batches an epoch has, of those that the loader gives; see `steps_of_run`."""
    if limit is None:
        return batches
    return min(batches, limit if isinstance(limit, int) else int(batches * limit))


def _phases(accumulation: Accumulation) -> list[tuple[float, int]]:
    """For how many epochs a step has how many batches, in order; the last are without end."""
    if isinstance(accumulation, int):
        return [(math.inf, accumulation)]
    known = {0: 1, **accumulation}
    return [(after - first, known[first]) for first, after in itertools.pairwise([*sorted(known), math.inf])]  # type: ignore[index]
