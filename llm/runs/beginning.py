"""Where a run begins: with the checkpoint that it is given, or at step 0."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import OnExceptionCheckpoint

log = logging.getLogger("llm")


def begin_where_it_was_said(trainer: L.Trainer) -> None:
    """Let `ckpt_path` alone decide where a run begins.

    Lightning would go on from what an `OnExceptionCheckpoint` left, or from its own checkpoint of a SLURM job, without
    a word and past all checks. What an `OnExceptionCheckpoint` keeps is left alone until the run has made its first
    step, and by all but `fit`.

    Args:
        trainer: that has all its callbacks.
    """
    connector: Any = trainer._checkpoint_connector
    connector._parse_ckpt_path = lambda _, ckpt_path, **__: ckpt_path
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, OnExceptionCheckpoint):
            _keep_until_the_first_step(callback)


def _keep_until_the_first_step(callback: Any) -> None:
    save, remove = callback.on_exception, callback.teardown
    has_begun = False

    def on_train_start(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        del pl_module
        path = Path(callback.ckpt_path)
        if trainer.ckpt_path is None and path.is_file() and trainer.is_global_zero:
            log.info(
                "%s is what a run left that ended with an error; this one begins at step 0. To go on from it: "
                "--ckpt_path %s",
                path,
                path,
            )

    def on_train_batch_end(*_: Any, **__: Any) -> None:
        nonlocal has_begun
        has_begun = True

    def on_exception(trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if has_begun:
            save(trainer, *args, **kwargs)

    def teardown(trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and has_begun:
            remove(trainer, pl_module, stage)

    for hook in (on_train_start, on_train_batch_end, on_exception, teardown):
        setattr(callback, hook.__name__, hook)
