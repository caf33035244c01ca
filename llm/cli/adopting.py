"""What a run takes from a checkpoint, or from other trained weights, where the user did not set it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.cli.settings import is_given
from llm.cli.task import refuse_other_task
from llm.cli.tokenizing import adopt_source_tokenizer, adopt_template, adopt_tokenizer, refuse_unknown_padding
from llm.cli.tuning import adopt_batch_size
from llm.cli.words import read_settings
from llm.config import OptimConfig
from llm.errors import CheckpointError, ConfigError, OtherTaskError
from llm.model.networks import is_known
from llm.model.trained import Trained
from llm.preflight import Start
from llm.pretrained import read_pretrained
from llm.pretrained.checkpoint import ENTRY, SOURCE_TOKENIZER, config_of, optim_of, read_checkpoint, trained_of
from llm.runs.choosing import folder_to_go_on_in
from llm.runs.newest import BEST, LAST, run_folder_of
from llm.runs.resuming import refuse_weights_alone
from llm.tasks import TASKS, Task
from llm.tasks.base import TaskModule

log = logging.getLogger("llm")


def adopt_checkpoint(config: Any, subcommand: str, given: set[str], word: str, finders: dict[str, Any]) -> Start:
    """Take from a checkpoint what the user did not set; gives where the run begins.

    Args:
        config: of the run; changed in place.
        subcommand: `fit` or another.
        given: the names that the user set.
        word: of the task.
        finders: what is to be searched for; emptied where a run goes on, which has found it before.

    Raises:
        CheckpointError: it can't be read, is of another task, or is damaged.
        ConfigError: the user set what contradicts it.
    """
    task, start = TASKS[word], Start()
    if "pretrained" in config.model:
        config.model.pretrained = None  # the checkpoint's weights would replace them anyway
    checkpoint = read_checkpoint(config.ckpt_path)
    refuse_other_task(checkpoint, config.ckpt_path, word)
    if subcommand == "fit":
        refuse_weights_alone(checkpoint)
    entry = checkpoint[ENTRY]
    module = task.module_class()
    is_ours = issubclass(module, TaskModule) and is_known(module.network_config)
    trained = config_of(checkpoint, config.ckpt_path) if is_ours else None
    architecture = entry.get("network") if trained is None else trained.to_dict()
    group = task.network_group
    if kinds := getattr(module, "architectures", {}):
        group = adopt_kind(config, given, kinds, str(entry.get("architecture")))
    if isinstance(architecture, dict):
        adopt_architecture(config, given, group, architecture, task.sources)
    adopt_tokenizer(config, given, entry["tokenizer"])
    if "train" in config.model:
        adopt_trained(config, given, trained_of(checkpoint))
    adopt_template(config, given, entry.get("template"))
    if (source_tokenizer := entry.get(SOURCE_TOKENIZER)) is not None:
        adopt_source_tokenizer(config, given, source_tokenizer, entry["tokenizer"])
    step = checkpoint.get("global_step", 0)
    if not isinstance(step, int) or step < 0:
        raise CheckpointError(f"{config.ckpt_path!r} is damaged: its global_step is {str(step)[:80]}")
    if subcommand in ("validate", "test"):
        start = Start(step, trained)
        adopt_text(config, given, settings_of_run(run_folder_of(Path(config.ckpt_path))))
    if subcommand == "fit":
        if "optim" in config.model:
            adopt_optim(config, given, optim_of(checkpoint, config.ckpt_path))
        data = checkpoint.get(task.datamodule_class().__qualname__)
        if finders:
            adopt_batch_size(config, finders, data)
            log.info("resuming with what %s found before", " and ".join(finders))
            finders.clear()
        folder = folder_to_go_on_in(config)
        start = Start(step, trained, data if isinstance(data, dict) else {}, folder)
    return start


def adopt_pretrained(config: Any, given: set[str], task: Task) -> Start:
    """Take from the weights of `model.pretrained` what the user did not set; gives where the run begins.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
        task: of the run.

    Raises:
        CheckpointError: they can't be read.
        ConfigError: they are of a task that this one can't begin with, or the user set what contradicts them.
    """
    n_head = f"{task.network_group}.n_head"
    told = {"n_head": config[n_head]} if is_given(n_head, given) else {}
    kind: Any = task.module_class()
    try:
        found = read_pretrained(config.model.pretrained, told, tasks=kind.starts_from)
    except OtherTaskError as error:
        path = Path(config.model.pretrained)
        begins_with = f"those of {' or '.join(kind.starts_from)}"
        if path.suffix == ".ckpt":
            resumed = path.with_name(LAST) if path.name == BEST else path  # the best holds weights alone
            resume = f"--task {error.task} --ckpt_path {resumed}"
            begins_with += f", or of other programs: give such, or go on with that run by {resume}"
        raise ConfigError(
            f"--model.pretrained {str(path)!r} is of the task {error.task!r}, and a run of {kind.task!r} begins with "
            f"{begins_with}"
        ) from error
    for note in found.notes:
        log.info("pretrained:  %s", note)
    if found.tokenizer is None and "tokenizer" in config.data and config.data.tokenizer.checkpoint:
        refuse_unknown_padding(config.model.pretrained, found.config.vocab_size, config.data.tokenizer.checkpoint)
    adopt_architecture(config, given, task.network_group, found.config.to_dict(), task.sources)
    adopt_tokenizer(config, given, None if found.tokenizer is None else found.tokenizer.to_dict())
    adopt_template(config, given, found.template)
    if found.tokenizer is not None:
        return Start(trained=found.config)
    why = found.no_tokenizer or f"{config.model.pretrained!r} states no tokenizer"
    return Start(trained=found.config, no_tokenizer=why)


def adopt_architecture(
    config: Any, given: set[str], group: str, architecture: Mapping[str, Any], sources: Mapping[str, str]
) -> None:
    """Take the architecture from trained weights, except for what the user set.

    If that does not fit, loading the weights will say what differs.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
        group: of the network's settings, such as `model.gpt`.
        architecture: the settings of the trained network.
        sources: of settings that follow from the data, by these: there the source is set, if it is a setting.
    """
    for name, value in architecture.items():
        setting = sources.get(f"{group}.{name}", f"{group}.{name}")
        if isinstance(value, dict):
            adopt_architecture(config, given, setting, value, sources)
        elif setting in config and not is_given(setting, given):
            config[setting] = value


def adopt_kind(config: Any, given: set[str], architectures: Mapping[str, type], name: str) -> str:
    """Take the kind of network from trained weights, unless the user set it; gives the group of its settings.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
        architectures: see `TaskModule`.
        name: of the trained network's class of configuration.
    """
    kind = next((kind for kind, found in architectures.items() if found.__name__ == name), config.model.kind)
    if not is_given("model.kind", given):
        config.model.kind = kind
    return f"model.{kind}"


def adopt_optim(config: Any, given: set[str], optim: OptimConfig | None) -> None:
    """Take the settings of the optimizer from the checkpoint that a run resumes from, except for what the user set.

    If that differs, the checkpoint is refused when it is loaded.
    """
    for name, value in dataclasses.asdict(optim).items() if optim is not None else ():
        if not is_given(f"model.optim.{name}", given):
            config.model.optim[name] = value


def adopt_trained(config: Any, given: set[str], trained: Trained) -> None:
    """Take from a checkpoint what of it is trained, and its adapters, except for what the user set.

    If that differs, the checkpoint is refused when it is loaded.
    """
    if trained.is_all:
        return
    if not is_given("model.train", given):
        config.model.train = list(trained.words)
    for name, value in dataclasses.asdict(trained.lora).items():
        if "lora" in config.model and not is_given(f"model.lora.{name}", given):
            config.model.lora[name] = value


def settings_of_run(folder: Path) -> dict[str, Any]:
    """What the configuration in a run's folder says; nothing where there is none that can be read."""
    try:
        return read_settings(str(folder / "config.yaml"))
    except (ConfigError, OSError):
        return {}


_OF_A_TEXT = (
    "corpus",
    "validation_corpus",
    "validation_fraction",
    "test_corpus",
    "special_tokens",
    "fields",
    "skip_longer",
)
_OF_LABELS = ("test_fraction", "split_seed", "balance", "text_column", "label_column")


def adopt_text(config: Any, given: set[str], run: dict[str, Any]) -> None:
    """Measure a trained model on the text of its own run, except for what the user set.

    Args:
        config: of `validate` or `test`; changed in place.
        given: the names that the user set.
        run: the settings of the run that the model comes from.
    """
    data = run.get("data")
    if isinstance(data, dict) and not any(is_given(f"data.{name}", given) for name in _OF_A_TEXT[:3]):
        for name in (*_OF_A_TEXT, *_OF_LABELS):
            if name in data and name in config.data and not is_given(f"data.{name}", given):
                config.data[name] = data[name]
