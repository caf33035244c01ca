"""What the user set, and what of the Trainer's settings follows from it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from llm.cli.words import CONFIG, take
from llm.errors import ConfigError
from llm.runs.loggers import has_folder

log = logging.getLogger("llm")


def setting_names(parser: argparse.ArgumentParser) -> set[str]:
    """The dotted names of all settings of a command."""
    return {action.dest for action in parser._actions if not action.dest.endswith(".help")}


def given_settings(parser: LightningArgumentParser, words: Sequence[str]) -> set[str]:
    """The dotted names that the user set, by flags or in files, as opposed to defaults.

    Args:
        parser: of the command; it has taken the words already.
        words: behind the command.
    """
    known = setting_names(parser)
    names = {word.partition("=")[0] for word in words if word.startswith("--")}
    # An object in parts, such as --trainer.logger.init_args.name, can't be parsed without its default: names will do.
    parts = {name for name in names if name[2:].removesuffix("+") not in known}
    parts |= {name for name in names if any(part.startswith(f"{name.removesuffix('+')}.") for part in parts)}
    _, others = take(words, parts)
    given = parser.parse_args(others, defaults=False).as_dict()
    return set(flatten(given)) | {name[2:].removesuffix("+") for name in parts}


def given_by_flags(parser: LightningArgumentParser, words: Sequence[str]) -> set[str]:
    """As `given_settings`, but without what files set."""
    _, flags = take(words, CONFIG)
    return given_settings(parser, flags)


def is_given(name: str, given: set[str]) -> bool:
    """Whether a setting, a part of it, or a group that it belongs to was set."""
    return any(f"{other}.".startswith(f"{name}.") or f"{name}.".startswith(f"{other}.") for other in given)


def plain_values(settings: Any) -> Any:
    """Settings in which the members of enumerations are their values, which YAML can hold; changed in place."""
    if isinstance(settings, Enum):
        return settings.value
    if isinstance(settings, list):
        return [plain_values(value) for value in settings]
    if isinstance(settings, Namespace):
        for name, value in vars(settings).items():
            setattr(settings, name, plain_values(value))
    return settings


def adopt_root(trainer: Any, given: set[str], by_flags: set[str]) -> None:
    """Keep runs below `default_root_dir`, where the user set that and did not set where the logger keeps them.

    Args:
        trainer: the settings of the Trainer; changed in place.
        given: the names that the user set.
        by_flags: those set by flags, which win over what is set in files.
    """
    for names in (by_flags, given):
        if "trainer.default_root_dir" not in names or trainer.default_root_dir is None:
            continue
        settings = getattr(trainer.logger, "init_args", None)
        if settings is not None and not {f"trainer.logger.{key}" for key in ("save_dir", "init_args.save_dir")} & names:
            settings["save_dir"] = str(trainer.default_root_dir)
        return


def adopt_length(trainer: Any, given: set[str]) -> None:
    """Let a number of epochs that the user gave decide how long a run is, not a number of steps that nobody gave.

    Args:
        trainer: the settings of the Trainer; changed in place.
        given: the names that the user set.
    """
    epochs, steps = trainer.max_epochs, trainer.max_steps
    if epochs is None or not is_given("trainer.max_epochs", given) or is_given("trainer.max_steps", given):
        return
    trainer.max_steps = -1
    log.info("length:      trainer.max_epochs %s, in place of the default of %s steps", epochs, steps)


def adopt_interval(trainer: Any, given: set[str]) -> None:
    """Let what the user gave of validation's interval beat what they did not give, as Lightning documents it.

    A fraction is one of an epoch, so epochs are counted; where these are counted, the default is once an epoch.

    Args:
        trainer: the settings of the Trainer; changed in place.
        given: the names that the user set.
    """
    interval, epochs = (is_given(f"trainer.{n}", given) for n in ("val_check_interval", "check_val_every_n_epoch"))
    if interval and not epochs and isinstance(trainer.val_check_interval, float):
        trainer.check_val_every_n_epoch = 1
    if epochs and not interval and trainer.check_val_every_n_epoch is not None:
        trainer.val_check_interval = 1.0


def sets_interval(trainer: Any, given: set[str]) -> bool:
    """Whether the interval between validations is what the user set, or that of a run to try the code.

    Args:
        trainer: the settings of the Trainer.
        given: the names that the user set.
    """
    names = ("val_check_interval", "check_val_every_n_epoch")
    return any(is_given(f"trainer.{name}", given) for name in names) or bool(trainer.fast_dev_run)


def name_run(trainer: Any, name: str) -> None:
    """Keep a run in the folder of a name, below that of all runs.

    Args:
        trainer: the settings of the Trainer; changed in place.
        name: the path of the run's folder, such as `lr/0.003`.

    Raises:
        ConfigError: the name is no path below the folder of all runs, or the run's logger keeps no folder.
    """
    path = PurePath(name)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"--name must be a name such as lr/0.003, below the folder of all runs; got {name!r}")
    if not has_folder(trainer.logger) or isinstance(trainer.logger, list | bool):
        raise ConfigError("--name needs a logger with a folder: give --trainer.logger TensorBoardLogger, or CSVLogger")
    # Not the version: one that is a number would be a folder `version_3`.
    trainer.logger.init_args["name"], trainer.logger.init_args["version"] = path.as_posix(), ""


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as primitives."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
