"""A run that is told to stop ends between two steps, with a checkpoint."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging

from llm.data.loader import BatchLoader
from llm.runs.checkpointing import best_and_last
from llm.runs.ending import EndPoint
from llm.runs.loggers import folder_of
from llm.runtime.process import Interrupted, listen, listen_as_before, name_of, say
from llm.runtime.shell import command_line, train_command_line
from llm.training.trainer_state import is_accumulating

log = logging.getLogger("llm")

Kind = TypeVar("Kind")

_SECONDS_UNTIL_IMPATIENT = 1.0


class StopSafely(L.Callback):
    """On SIGTERM, Ctrl+C and the like: finish the step, write `last.ckpt`, and end.

    In a validation it does not wait for the end: a run that goes on makes that validation again. It does wait where
    gradients are being accumulated, which a checkpoint does not hold, and where no step is left to make.

    A second Ctrl+C, at least a second after the first signal, waits for nothing. (What starts several processes passes
    a signal on that they have all got from the terminal already: that does not count as a second one.)

    Of several processes it is enough that one gets the signal: all of them save and end after the same step.

    Under SLURM, the signal that announces the time limit (`--signal=SIGUSR1@90`) also puts the job in the queue again.

    Give it to a Trainer as the last callback, so that the others are done with the step.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._when = 0.0
        self._outcome: Interrupted | None = None
        self._before: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen, in place of Lightning, which would save within a step, and wait for others in a signal handler."""
        del pl_module
        handle = self._listen if stage == "fit" else lambda: None  # in other stages there is nothing to save
        trainer._signal_connector.register_signal_handlers = handle  # type: ignore[method-assign]

    def _listen(self) -> None:
        self._received, self._outcome = None, None
        self._before = listen(self._handle)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run, if it has been told to, or had ended by itself before it was resumed.

        Raises:
            Interrupted: a signal came.
        """
        del pl_module
        self._end_without_saving(trainer)
        stopped = [callback for callback in _of_kind(trainer, EarlyStopping) if callback.stopping_reason.value]
        if trainer.ckpt_path is not None and stopped:  # Lightning would go on until the next validation
            trainer.should_stop = True
            log.info("early stopping: %s Remove the callback to continue", stopped[0].stopping_reason_message)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """End the run between two optimizer steps.

        Raises:
            Interrupted: a signal came.
        """
        del pl_module
        self._end_if_told(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """End the run within a validation.

        Raises:
            Interrupted: a signal came.
        """
        del pl_module
        if trainer.sanity_checking:
            self._end_without_saving(trainer)
        elif trainer.state.fn == "fit":
            self._end_if_told(trainer)

    def _end_without_saving(self, trainer: L.Trainer) -> None:
        if received := self._received_by_any(trainer):
            self._outcome = Interrupted(
                f"stopped by {name_of(received)} before the first step; there was nothing to save", received
            )
            raise self._outcome

    def _end_if_told(self, trainer: L.Trainer) -> None:
        if is_accumulating(trainer) or _is_last_step(trainer):
            return
        if not (received := self._received_by_any(trainer)):
            return
        if trainer.validating:
            for callback in _of_kind(trainer, WeightAveraging):  # validation has the averaged weights in their place
                callback.on_validation_epoch_end(trainer, trainer.lightning_module)
        checkpoint = best_and_last(trainer)
        path = None if checkpoint is None else checkpoint.save_last(trainer)
        then = "nothing was saved" if path is None else f"resume with: {command_to_resume(trainer, path)}"
        if path is not None and (said := _put_in_queue_again(trainer, received)):
            then = f"{said}; {then}"
        self._outcome = Interrupted(
            f"stopped by {name_of(received)} after step {trainer.global_step}; {then}", received
        )
        raise self._outcome

    def _received_by_any(self, trainer: L.Trainer) -> int:
        """The signal that this process got or, where there are several, any of them; 0 for none.

        To save takes all processes. One that stopped alone would wait for the others, and they for it.
        """
        received = self._received or 0
        if trainer.world_size == 1:
            return received
        mine = torch.tensor(received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(mine, reduce_op="max"))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen no more; end the processes that load data."""
        del pl_module, stage
        self._listen_no_more()
        _end_loaders(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Listen no more; end the processes that load data."""
        del pl_module, exception
        self._listen_no_more()
        _end_loaders(trainer)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._received is None:
            self._received, self._when = number, time.monotonic()
            say("stopping after this step")
        elif number == signal.SIGINT and time.monotonic() - self._when >= _SECONDS_UNTIL_IMPATIENT:
            raise self._outcome or Interrupted(
                f"stopped by {name_of(number)} at once; the last checkpoint is as it was", number
            )

    def _listen_no_more(self) -> None:
        listen_as_before(self._before)
        self._before = {}


def command_to_resume(trainer: L.Trainer, path: Path | str, *more: str) -> str:
    """What a user types to go on: with the run's own configuration, where it was kept.

    Args:
        trainer: of the run.
        path: the checkpoint to go on from.
        more: flags besides.
    """
    folder = folder_of(trainer)
    config = None if folder is None else folder / "config.yaml"
    with_config: list[str | Path] = ["--config", config] if config is not None and config.is_file() else []
    return train_command_line("fit", *with_config, *more, "--ckpt_path", path)


def _end_loaders(trainer: L.Trainer) -> None:
    for loader in (trainer.train_dataloader, trainer.val_dataloaders):
        if isinstance(loader, BatchLoader):
            loader.close()


def _of_kind(trainer: L.Trainer, kind: type[Kind]) -> list[Kind]:
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def _is_last_step(trainer: L.Trainer) -> bool:
    """Whether a run that was resumed from here would find nothing left to do, not even its last validation."""
    ends = any(end.is_reached for end in _of_kind(trainer, EndPoint))
    return ends or 0 <= trainer.max_steps <= trainer.global_step


def _put_in_queue_again(trainer: L.Trainer, received: int) -> str | None:
    """Where SLURM sent the signal to requeue, have the job begin again; gives what to say of it.

    The batch script runs again from its beginning, so its command has to be one that resumes (`--ckpt_path last`).
    """
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    job = SLURMEnvironment.job_id()
    if received != environment.requeue_signal or job is None or not trainer.is_global_zero:
        return None
    command = ["scontrol", "requeue", str(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        problem = done.stderr.strip() or f"status {done.returncode}" if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    return f"job {job} is in the queue again" if problem is None else f"`{command_line(*command)}` failed: {problem}"
