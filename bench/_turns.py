"""The callback that `bench.step` adds to a run, apart, so that only the ways with a Trainer load Lightning."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Callback


class Turns(Callback):
    """Calls a stopwatch between two steps."""

    watch: Callable[[], None]

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """A step is over, unless it is the first that begins."""
        if trainer.global_step > 0:
            Turns.watch()
