"""A learning rate and a batch size for a run, found before it begins, with copies that are thrown away.

Lightning's own callbacks search within the run, in whose place its state must then be put back.
"""

from __future__ import annotations

import functools
import gc
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import lr_finder
from lightning.pytorch.utilities.memory import is_oom_error

from llm.errors import ConfigError
from llm.runs.checkpointing import AtomicCheckpointIO
from llm.runtime.randomness import preserve_rng_state

_OF_THE_RUN = (
    *("accelerator", "strategy", "precision", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "limit_train_batches", "overfit_batches", "deterministic", "benchmark"),
    "use_distributed_sampler",
)
"""Settings of the Trainer that a search has from its run."""


def find_learning_rate(
    finder: LearningRateFinder, module: L.LightningModule, datamodule: L.LightningDataModule, trainer: Mapping[str, Any]
) -> float:
    """The learning rate at which the loss falls most steeply while the rate rises (Smith 2017, section 3.3).

    Args:
        finder: Lightning's, with its range and its number of steps.
        module: what is to be trained, with weights that are thrown away afterwards.
        datamodule: of its batches.
        trainer: the settings of the Trainer.

    Raises:
        ConfigError: too few of the losses are finite.
    """
    finder._early_exit, finder._update_attr = True, False
    shown, lr_finder.tqdm = (
        lr_finder.tqdm,
        functools.partial(lr_finder.tqdm, leave=False, disable=None),
    )  # on a terminal
    try:
        _fit(module, datamodule, trainer, finder)
    finally:
        lr_finder.tqdm = shown
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    if found is None or not math.isfinite(found):
        raise ConfigError(
            f"LearningRateFinder found no rate between {finder._min_lr:g} and {finder._max_lr:g}: too few losses are "
            "finite; set a lower trainer.callbacks.max_lr, or more trainer.callbacks.num_training_steps"
        )
    return float(found)


def find_batch_size(
    finder: BatchSizeFinder,
    module: L.LightningModule,
    datamodule: L.LightningDataModule,
    trainer: Mapping[str, Any],
    fits: Callable[[int], bool] = lambda _: True,
) -> int:
    """The largest batch size of which some steps can be made; no larger than there are rows to train on.

    Args:
        finder: Lightning's, with its first size, its largest, its margin, and whether to double or to bisect.
        module: what is to be trained, with weights that are thrown away afterwards.
        datamodule: with a `batch_size` and a `train_source`.
        trainer: the settings of the Trainer.
        fits: whether to try a size at all: memory of a processor that is not there ends the process.

    Raises:
        ConfigError: not even the first size fits, or there are fewer rows than that.
    """
    options = {**trainer, "limit_train_batches": 1.0}

    def succeeds(size: int) -> bool:
        datamodule.batch_size = size  # type: ignore[attr-defined]
        try:
            if not fits(size):
                return False
            _fit(module, datamodule, options, max_steps=finder._steps_per_trial)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            return False
        finally:
            module.zero_grad(set_to_none=True)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return True

    datamodule.prepare_data()
    datamodule.setup("fit")
    rows = len(datamodule.train_source())  # type: ignore[attr-defined]
    most = min(rows, finder._max_val)
    size, failed = finder._init_val, None
    if size > most:
        raise ConfigError(f"BatchSizeFinder begins with {size} rows, and there are {rows:,}: set a smaller init_val")
    if not succeeds(size):
        raise ConfigError(f"BatchSizeFinder: not even {size} rows fit into memory; use a smaller model")
    for _ in range(finder._max_trials):
        if failed is None and size < most:
            tried = min(2 * size, most)
        elif failed is not None and finder._mode == "binsearch" and failed - size > 1:
            tried = (size + failed) // 2
        else:
            break
        if succeeds(tried):
            size = tried
        else:
            failed = tried
    return size if failed is None or finder._mode == "power" else max(1, int(size * (1 - finder._margin)))


def refuse_batch_size_finder(trainer: L.Trainer) -> None:
    """Refuse a search for a batch size within a run.

    Raises:
        ConfigError: the Trainer has a `BatchSizeFinder`.
    """
    if any(isinstance(callback, BatchSizeFinder) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ConfigError(
            "BatchSizeFinder would change the batches of a run that has begun, which then could not resume exactly: "
            "give it on the command line (--trainer.callbacks+=BatchSizeFinder), or use "
            "llm.runs.finding.find_batch_size"
        )


def keep_rate_of_checkpoint(trainer: L.Trainer) -> None:
    """Let no `LearningRateFinder` search in a run that resumes: Lightning would forget the checkpoint's state."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, LearningRateFinder):
            callback.on_fit_start = lambda *_: None  # type: ignore[method-assign]


def _fit(
    module: L.LightningModule,
    datamodule: L.LightningDataModule,
    settings: Mapping[str, Any],
    *callbacks: L.Callback,
    max_steps: int = -1,
) -> None:
    """Train without a trace: no logger, no files, no validation, and random numbers as they were."""
    options = {name: settings[name] for name in _OF_THE_RUN if settings.get(name) is not None}
    with (
        tempfile.TemporaryDirectory() as folder,
        preserve_rng_state(torch.device("cpu")),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            **options,
            devices=1,
            max_steps=max_steps,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            callbacks=list(callbacks),
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule)
