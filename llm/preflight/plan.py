"""What is known about a run before it begins, from its settings and its data."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llm.config import GPTConfig, OptimConfig
from llm.data.modules.base import ResumableDataModule
from llm.errors import LLMError, reason_of
from llm.model.trained import ALL, Trained
from llm.preflight.memory import Memory, Parameters
from llm.runtime.counting import Costs
from llm.training.schedule import Accumulation, batches_of_epoch, batches_until

Made = TypeVar("Made")

_STEPS_TO_VALIDATION = 9
"""Times that training takes as long as validation, at least, where nobody sets the interval."""
_ROUND = 10
"""What an interval that is found here is a multiple of."""


@dataclass(frozen=True)
class Corpus:
    """What a run trains and validates on.

    Args:
        files: of the training corpus.
        bytes: their size.
        train: tokens to train on.
        validation: tokens to validate on.
        windows: training windows, or examples.
        batches: of an epoch, in each process.
        batch_tokens: tokens of a batch of one process, without padding.
        validation_batches: of a validation, in each process.
        validation_rows: windows, or examples, of a validation, in each process.
        longest: tokens in the longest row.
        lines: what the task has to say, a name and a text each.
    """

    files: tuple[Path, ...]
    bytes: int
    train: int
    validation: int
    windows: int
    batches: int
    batch_tokens: int
    validation_batches: int
    validation_rows: int
    longest: int
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Start:
    """What a run begins with, besides its settings.

    Args:
        step: at which it resumes; 0 for a new one.
        trained: the architecture of its weights; None for new ones.
        data: what the checkpoint knows of its corpus.
        folder: of the run that is resumed.
        no_tokenizer: why its weights come without a tokenizer; None if they have one.
    """

    step: int = 0
    trained: GPTConfig | None = None
    data: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    no_tokenizer: str | None = None


@dataclass
class Plan:
    """A run before it begins. What could not be found out, because something is wrong, is None.

    Args:
        settings: what the user set, and the defaults, as nested dicts.
        start: what the run begins with.
        problems: what was wrong with a part of the run when it was made, in the words of that part.
        network: the architecture.
        trained: what of it is.
        seconds: how long the run will take.
        measured: the peak of memory in bytes, if some steps were made.
        interval_before: the default of `trainer.val_check_interval`, where the run takes a longer one.
    """

    settings: dict[str, Any]
    start: Start = field(default_factory=Start)
    problems: list[str] = field(default_factory=list)
    datamodule: ResumableDataModule | None = None
    corpus: Corpus | None = None
    network: Any = None  # a GPTConfig, or that of a network of another kind
    optim: OptimConfig | None = None
    trained: Trained = ALL
    device: str | None = None
    precision: str = "32-true"
    world_size: int = 1
    steps: int | None = None
    parameters: Parameters | None = None
    costs: Costs | None = None
    memory: Memory | None = None
    free_memory: int | None = None
    folder: Path | None = None
    free_disk: int | None = None
    seconds: float | None = None
    measured: int | None = None
    interval_before: int | None = None

    def setting(self, name: str) -> Any:
        """A setting by its dotted name; None where there is none."""
        value: Any = self.settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def accumulation(self) -> Accumulation:
        """Batches of a step, in each process; a schedule of them is counted from epoch 0."""
        for callback in self.callbacks("GradientAccumulationScheduler"):
            schedule = callback.get("scheduling")
            if isinstance(schedule, dict):
                return {int(epoch): max(1, int(batches)) for epoch, batches in schedule.items()}
        return max(1, self.setting("trainer.accumulate_grad_batches") or 1)

    def limit(self, split: str) -> int | float | None:
        """Lightning's limit of the batches of an epoch of `train`, or of a validation of `val`; None for no limit."""
        limit: int | float | None = self.setting("trainer.overfit_batches") or self.setting(
            f"trainer.limit_{split}_batches"
        )
        return limit

    @property
    def overfits(self) -> bool:
        """Whether the run is validated on the few batches that it trains on."""
        return bool(self.setting("trainer.overfit_batches"))

    @property
    def tokens(self) -> int | None:
        """Tokens that the run trains on, of all processes."""
        if self.steps is None:
            return None
        data = self.settings["data"]
        each = data["batch_size"] * data["context_length"] if self.corpus is None else self.corpus.batch_tokens
        return int(self.batches_until(self.steps) * each * self.world_size)

    @property
    def epochs(self) -> float | None:
        """Times that the run goes through the training windows."""
        if self.steps is None or self.corpus is None or not self.corpus.batches:
            return None
        return self.batches_until(self.steps) / self.corpus.batches

    def batches_until(self, step: int) -> int:
        """Batches up to an optimizer step; where the epoch is not known, it is without end."""
        batches = self.corpus.batches if self.corpus is not None else 0
        return batches_until(step, batches or sys.maxsize, self.accumulation)

    def callbacks(self, name: str) -> Iterator[dict[str, Any]]:
        """The arguments of each callback of a class in the settings.

        Args:
            name: of the class, without its module.
        """
        callbacks = self.setting("trainer.callbacks")
        for callback in callbacks if isinstance(callbacks, list) else []:
            if isinstance(callback, dict) and str(callback.get("class_path")).split(".")[-1] == name:
                yield callback.get("init_args") or {}

    @property
    def folder_is_writable(self) -> bool:
        """Whether the run folder could be made, as far as that is known."""
        return self.folder is None or os.access(existing(self.folder), os.W_OK | os.X_OK)

    @property
    def checkpoint_bytes(self) -> int | None:
        """Size of a checkpoint that a run can resume from, about: weights and optimizer."""
        return None if self.memory is None or (size := self.weights_bytes) is None else size + self.memory.optimizer

    @property
    def weights_bytes(self) -> int | None:
        """Size of a checkpoint of weights alone, about: all of them, or those that are trained."""
        if self.memory is None:
            return None
        return self.memory.gradients if self.trained.lora.adapter_only else self.memory.weights

    @property
    def validates(self) -> bool:
        """Whether there is anything to validate on."""
        has_data = self.corpus is not None and bool(self.corpus.validation or self.overfits)
        return has_data and self.limit("val") != 0

    @property
    def validates_by_time(self) -> bool:
        """Whether the interval between validations is one of time."""
        return not isinstance(self.setting("trainer.val_check_interval"), int | float | None)

    @property
    def validates_every(self) -> int | None:
        """Training batches between validations; None where there are none, or none that are counted."""
        interval = self.setting("trainer.val_check_interval")
        if not self.validates or self.validates_by_time or self.corpus is None:
            return None
        if isinstance(interval, float):
            return max(1, int(self.corpus.batches * interval))
        return interval if interval else self.corpus.batches

    @property
    def validation_cost(self) -> float:
        """What a validation takes, in training batches: a forward pass is a third of one."""
        if self.corpus is None or not self.validates:
            return 0.0
        if self.overfits:
            return self.corpus.batches / 3
        batches = self.corpus.validation_batches
        rows = self.corpus.validation_rows * batches_of_epoch(batches, self.limit("val")) / max(1, batches)
        return rows / self.settings["data"]["batch_size"] / 3

    def lengthen_interval(self) -> None:
        """Validate so seldom that it takes a tenth of the time at most, but for that before the first step.

        It follows from numbers of rows, not from a clock, so that a resumed run has the same interval.
        """
        interval, least = self.validates_every, _STEPS_TO_VALIDATION * self.validation_cost
        if interval is not None and interval < least:
            multiple = _ROUND * (self.accumulation if isinstance(self.accumulation, int) else 1)
            self.interval_before = interval
            self.settings["trainer"]["val_check_interval"] = math.ceil(least / multiple) * multiple

    def time_of_validation(self, batches: int) -> float:
        """What all validations beside so many training batches take, in training batches: that before the first step
        is one of them, and there is one at the end, if no other."""
        every = self.validates_every
        return 0.0 if every is None else (1 + max(1, batches // every)) * self.validation_cost

    def make(self, make: Callable[[], Made]) -> Made | None:
        """Make a part of the run; what is wrong with it joins the other problems."""
        try:
            return make()
        except Exception as error:
            if isinstance(error, LLMError):
                self.problems += map(str, error.args)
            elif (reason := reason_of(error)) is not None:
                self.problems.append(reason)
            else:
                raise
            return None


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
