"""When a callback's turn comes."""

from __future__ import annotations

import lightning as L

from llm.errors import ConfigError


class Every:
    """Every so many optimizer steps, and at the end.

    Args:
        steps: how many; 0 for never. None for about `times` times in a run whose length is known, else every 1,000.
        times: see `steps`.
    """

    def __init__(self, steps: int | None, times: int = 10) -> None:
        if steps is not None and steps < 0:
            raise ConfigError(f"the steps between two turns must be at least 0, got {steps}")
        self.steps = steps
        self.times = times
        self._last = 0

    @property
    def never(self) -> bool:
        """Whether the turn never comes."""
        return self.steps == 0

    def is_next(self, trainer: L.Trainer) -> bool:
        """Whether the optimizer step that is about to be made is one whose turn it is."""
        return not self.never and (trainer.global_step + 1) % self._period(trainer) == 0

    def is_due(self, trainer: L.Trainer) -> bool:
        """Whether this batch ended an optimizer step whose turn it is."""
        step = trainer.global_step
        if self.never or step == self._last or step % self._period(trainer) != 0:
            return False
        self._last = step
        return True

    def is_due_at_end(self, trainer: L.Trainer) -> bool:
        """Whether the last step has not had its turn."""
        return not self.never and trainer.global_step != self._last

    def _period(self, trainer: L.Trainer) -> int:
        if self.steps is not None:
            return self.steps
        return max(1, trainer.max_steps // self.times) if trainer.max_steps > 0 else 1000
