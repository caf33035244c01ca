"""When a callback's turn comes."""

from __future__ import annotations

import lightning as L

_TIMES_IN_A_RUN = 10


class Every:
    """Every so many optimizer steps, and at the end.

    Args:
        steps: how many; 0 for never. None for about ten times in a run whose length is known, else every 1,000.
    """

    def __init__(self, steps: int | None) -> None:
        self.steps = steps
        self._last = 0

    @property
    def never(self) -> bool:
        """Whether the turn never comes."""
        return self.steps == 0

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
        return max(1, trainer.max_steps // _TIMES_IN_A_RUN) if trainer.max_steps > 0 else 1000
