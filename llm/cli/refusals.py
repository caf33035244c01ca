"""What of Lightning's can't be had on the command line, with the reason. docs/lightning.md has all that can."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from typing import Any

from llm.errors import ConfigError

REFUSED_CALLBACKS = {
    "BackboneFinetuning": "it freezes the attribute `backbone` of a module, and the modules here have none; subclass "
    "BaseFinetuning in a package of your own (--allow_classes)",
    "BaseFinetuning": "it only is a base class: subclass it in a package of your own (--allow_classes)",
    "ThroughputMonitor": "its batch_size_fn is a function, which no configuration can name; every run logs "
    "train/tokens_per_second, and in Python it works",
}
"""By name."""

_NO_CONFIGURATION = (
    *("Accelerator", "BasePredictionWriter", "Callback", "Checkpoint", "LayerSync", "Logger", "ModelParallelStrategy"),
    *(
        "ParallelStrategy",
        "Precision",
        "ProgressBar",
        "SaveConfigCallback",
        "Strategy",
        "DummyLogger",
        "LambdaCallback",
    ),
)
"""Base classes, and what takes functions."""
_PACKAGES = {
    "Bitsandbytes": "bitsandbytes",
    "Comet": "comet_ml",
    "DeepSpeed": "deepspeed",
    "DeviceStats": "psutil",
    "Lit": "litlogger",
    "MLFlow": "mlflow",
    "Rich": "rich",
    "TransformerEngine": "transformer_engine",
    "Wandb": "wandb",
    "XLA": "torch_xla",
}
"""What classes need whose names hold these."""


_NAMED_ELSEWHERE = re.compile("(val|valid|eval|train)[_/]|validation_").match
"""Names of metrics as other code has them, such as `val_loss`; training's are logged, but not for callbacks."""
_LARGEST_SEED = 2**32 - 1


def can_be_named(path: str) -> bool:
    """Whether a class of Lightning's, by its dotted name, can be named in a configuration, on this machine."""
    name = path.rpartition(".")[2]
    needed = [package for part, package in _PACKAGES.items() if part in name]
    return (
        path.startswith("lightning.")
        and name not in (*_NO_CONFIGURATION, *REFUSED_CALLBACKS)
        and not name.endswith("CheckpointIO")
        and all(importlib.util.find_spec(package) is not None for package in needed)
    )


def refuse_of_lightning(trainer: Any) -> None:
    """Hold a run to what Lightning's Trainer can do here.

    Args:
        trainer: its settings.

    Raises:
        ConfigError: the reason.
    """
    for callback in class_names(trainer.get("callbacks")):
        if callback in REFUSED_CALLBACKS:
            raise ConfigError(f"trainer.callbacks: {callback} is refused: {REFUSED_CALLBACKS[callback]}")
    if trainer.get("barebones"):
        raise ConfigError(
            "trainer.barebones is refused: it trains without checkpoints, logs and validation, so that nothing is left "
            "of a run; --preflight measures the speed of a step"
        )
    if re.search("_(spawn|fork|notebook)", strategy := str(trainer.get("strategy"))):
        raise ConfigError(
            f"trainer.strategy {strategy} is refused: it copies this process and its weights to others, which is for "
            "notebooks; give ddp"
        )
    _refuse_average_without_epochs(trainer)
    for plugin in class_names(trainer.get("plugins")):
        if plugin.endswith("CheckpointIO"):
            raise ConfigError(
                f"trainer.plugins: {plugin} is refused: a checkpoint is whole and on the disk before the run goes on, "
                "so that it can be resumed exactly"
            )


def _refuse_average_without_epochs(trainer: Any) -> None:
    for name, callback in by_name(trainer.get("callbacks")):
        if name != "StochasticWeightAveraging" or (trainer.get("max_epochs") or -1) > 0:
            continue
        begin = (getattr(callback, "init_args", None) or {}).get("swa_epoch_start", 0.8)
        if not isinstance(begin, int):
            raise ConfigError(
                f"StochasticWeightAveraging begins after the fraction {begin} of the epochs, and how many they are is "
                "not said: give --trainer.max_epochs, or an epoch as --trainer.callbacks.swa_epoch_start"
            )


def refuse_monitors(trainer: Any) -> None:
    """Hold what callbacks monitor to the names that metrics have here, before a run has trained to the first of them.

    Args:
        trainer: its settings.

    Raises:
        ConfigError: a name is one that metrics often have elsewhere.
    """
    for name, callback in by_name(trainer.get("callbacks")):
        monitor = str((getattr(callback, "init_args", None) or {}).get("monitor"))
        if name and _NAMED_ELSEWHERE(monitor):
            raise ConfigError(
                f"trainer.callbacks: {name} monitors {monitor!r}; what a callback can monitor here is called "
                "validation/NAME, such as validation/loss"
            )


def refuse_loading_code(weights_only: Any) -> None:
    """Hold `weights_only` to what is safe.

    Raises:
        ConfigError: it is false.
    """
    if weights_only is False:
        raise ConfigError("--weights_only false is refused: a checkpoint is tensors and plain values, and runs no code")


def refuse_seed(seed: Any) -> None:
    """Hold `seed_everything` to what random number generators take.

    Raises:
        ConfigError: it is negative or too large.
    """
    if isinstance(seed, int) and not 0 <= seed <= _LARGEST_SEED:
        raise ConfigError(f"seed_everything must be 0 to {_LARGEST_SEED}, or false for none; got {seed}")


def refuse_other_networks(kind: Any, flags: Iterable[str], kinds: Iterable[str]) -> None:
    """Hold the flags of a task that has several networks to those of the one that the run has.

    Args:
        kind: of network that the run has.
        flags: the dotted names that the user set by flags.
        kinds: of network that the task has, each the group of its settings in `model`.

    Raises:
        ConfigError: a flag sets another one, which would change nothing.
    """
    for name in sorted(flags):
        group, _, other = name.partition(".")
        other = other.partition(".")[0]
        if group == "model" and other != kind and other in kinds:
            raise ConfigError(
                f"--{name} is a setting of the network {other!r}, and that of this run is {kind!r}: give --model.kind "
                f"{other}, or leave it out"
            )


def reason_about(message: str) -> str | None:
    """What to say instead of a parser's message about a class of Lightning's; None where it is about another."""
    if re.search(r"\bLitLogger\b", message) and importlib.util.find_spec("litlogger") is None:
        return "trainer.logger: LitLogger needs the package litlogger: pip install litlogger"
    if "invalid choice: 'tune'" in message:
        return (
            "there is no command tune: fit --trainer.callbacks+=LearningRateFinder finds a learning rate before the "
            "run, +=BatchSizeFinder a batch size; with --preflight, that is all"
        )
    if 'Parser key "trainer.logger"' in message and "but is abstract" in message:
        return "trainer.logger: this is a base class to subclass; give TensorBoardLogger, CSVLogger or another"
    for callback, reason in REFUSED_CALLBACKS.items():
        if re.search(rf"\b{callback}\b", message):
            return f"trainer.callbacks: {callback} is refused: {reason}"
    return None


def class_names(value: Any) -> list[str]:
    """The names of the classes of Lightning's that a setting lists, without their modules; empty ones for others.

    Args:
        value: of a setting that takes one object or several.
    """
    return [name for name, _ in by_name(value)]


def by_name(value: Any) -> list[tuple[str, Any]]:
    """What a setting lists, each with the name that `class_names` gives it.

    Args:
        value: of a setting that takes one object or several.
    """
    return [(_name(one), one) for one in (value if isinstance(value, list) else [] if value is None else [value])]


def _name(value: Any) -> str:
    path = str(value if isinstance(value, str) else getattr(value, "class_path", "") or "")
    return path.rpartition(".")[2] if path.startswith("lightning.") else ""
