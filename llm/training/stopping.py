"""A run that is told to stop ends between two steps, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch

from llm.errors import LLMError
from llm.training.checkpointing import BestAndLast


class Interrupted(LLMError):
    """A signal ended the run, after it was saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopSafely(L.Callback):
    """On SIGTERM or Ctrl+C: finish the step, write `last.ckpt`, and end; a second signal does not wait for the step.

    Of several processes it is enough that one gets the signal: all of them save and end after the same step.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._step_before = -1
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen."""
        del trainer, pl_module
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Remember which step this batch belongs to."""
        del pl_module
        self._step_before = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """End the run between two optimizer steps.

        Raises:
            Interrupted: a signal came.
        """
        del pl_module
        if trainer.global_step == self._step_before:
            return
        received = self._received_by_any(trainer)
        if not received:
            return
        name = signal.Signals(received).name
        checkpoint = trainer.checkpoint_callback
        path = checkpoint.save_last(trainer) if isinstance(checkpoint, BestAndLast) else None
        saved = "nothing was saved" if path is None else f"go on with: {_command_to_resume(trainer, path)}"
        raise Interrupted(f"stopped by {name} after step {trainer.global_step}; {saved}", received)

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
        """Listen no more."""
        del trainer, pl_module, stage
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        del trainer, pl_module, exception
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        os.write(2, b"\nstopping after this step\n")  # logging is not safe in a signal handler
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            handler: Callable[..., Any] | int | None = before
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}


def _command_to_resume(trainer: L.Trainer, path: Path) -> str:
    """What a user types to go on: with the run's own configuration, where it was kept."""
    folder = getattr(trainer.loggers[0], "log_dir", None) if trainer.loggers else None
    config = Path(folder, "config.yaml") if folder else None
    with_config = f" --config {config}" if config is not None and config.is_file() else ""
    return f"python train.py fit{with_config} --ckpt_path {path}"
