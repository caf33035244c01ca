"""From settings to a plan: every part of a run is made once, or says what is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import shutil
import warnings
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from llm.config import LoRAConfig, OptimConfig, SamplingConfig, TokenizerConfig, WordVectorsConfig
from llm.config.tasks import LANGUAGE
from llm.data import ClassifyDataModule, ExampleDataModule, TextDataModule, TranslationDataModule
from llm.data.loader import BatchLoader
from llm.model.networks import is_known
from llm.model.trained import ALL, Trained
from llm.preflight.costs import step_costs
from llm.preflight.labels import label_lines
from llm.preflight.memory import Parameters, expected_memory, free_memory, process_memory
from llm.preflight.plan import Corpus, Plan, Start, existing
from llm.preflight.words import word_costs, word_parameters
from llm.runs.checkpointing import BestAndLast
from llm.runs.loggers import planned_folder
from llm.runs.run_folder import refuse_to_overwrite
from llm.runtime.counting import Costs
from llm.tasks import TASKS, Task
from llm.tasks.base import TaskModule
from llm.training.schedule import batches_of_epoch, steps_of_run

_NOT_ASKED = {"logger", "callbacks", "plugins", "profiler", "default_root_dir", "barebones"}
"""Arguments of the Trainer that are not tried out: they are no plain values, or leave something behind."""


def can_be_planned(task: Task) -> bool:
    """Whether all that a run needs can be known before it: of a network of ours, on windows, examples or pairs."""
    module = task.module_class()
    is_ours = issubclass(module, TaskModule) and (
        is_known(module.network_config) or module.network_config is WordVectorsConfig
    )
    return is_ours and issubclass(task.datamodule_class(), TextDataModule | ExampleDataModule | TranslationDataModule)


def make_plan(settings: dict[str, Any], start: Start | None = None) -> Plan:
    """Find out all that can be known before a run, without a model, a trainer or a folder.

    What learns a vocabulary or makes token ids is done here, once: the data module of the plan is that of the run.

    Args:
        settings: of `fit`, as nested dicts of plain values.
        start: what the run begins with.
    """
    plan = Plan(settings, start or Start())
    task = TASKS[settings.get("task", LANGUAGE)]
    model, data = settings["model"], settings["data"]
    plan.optim = plan.make(lambda: OptimConfig(**model["optim"]))
    if "lora" in model:
        new = cast(type[TaskModule], task.module_class()).new_parts
        plan.trained = plan.make(lambda: Trained(model["train"], LoRAConfig(**model["lora"]), new)) or ALL
    elif model.get("train") is not None:
        plan.trained = Trained(model["train"])
    if "sampling" in model:
        plan.make(lambda: SamplingConfig(**model["sampling"]))
    for group, callback in task.callback_classes().items():
        plan.make(functools.partial(callback, **settings[group]))
    plan.make(lambda: BestAndLast(**settings["checkpoint"]))
    _try_trainer(plan, settings["trainer"])
    with contextlib.suppress(Exception):  # what is wrong with a logger, the run itself will say
        plan.folder = plan.start.folder or planned_folder(settings["trainer"])
    if not settings["trainer"].get("fast_dev_run"):
        chosen = settings["checkpoint"]["folder"]
        folders = [folder for folder in (plan.folder, chosen) if folder is not None]
        begin = settings.get("ckpt_path"), bool(settings.get("fresh")), chosen
        plan.make(lambda: refuse_to_overwrite(map(Path, folders), *begin))
    tokenizers = plan.make(
        lambda: {name: TokenizerConfig(**data[name]) for name in ("tokenizer", "source_tokenizer") if name in data}
    )
    if tokenizers is not None and plan.folder_is_writable:  # a corpus may take minutes to read
        kind: Any = task.datamodule_class()
        plan.datamodule = plan.make(lambda: kind(**{**data, **tokenizers}))
    if plan.datamodule is not None:
        plan.corpus = plan.make(lambda: _read_corpus(plan, plan.datamodule))
    plan.network = plan.make(lambda: _network_config(plan, task))
    if getattr(task.module_class(), "grows_vocabulary", False) and plan.network and plan.start.trained:
        n_new = max(0, plan.network.vocab_size - plan.start.trained.vocab_size)
        plan.trained = dataclasses.replace(plan.trained, lora=plan.trained.lora.with_new_tokens(n_new))
    if plan.corpus is not None:
        trainer = settings["trainer"]
        max_steps, max_epochs = trainer["max_steps"], trainer["max_epochs"]
        if debugged := trainer.get("fast_dev_run"):
            max_steps, max_epochs = int(debugged), 1
        plan.steps = steps_of_run(max_steps, max_epochs, plan.corpus.batches, plan.limit("train"), plan.accumulation)
    if plan.network is not None and plan.optim is not None and plan.datamodule is not None and plan.device is not None:
        network, optim = plan.network, plan.optim
        count = word_parameters if isinstance(network, WordVectorsConfig) else Parameters.of
        plan.parameters = plan.make(lambda: count(network, optim, plan.trained))
        if plan.parameters is not None:
            _count_costs(plan, network, plan.datamodule.supervised_fraction, plan.device)
    with contextlib.suppress(OSError):
        plan.free_disk = shutil.disk_usage(existing(plan.folder or Path())).free
    return plan


def _count_costs(plan: Plan, network: Any, supervised: float, device: str) -> None:
    """Find out what a step costs and needs."""
    assert plan.parameters is not None
    plan.costs = costs_of_step(plan, network, plan.settings["data"]["batch_size"], supervised, device)
    held = process_memory() if device == "cpu" else 0
    plan.memory = expected_memory(plan.parameters, plan.costs, plan.precision, device, plan.world_size, held)
    plan.free_memory = free_memory(device)


def costs_of_step(plan: Plan, network: Any, batch_size: int, supervised: float, device: str) -> Costs:
    """What a step of a run would cost with another batch size: its rows are as long as the longest of them.

    Args:
        plan: of the run.
        network: its architecture.
        batch_size: rows of a batch.
        supervised: fraction of the tokens that have a target.
        device: its kind.
    """
    if isinstance(network, WordVectorsConfig):
        data = {**plan.settings["data"], "batch_size": batch_size}
        return word_costs(network, data, plan.precision, device, plan.trained)
    length = network.context_length
    longest = min(length, plan.corpus.longest if plan.corpus is not None else length)
    network = dataclasses.replace(network, context_length=longest)  # no batch is wider
    return step_costs(network, batch_size, plan.precision, device, supervised, plan.trained)


def _network_config(plan: Plan, task: Task) -> Any:
    """The architecture, with what follows from the data, as far as there is a data module."""
    module = cast(type[TaskModule], task.module_class())
    network_group, kind = task.network_group, module.network_config
    if module.architectures:
        kind = module.architectures[plan.settings["model"]["kind"]]
        network_group = f"model.{plan.settings['model']['kind']}"
    told = {}
    for target, source in task.sources.items():
        group, _, name = target.rpartition(".")
        attribute = source.removeprefix("data.")
        if group == network_group:
            if hasattr(plan.datamodule, attribute):
                told[name] = getattr(plan.datamodule, attribute)
            elif plan.settings["data"].get(attribute) is not None:
                told[name] = plan.settings["data"][attribute]
    return kind(**{**plan.setting(network_group), **told})


def _read_corpus(plan: Plan, datamodule: Any) -> Corpus:
    datamodule.refuse_other_corpus(plan.start.data)
    datamodule.prepare_data()
    datamodule.setup("fit")
    files = tuple(datamodule.files)
    batches = len(datamodule.train_order(world_size=plan.world_size))
    validation = datamodule.validation_loader()
    validation_rows = validation.order.n_rows if isinstance(validation, BatchLoader) else 0
    return Corpus(
        files,
        sum(file.stat().st_size for file in files),
        datamodule.split_tokens("train"),
        datamodule.split_tokens("validation"),
        len(datamodule.train_source()),
        batches_of_epoch(batches, plan.limit("train")),
        datamodule.batch_tokens,
        math.ceil(len(validation) / plan.world_size),
        math.ceil(validation_rows / plan.world_size),
        datamodule.longest_row,
        tuple(label_lines(datamodule)) if isinstance(datamodule, ClassifyDataModule) else (),
    )


def _try_trainer(plan: Plan, settings: dict[str, Any]) -> None:
    """Let Lightning find what is wrong with devices, precision and limits, with a trainer that is thrown away."""
    plain: dict[str, Any] = {
        name: value
        for name, value in settings.items()
        if name not in _NOT_ASKED and (isinstance(value, int | float | str | None) or name == "devices")
    }
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "fast_dev_run": False,
    }
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
