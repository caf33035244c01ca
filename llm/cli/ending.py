"""What `fit` says when it is done."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger

from llm.data.modules.base import ResumableDataModule
from llm.data.modules.text import sampled_validation
from llm.preflight.sizes import in_time
from llm.runs.checkpointing import best_and_last
from llm.runs.stopping import command_to_resume
from llm.runtime.shell import command_line, train_command_line
from llm.training.progress import values_of

log = logging.getLogger("llm")


def _spent_timer(trainer: L.Trainer) -> Timer | None:
    """The time limit that the run has reached, if any."""
    timers = (callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    return next((timer for timer in timers if (left := timer.time_remaining()) is not None and left <= 0), None)


def _spent(timer: Timer) -> str:
    limit = timer.time_elapsed() + (timer.time_remaining() or 0.0)
    return f"the time for training (trainer.max_time), {in_time(limit)}, is spent"


def _what_would_go_on(trainer: L.Trainer) -> str:
    """What the user has to change so that a run at its end goes on."""
    if (timer := _spent_timer(trainer)) is not None:
        return f"{_spent(timer)}: set a longer --trainer.max_time"
    if 0 <= trainer.max_steps <= trainer.global_step:
        return "set --trainer.max_steps above that"
    return f"set --trainer.max_epochs above {trainer.max_epochs}"


def _with_text(usage: Sequence[str], text: str) -> list[str]:
    """The words of a command with a text in them; one that looks like an option is joined to its own."""
    words: list[str] = []
    for word in usage:
        filled = word.format(text=text)
        if filled != word and filled.startswith("-") and words[-1].startswith("--"):
            words[-1] += f"={filled}"
        else:
            words.append(filled)
    return words


def say_how_to_use(
    trainer: L.Trainer, datamodule: L.LightningDataModule, first_step: int, usage: Sequence[str]
) -> None:
    """Say where the checkpoint of a run is, how to look at the run, and how to use it.

    Args:
        trainer: of the run that is done.
        datamodule: what it was trained on.
        first_step: at which the run began.
        usage: of its task; see `llm.tasks.Task`.
    """
    if trainer.global_step == first_step:
        log.warning(
            "no step was made: the run was at its end already, at step %d; %s", first_step, _what_would_go_on(trainer)
        )
    elif (timer := _spent_timer(trainer)) is not None:
        last = "" if (saved := best_and_last(trainer)) is None else saved.last_model_path
        on = command_to_resume(trainer, last, "--trainer.max_time", "DD:HH:MM:SS") if last else "raise it"
        log.info("stopped at step %d: %s; resume with: %s", trainer.global_step, _spent(timer), on)
    if trainer.progress_bar_callback is None and (values := values_of(trainer)):
        log.info("trained:     step %d, %s", trainer.global_step, values)
    checkpoint = best_and_last(trainer)
    if checkpoint is None:
        return
    for callback in trainer.early_stopping_callbacks:
        if callback.stopping_reason_message:
            log.info("stopped early, at step %d: %s", trainer.global_step, callback.stopping_reason_message)
    path = checkpoint.best_model_path or checkpoint.last_model_path
    if not path:
        return
    if checkpoint.best_model_path:
        some = sampled_validation(datamodule)
        on = f" on {some}" if some else ""
        log.info("best:        step %d, validation loss %.3f%s", checkpoint.best_step, checkpoint.best_loss, on)
    log.info("checkpoint:  %s", path)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            board = [
                "tensorboard",
                "--logdir",
                str(Path(logger.log_dir)),
                "--samples_per_plugin",
                "images=100,text=100",
            ]
            log.info("look inside: %s", command_line(*board))
    if usage and isinstance(datamodule, ResumableDataModule):
        command, *words = _with_text(usage, datamodule.sample_text())
        log.info("%-12s %s", f"{command}:", command_line("python", "-m", "llm", command, "--ckpt", path, *words))
    else:
        log.info("evaluate:    %s", train_command_line("validate", "--ckpt_path", path))
