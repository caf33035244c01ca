"""The state of Lightning's Trainer that its public API does not give, or gives wrongly.

Private names are used here because nothing public says it; the upper bound of Lightning's version in pyproject.toml is
for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor

from llm.training.schedule import Accumulation, steps_of_run


def is_accumulating(trainer: L.Trainer) -> bool:
    """Whether gradients are being accumulated: the batch before did not end its step. No checkpoint holds them."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def is_logging(trainer: L.Trainer) -> bool:
    """Whether this step's values are due to be logged (`log_every_n_steps`); Lightning drops those of other steps."""
    return trainer._logger_connector.should_update_logs


def log_now(trainer: L.Trainer, values: Mapping[str, Tensor | float], step: int) -> None:
    """Pass values to all loggers at once; what is logged through a module waits until the batch has ended."""
    trainer._logger_connector.log_metrics(dict(values), step=step)  # type: ignore[arg-type]


def has_loss_scaler(trainer: L.Trainer) -> bool:
    """Whether the loss is scaled against underflow (float16)."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def checkpoint_of(trainer: L.Trainer) -> dict[str, Any]:
    """What `Trainer.save_checkpoint` would write now, entries by name; called on all processes."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def steps_of(trainer: L.Trainer) -> int | None:
    """Optimizer steps in the run, or None if only a time limit or an interrupt will end it.

    Lightning's own estimate would set up the data loader before a resumed run's counters are loaded.
    """
    max_epochs, batches = trainer.max_epochs, 0
    if max_epochs and max_epochs > 0:
        try:
            batches = _batches_of_epoch(trainer)
        except (TypeError, OverflowError):  # of a stream, unknown
            max_epochs = None
    limit = trainer.limit_train_batches
    return steps_of_run(trainer.max_steps, max_epochs, batches, limit, accumulation_of(trainer))


def steps_between_validations(trainer: L.Trainer) -> float | None:
    """Optimizer steps between two validations; None where these are not counted in batches, or there are none."""
    batches, accumulation = getattr(trainer, "val_check_batch", None), accumulation_of(trainer)
    if not isinstance(batches, int) or trainer.limit_val_batches == 0 or not isinstance(accumulation, int):
        return None
    return batches / accumulation


def accumulation_of(trainer: L.Trainer) -> Accumulation:
    """Batches of a step: their number, or a number from each epoch on where a callback changes it."""
    schedules = (c.scheduling for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler))  # type: ignore[attr-defined]
    return next(schedules, trainer.accumulate_grad_batches)


def _batches_of_epoch(trainer: L.Trainer) -> int:
    """As the loader gives them.

    Raises:
        TypeError: the loader does not know.
        OverflowError: it has no end.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None:
        return len(datamodule.train_dataloader())
    trainer.fit_loop.setup_data()
    return int(trainer.num_training_batches)


def is_last_batch_of_run(trainer: L.Trainer) -> bool:
    """Whether the training batch that is being ended is the last, whatever ends the run."""
    loop = trainer.fit_loop
    if trainer.should_stop and loop._can_stop_early:
        return True
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    epochs = trainer.max_epochs
    is_last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return is_last_epoch and loop.epoch_loop._num_ready_batches_reached()


def is_at_end_of_epoch(trainer: L.Trainer) -> bool:
    """Whether the last batch of an epoch is done, and the epoch is not."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current
    return done.completed == done.ready == trainer.num_training_batches


def validate_after_this_batch(trainer: L.Trainer) -> dict[str, Any]:
    """Have a validation follow the batch that is being ended; gives what the settings were, by name."""
    wanted = {
        "check_val_every_n_epoch": None,
        "val_check_batch": trainer.fit_loop.total_batch_idx + 1,
        "_val_check_time_interval": None,
    }
    before = {name: getattr(trainer, name, None) for name in wanted}
    for name, value in wanted.items():
        setattr(trainer, name, value)
    return before
