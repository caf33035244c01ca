"""What is known about a run before it begins, from its settings and its data."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from llm.config import GPTConfig, OptimConfig, SamplingConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.data.corpus import resolve_corpus
from llm.data.opening import find_token_ids
from llm.data.windows import window_starts
from llm.errors import LLMError, reason_of
from llm.inspection import Inspection
from llm.preflight.memory import Memory, Parameters, expected_memory, free_memory, process_memory
from llm.training import BestAndLast, TextSamples
from llm.training.schedule import batches_of_epoch, steps_of_run

Made = TypeVar("Made")

_NOT_ASKED = {"logger", "callbacks", "plugins", "profiler", "default_root_dir", "max_time", "barebones"}
"""Arguments of the Trainer that are not tried out: they are no plain values, or leave something behind."""


@dataclass(frozen=True)
class Corpus:
    """What a run trains and validates on.

    Args:
        files: of the training corpus.
        bytes: their size.
        train: tokens to train on.
        validation: tokens to validate on.
        windows: training windows.
        batches: of an epoch, in each process.
    """

    files: tuple[Path, ...]
    bytes: int
    train: int
    validation: int
    windows: int
    batches: int


@dataclass
class Plan:
    """A run before it begins. What could not be found out, because something is wrong, is None.

    Args:
        settings: what the user set, and the defaults, as nested dicts.
        start: the step at which the run goes on; 0 for a new one.
        trained_vocab: of the weights that the run begins with: tokens in their vocabulary.
        problems: what was wrong with a part of the run when it was made, in the words of that part.
        seconds: how long the run will take.
        measured: the peak of memory in bytes, if some steps were made.
    """

    settings: dict[str, Any]
    start: int = 0
    trained_vocab: int | None = None
    problems: list[str] = field(default_factory=list)
    datamodule: TextDataModule | None = None
    corpus: Corpus | None = None
    gpt: GPTConfig | None = None
    optim: OptimConfig | None = None
    device: str | None = None
    precision: str = "32-true"
    world_size: int = 1
    steps: int | None = None
    parameters: Parameters | None = None
    memory: Memory | None = None
    free_memory: int | None = None
    folder: Path | None = None
    free_disk: int | None = None
    seconds: float | None = None
    measured: int | None = None

    def setting(self, name: str) -> Any:
        """A setting by its dotted name; None where there is none."""
        value: Any = self.settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def accumulated(self) -> int:
        """Batches of a step, in each process."""
        return max(1, self.setting("trainer.accumulate_grad_batches") or 1)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, of all processes."""
        data = self.settings["data"]
        return int(data["batch_size"] * data["context_length"] * self.accumulated * self.world_size)

    @property
    def epochs(self) -> float | None:
        """Times that the run goes through the training windows."""
        if self.steps is None or self.corpus is None or not self.corpus.batches:
            return None
        return self.steps * self.accumulated / self.corpus.batches

    @property
    def checkpoint_bytes(self) -> int | None:
        """Size of a checkpoint, about: weights and optimizer."""
        return None if self.memory is None else self.memory.weights + self.memory.optimizer

    @property
    def validates_every(self) -> int | None:
        """Training batches between validations; None where there are none."""
        interval = self.setting("trainer.val_check_interval")
        if self.corpus is None or not self.corpus.validation or self.setting("trainer.limit_val_batches") == 0:
            return None
        if isinstance(interval, float):
            return max(1, int(self.corpus.batches * interval))
        return interval if interval else self.corpus.batches

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


def make_plan(settings: dict[str, Any], start: int = 0, trained_vocab: int | None = None) -> Plan:
    """Find out all that can be known before a run, without a model, a trainer or a folder.

    What learns a vocabulary or makes token ids is done here, once: the data module of the plan is that of the run.

    Args:
        settings: of `fit`, as nested dicts of plain values.
        start: see `Plan`.
        trained_vocab: see `Plan`.
    """
    plan = Plan(settings, start, trained_vocab)
    model, data = settings["model"], settings["data"]
    plan.optim = plan.make(lambda: OptimConfig(**model["optim"]))
    plan.make(lambda: SamplingConfig(**model["sampling"]))
    plan.make(lambda: Inspection(**settings["inspect"]))
    plan.make(lambda: TextSamples(**settings["samples"]))
    plan.make(lambda: BestAndLast(**settings["checkpoint"]))
    _try_trainer(plan, settings["trainer"])
    tokenizer = plan.make(lambda: TokenizerConfig(**data["tokenizer"]))
    if tokenizer is not None:
        plan.datamodule = plan.make(lambda: TextDataModule(**{**data, "tokenizer": tokenizer}))
    told = {"context_length": data["context_length"]}
    if plan.datamodule is not None:
        told["vocab_size"] = plan.datamodule.vocab_size
        plan.corpus = plan.make(lambda: _read_corpus(plan, plan.datamodule))
    plan.gpt = plan.make(lambda: GPTConfig(**{**model["gpt"], **told}))
    if plan.corpus is not None:
        trainer = settings["trainer"]
        max_steps, max_epochs = trainer["max_steps"], trainer["max_epochs"]
        if debugged := trainer.get("fast_dev_run"):
            max_steps, max_epochs = int(debugged), 1
        plan.steps = steps_of_run(
            max_steps, max_epochs, plan.corpus.batches, trainer["limit_train_batches"], plan.accumulated
        )
    if plan.gpt is not None and plan.optim is not None and plan.datamodule is not None and plan.device is not None:
        plan.parameters = Parameters.of(plan.gpt, plan.optim)
        plan.memory = expected_memory(
            plan.gpt,
            plan.parameters,
            data["batch_size"],
            plan.precision,
            plan.device,
            plan.world_size,
            process_memory() if plan.device == "cpu" else 0,
        )
        plan.free_memory = free_memory(plan.device)
    plan.folder = _folder(settings["trainer"]["logger"])
    with contextlib.suppress(OSError):
        plan.free_disk = shutil.disk_usage(existing(plan.folder or Path())).free
    return plan


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _read_corpus(plan: Plan, datamodule: Any) -> Corpus:
    datamodule.prepare_data()
    datamodule.setup("fit")
    tokens = len(datamodule.train_tokens)
    path = find_token_ids(datamodule.corpus)
    if path is None:
        files = tuple(resolve_corpus(datamodule.corpus))
    else:
        files = (path,) if path.is_file() else tuple(sorted(path.glob("*.tokens")))
    batches = len(datamodule.train_order(world_size=plan.world_size))
    return Corpus(
        files,
        sum(file.stat().st_size for file in files),
        tokens,
        len(datamodule.validation_tokens),
        len(window_starts(tokens, datamodule.context_length, datamodule.stride)),
        batches_of_epoch(batches, plan.setting("trainer.limit_train_batches")),
    )


def _try_trainer(plan: Plan, settings: dict[str, Any]) -> None:
    """Let Lightning find what is wrong with devices, precision and limits, with a trainer that is thrown away."""
    plain = {
        name: value
        for name, value in settings.items()
        if name not in _NOT_ASKED and isinstance(value, int | float | str | None)
    }
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "fast_dev_run": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer = L.Trainer(**{**plain, **quiet})
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            plan.problems.append(f"trainer: {' '.join(str(error).split())}")
            return
    plan.device = trainer.strategy.root_device.type
    plan.precision = str(trainer.precision)
    plan.world_size = trainer.num_devices * trainer.num_nodes


def _folder(logger: Any) -> Path | None:
    """Where a run will leave its files, or None if nobody knows before it begins."""
    arguments = logger.get("init_args", {}) if isinstance(logger, dict) else {}
    if not isinstance(logger, dict) or not str(logger.get("class_path", "")).endswith("TensorBoardLogger"):
        return None
    with contextlib.suppress(Exception):  # the run itself will say so
        return Path(TensorBoardLogger(**arguments).log_dir)
    return None
