"""The end of a run."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from llm.training.trainer_state import is_at_end_of_epoch, is_last_batch_of_run, validate_after_this_batch


class EndPoint(L.Callback):
    """Sees to it that a run that has not been validated is validated at its end, however it ends.

    `check_val_every_n_epoch` and `val_check_interval` may both be longer than a run.
    """

    def __init__(self) -> None:
        self._validated = False
        self._restore: dict[str, Any] = {}

    @property
    def is_reached(self) -> bool:
        """Whether the run only has its last validation to make."""
        return bool(self._restore)

    def put_in_place(self, trainer: L.Trainer) -> None:
        """Stand behind all that may end a run, such as a time limit, and before what saves."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        first = next((n for n, callback in enumerate(callbacks) if isinstance(callback, Checkpoint)), len(callbacks))
        callbacks.insert(first, self)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget a run before this one; what a checkpoint holds is loaded afterwards."""
        del trainer, pl_module, stage
        self._validated, self._restore = False, {}

    def state_dict(self) -> dict[str, Any]:
        """Whether there was a validation that the settings ask for; one at the end would not be in a longer run."""
        return {"validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume as the run would have continued."""
        self._validated = bool(state_dict["validated"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where a run goes on from the validation that ended an epoch, end that epoch; Lightning would train on in it,
        as its settings did not ask for that validation."""
        del pl_module
        if trainer.ckpt_path is not None and is_at_end_of_epoch(trainer):
            self._restore = validate_after_this_batch(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the Trainer its settings back."""
        self.on_train_end(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that there was one, unless it is that of the end."""
        del pl_module
        if not trainer.sanity_checking and not self.is_reached:
            self._validated = True

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """After the last batch, have a validation follow, if there was none."""
        del pl_module
        if not self._validated and is_last_batch_of_run(trainer):
            self._restore = validate_after_this_batch(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the Trainer its settings back."""
        del pl_module
        for name, value in self._restore.items():
            setattr(trainer, name, value)
        self._restore = {}
