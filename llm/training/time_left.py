"""How long a run still takes."""

from __future__ import annotations


class TimeLeft:
    """Estimates it from means so far: of a step, and of what comes between steps.

    Validations, samples, looks and checkpoints come in lumps, at each of which a mean over all would jump up, to sink
    until the next. So they count by whole intervals between validations. Before the first of these is over, one is
    taken to cost what was done before the first step, which is the same things.

    Args:
        every: steps between validations; None where that is not known.
    """

    def __init__(self, every: float | None = None) -> None:
        self._every = every
        self._start: tuple[float, int, float] | None = None
        self._between = 0.0  # seconds of each step
        self._validated_at: int | None = None

    def validated(self, step: int) -> None:
        """A validation is over, after this step."""
        self._validated_at = step

    def after_step(self, now: float, step: int, side: float, steps: int) -> float | None:
        """Seconds that are left after a step; None after the first, which is slower and does not count.

        Args:
            now: seconds on some clock.
            step: which step it was.
            side: how many seconds were spent on other things than steps until now.
            steps: of the whole run.
        """
        if self._start is None:
            self._start = now, step, side
            self._between = side / self._every if self._every else 0.0
            return None
        start, first, side_before = self._start
        if step <= first:
            return None
        if self._validated_at is not None and self._validated_at >= first:
            self._between = (side - side_before) / (self._validated_at - (first - 1))
        self._validated_at = None
        each = (now - start - (side - side_before)) / (step - first)
        return max(0, steps - step) * (each + self._between)
