"""What the user set, and what follows from it, from the data, or from trained weights."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from llm.cli.words import CONFIG, read_settings, take
from llm.config import OptimConfig
from llm.errors import ConfigError
from llm.model.trained import Trained
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


def adopt_source_tokenizer(
    config: Any, given: set[str], state: dict[str, Any], of_targets: dict[str, Any] | None
) -> None:
    """As `adopt_tokenizer`, for that of the sources; it may be the same as that of the targets."""
    if not is_given("data.share_tokenizer", given):
        config.data.share_tokenizer = state == of_targets
    if not config.data.share_tokenizer:
        adopt_tokenizer(config, given, state, "source_tokenizer")


def adopt_tokenizer(config: Any, given: set[str], state: dict[str, Any] | None, name: str = "tokenizer") -> None:
    """Take the tokenizer from trained weights.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
        state: their tokenizer as a dict, or None.
        name: of its setting.

    Raises:
        ConfigError: the user set another tokenizer.
    """
    if name not in config.data:
        return
    if state is None:
        taken = config.data[name].checkpoint or config.data[name].kind or "gpt2"
        log.warning(
            "the weights state no tokenizer: %s is taken, and if they were trained with another, the loss means "
            "nothing; give theirs with --data.%s.checkpoint (a checkpoint, tokenizer.json, vocab.txt, meta.pkl)",
            taken,
            name,
        )
        return
    tokenizer, theirs, group = config.data[name], state.get("encoding", state["kind"]), f"data.{name}"
    _refuse_other(f"{group}.kind", theirs, tokenizer.kind, given)
    if "pattern" in state:  # else the tokenizer is of a kind that has none
        _refuse_other(f"{group}.pattern", state["pattern"], tokenizer.pattern, given)
    specials, ours = (None if names is None else list(names) for names in (state.get("specials"), tokenizer.specials))
    _refuse_other(f"{group}.specials", specials, ours, given)
    if is_given(f"{group}.checkpoint", given):  # loading the weights will say if it is another
        return
    if state["kind"] == "bpe" and "roles" not in state:  # the name says it all
        tokenizer.kind = theirs
    else:
        tokenizer.checkpoint = config.ckpt_path or config.model.pretrained


def adopt_template(config: Any, given: set[str], template: dict[str, Any] | None) -> None:
    """Take the chat template from trained weights, unless the user set one.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
        template: theirs as a dict, or None.
    """
    if template is not None and "template" in config.data and not is_given("data.template", given):
        config.data.template = template.get("source")
        config.data.special_tokens = template.get("special_tokens")


def _refuse_other(name: str, theirs: Any, given_value: Any, given: set[str]) -> None:
    """Hold what the user said of the tokenizer to the checkpoint's."""
    if is_given(name, given) and given_value is not None and given_value != theirs:
        raise ConfigError(
            f"{name} is {theirs!r} in the checkpoint, {given_value!r} is given: omit it, as a flag and in YAML "
            "files alike, so that the checkpoint's tokenizer is used"
        )


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
    parent = "" if path.parent == PurePath() else path.parent.as_posix()
    trainer.logger.init_args["name"], trainer.logger.init_args["version"] = parent, path.name


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


_FIRST_HYPERPARAMETER = "model.optim.learning_rate"
"""What is changed most often; TensorBoard shows the first five and hides the others."""
_NO_HYPERPARAMETERS = (
    "data.allow_changed_data",
    "data.cache_dir",
    "data.num_workers",
    "data.prompts",
    "data.test_corpus",
    "model.compile",
    "model.sampling.",
)


def hyperparameters(settings: dict[str, Any]) -> dict[str, Any]:
    """What a run's result depends on, by dotted name: of model and data what is set, no paths, texts or speed."""
    found = flatten({key: value for key, value in settings.items() if key in ("model", "data")})
    kept = [name for name, value in found.items() if value != "None" and not name.startswith(_NO_HYPERPARAMETERS)]
    return {name: found[name] for name in sorted(kept, key=lambda name: name != _FIRST_HYPERPARAMETER)}


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as primitives."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
