"""Atomic checkpoints."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from llm.errors import CheckpointError, ConfigError
from llm.pretrained.checkpoint import write_checkpoint
from llm.pretrained.formats import read_with_base
from llm.runs.loggers import folder_of
from llm.runs.newest import BEST, CHECKPOINTS, LAST, PREVIOUS
from llm.runtime.files import keeping
from llm.training.throughput import side_work
from llm.training.trainer_state import checkpoint_of, is_accumulating, log_now


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, and moves it into place; reads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; the one that was at `path` stays whole until this one is."""
        del storage_options
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CheckpointError: it is missing, no checkpoint of ours, or damaged.
        """
        del map_location, weights_only
        checkpoint = read_with_base(path)
        written_by = checkpoint.get("pytorch-lightning_version")  # Lightning compares it before it calls any hook
        if not isinstance(written_by, str) or not re.fullmatch(r"\d+(\.[\w+]+)*", written_by):
            raise CheckpointError(
                f"{str(path)!r} is damaged: it should say which version of Lightning wrote it "
                f"(pytorch-lightning_version), and says {str(written_by)[:40]!r}"
            )
        return checkpoint


_TO_RESUME = (
    "optimizer_states",
    "lr_schedulers",
    "loops",
    "callbacks",
    "current_model_state",  # of a callback that averages weights: the average is what is validated
    "averaging_state",
)
"""Entries of a checkpoint that only a run that resumes needs."""

BEST_LOSS = "validation/best_loss"
"""The metric under which the lowest validation loss so far is logged, so that runs can be compared by it."""


class BestAndLast(Checkpoint):
    """Keeps `best.ckpt`, the weights of the lowest validation loss so far, and `last.ckpt`, to resume from.

    `last.ckpt` is written after each validation and at the end; the one before it becomes `previous.ckpt`, where to go
    on from if the disk damages the newest.

    Args:
        folder: where. Default: `checkpoints` in the folder of the run.
        every: also write `last.ckpt` every so many optimizer steps. Default, and 0: only after validations.

    Raises:
        ConfigError: `every` is below 0.
    """

    def __init__(self, folder: str | None = None, every: int | None = None) -> None:
        if every is not None and every < 0:
            raise ConfigError(f"checkpoint.every must be at least 0 steps, got {every}")
        self.folder = folder
        self.every = every
        self.best_loss = math.inf
        self.best_step = 0
        self.best_measured: dict[str, Any] = {}
        self.best_model_path = ""
        self.last_model_path = ""
        self._saved_step = -1
        self._validated_batch = -1
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the names of this callback's files from others; set the count of begun validation batches right:
        `on_save_checkpoint` may have counted one that never was.

        Raises:
            ConfigError: a `ModelCheckpoint` beside this one would write to a file of this one.
        """
        del pl_module
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                self._keep_apart(trainer, callback)
        counts = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
        counts.ready = counts.started = counts.completed  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Write `last.ckpt`, when it is time to."""
        del pl_module
        is_time = self._due or (self.every and trainer.global_step % self.every == 0)
        # Where a validation follows, it will be saved after that, with what was found.
        if is_time and not is_accumulating(trainer) and not _validation_follows(trainer):
            self.save_last(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember which batch was validated after, for all that save at the end of a validation."""
        del pl_module
        self._validated_batch = trainer.fit_loop.total_batch_idx

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `last.ckpt`, and `best.ckpt` if it is."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics.get("validation/loss", math.inf))
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, trainer.global_step
            self.best_measured = dict(getattr(pl_module, "measured", {}))
            path = self._save(trainer, BEST, leaves_out=_TO_RESUME)
            self.best_model_path = "" if path is None else str(path)
        if math.isfinite(self.best_loss):
            log_now(trainer, {BEST_LOSS: self.best_loss}, step=trainer.global_step)
        if is_accumulating(trainer):  # wait for the step
            self._due = True
        else:
            self.save_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the trained model as `last.ckpt`."""
        del pl_module
        self.save_last(trainer)

    def save_last(self, trainer: L.Trainer) -> Path | None:
        """Write `last.ckpt`, if it is not that of this step already; gives its path, or None where nothing is kept."""
        if trainer.global_step != self._saved_step:
            for logger in trainer.loggers:  # what a run goes on after is on the disk with it
                logger.save()
            path = self._save(trainer, LAST)
            self._saved_step, self._due = trainer.global_step, False
            self.last_model_path = "" if path is None else str(path)
        return Path(self.last_model_path) if self.last_model_path else None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where a validation is due and not over, see to it that a resumed run makes it; Lightning would skip it.

        Lightning calls this after the hooks of all callbacks that save no checkpoints, whose entries are there.
        """
        del pl_module
        if trainer.state.fn != "fit" or not (trainer.training or trainer.validating):
            return
        loop = checkpoint["loops"]["fit_loop"]
        for counts in (loop["epoch_loop.batch_progress"][kind] for kind in ("total", "current")):
            if counts["ready"] > counts["processed"]:  # an error within a step: its batch comes again
                counts["ready"] = counts["started"] = counts["completed"] = counts["processed"]
        if self._validated_batch != trainer.fit_loop.total_batch_idx and _validation_follows(trainer):
            for counts in (loop["epoch_loop.batch_progress"][kind] for kind in ("total", "current")):
                counts["completed"] = counts["processed"]
            # As if it had been ended in its first batch.
            validation = loop["epoch_loop.val_loop.batch_progress"]
            validation["total"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            validation["current"] = dict.fromkeys(validation["total"], 0)
            validation["is_last_batch"] = False

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint, of classes made from this one too."""
        return BestAndLast.__qualname__

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far, and what was validated, so that a resumed run knows both."""
        state = {"best_loss": self.best_loss, "best_step": self.best_step, "best_model_path": self.best_model_path}
        if self.best_measured:
            state["best_measured"] = self.best_measured
        return state if self._validated_batch < 0 else {**state, "validated_batch": self._validated_batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best validation so far."""
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]
        self.best_measured = state_dict.get("best_measured", {})
        self.best_model_path = state_dict["best_model_path"]
        self._validated_batch = state_dict.get("validated_batch", -1)

    def _save(self, trainer: L.Trainer, name: str, leaves_out: Collection[str] = ()) -> Path | None:
        """As `Trainer.save_checkpoint`, without some entries.

        (Its `weights_only` would leave out the hooks of other callbacks, of which one may put averaged weights in.)
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        path = self._folder(trainer) / name
        with contextlib.ExitStack() as stack:
            stack.enter_context(side_work(trainer))
            if name == LAST and trainer.is_global_zero and self._is_whole(path, trainer):
                stack.enter_context(keeping(path, path.with_name(PREVIOUS)))
            kept = {entry: value for entry, value in checkpoint_of(trainer).items() if entry not in leaves_out}
            trainer.strategy.save_checkpoint(kept, path)
            trainer.strategy.barrier()
        return path

    def _keep_apart(self, trainer: L.Trainer, other: ModelCheckpoint) -> None:
        """Let `save_last` of Lightning's callback have a name of its own: its link would stand in for `last.ckpt`."""
        if other.dirpath is None or Path(other.dirpath).resolve() != self._folder(trainer).resolve():
            return
        if other.filename is not None and f"{other.filename}.ckpt" in (BEST, LAST, PREVIOUS):
            raise ConfigError(
                f"ModelCheckpoint with filename {other.filename!r} would overwrite a file of every run: choose another "
                "filename, or a dirpath"
            )
        if f"{other.CHECKPOINT_NAME_LAST}.ckpt" == LAST:
            other.CHECKPOINT_NAME_LAST = f"model-checkpoint-{other.CHECKPOINT_NAME_LAST}"

    def _folder(self, trainer: L.Trainer) -> Path:
        run = trainer.strategy.broadcast(folder_of(trainer)) or trainer.log_dir or ""
        return Path(self.folder or Path(run, CHECKPOINTS))

    def _is_whole(self, path: Path, trainer: L.Trainer) -> bool:
        """Whether it is certain what a file holds: this run wrote or read it. Nothing else may become `previous`."""
        known = [other for other in (self.last_model_path, trainer.ckpt_path) if other]
        return path.is_file() and not path.is_symlink() and path.resolve() in [Path(other).resolve() for other in known]


def best_and_last(trainer: L.Trainer) -> BestAndLast | None:
    """That callback of a run; Lightning's own may stand beside it."""
    return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast)), None)


def best_validation(trainer: L.Trainer) -> tuple[str, Mapping[str, Any]]:
    """The validation that the end of a run tells of, in words, and what a `TaskModule` measured at it: that of
    `best.ckpt`, or the last one of a run that keeps no checkpoints."""
    kept = best_and_last(trainer)
    if kept is None:
        return "last validation", getattr(trainer.lightning_module, "measured", {})
    return f"validation, step {kept.best_step}", kept.best_measured


def _validation_follows(trainer: L.Trainer) -> bool:
    """Whether the training batch that is being ended is one after which there is a validation."""
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and not loop.val_loop.skip and loop._should_check_val_fx(fetcher)
