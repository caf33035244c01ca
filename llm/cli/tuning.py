"""Lightning's `LearningRateFinder` and `BatchSizeFinder` on the command line: they search before the run.

What they find takes the place of the settings, so that preflight, `config.yaml` and checkpoints say what the run is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

from llm.cli.refusals import by_name, class_names
from llm.errors import ConfigError
from llm.preflight import Plan
from llm.preflight.checks import COMMON_RATES
from llm.preflight.making import costs_of_step
from llm.preflight.memory import expected_memory
from llm.runs.finding import find_batch_size, find_learning_rate

log = logging.getLogger("llm")

RATE, BATCH_SIZE = "model.optim.learning_rate", "data.batch_size"
_FINDERS: dict[str, tuple[type[LearningRateFinder] | type[BatchSizeFinder], str]] = {
    "BatchSizeFinder": (BatchSizeFinder, BATCH_SIZE),
    "LearningRateFinder": (LearningRateFinder, RATE),
}
"""By name, in the order of their searches: the class, and the setting that it finds."""

ON_ONE_DEVICE = (
    "LearningRateFinder and BatchSizeFinder search on one device: --trainer.devices 1 --preflight says what they find"
)

Made = tuple[L.LightningModule, L.LightningDataModule]


def take_finders(config: Any) -> dict[str, Any]:
    """Take the finders out of the callbacks of a run; gives each with its arguments.

    Args:
        config: of `fit`; changed in place.

    Raises:
        ConfigError: a finder that can't be used here, with the reason.
    """
    named = by_name(config.trainer.get("callbacks"))
    found = {name: callback for name, callback in named if name in _FINDERS}
    if not found:
        return {}
    config.trainer.callbacks = [callback for name, callback in named if name not in _FINDERS] or None
    for name in found:
        if _FINDERS[name][1] not in config:
            raise ConfigError(f"{name} finds {_FINDERS[name][1]}, which this task does not have")
    if "LearningRateFinder" in found:
        attribute = _arguments(found["LearningRateFinder"]).get("attr_name")
        if attribute and attribute != "learning_rate":
            raise ConfigError(f"LearningRateFinder finds {RATE}: leave attr_name out, got {attribute!r}")
        if config.model.optim.get("kind") == "muon":
            raise ConfigError(
                "LearningRateFinder tries one rate for all parameters, and Muon has two (model.optim.learning_rate and "
                "model.optim.muon_learning_rate): set them yourself"
            )
    return {name: found[name] for name in _FINDERS if name in found}


def refuse_batch_size_finder(config: Any, subcommand: str) -> None:
    """Hold the search for a batch size to `fit`.

    Raises:
        ConfigError: another command was given one.
    """
    if "BatchSizeFinder" in class_names(config.trainer.get("callbacks")):
        raise ConfigError(f"BatchSizeFinder is for fit; {subcommand} takes --{BATCH_SIZE}")


def settings_found_before(finders: Mapping[str, Any]) -> set[str]:
    """The settings that the checkpoint of a run with these finders knows better than its command line."""
    return {_FINDERS[name][1] for name in finders}


def adopt_batch_size(config: Any, finders: Mapping[str, Any], data: Any) -> None:
    """Resume with the batch size that was found before.

    Args:
        config: of `fit`; changed in place.
        finders: as `take_finders` gave them.
        data: what the checkpoint says of its data module.
    """
    if "BatchSizeFinder" in finders and isinstance(data, dict) and isinstance(data.get("batch_size"), int):
        config[BATCH_SIZE] = data["batch_size"]


def tune(finders: Mapping[str, Any], config: Any, make: Callable[[Any], Made], plan: Plan | None) -> None:
    """Search, say what was found, and set it.

    Args:
        finders: as `take_finders` gave them.
        config: of `fit`; changed in place.
        make: a module and a data module of some settings.
        plan: of the run; None where none can be made.

    Raises:
        ConfigError: the run has several devices, or nothing was found.
    """
    if plan is not None and plan.world_size > 1:
        raise ConfigError(ON_ONE_DEVICE)
    trainer = config.trainer.as_dict()
    for name, callback in finders.items():
        kind, setting = _FINDERS[name]
        finder = kind(**_arguments(callback))
        tried = config.clone()
        tried.trainer.callbacks, tried.trainer.logger = None, False
        for option, value in (("model.compile", False), ("model.non_finite", "skip")):
            if option in tried:
                tried[option] = value
        module, datamodule = make(tried)
        found: float | int
        if isinstance(finder, BatchSizeFinder):
            found = find_batch_size(finder, module, datamodule, trainer, lambda size: _fits(plan, size))
            is_set = True
        else:
            is_set = finder._update_attr
            found = float(f"{find_learning_rate(finder, module, datamodule, trainer):.3g}")
            if is_set and found < COMMON_RATES[0]:
                raise ConfigError(
                    f"LearningRateFinder found {found:g}, where what falls is noise (common are {COMMON_RATES[0]:g} to "
                    f"{COMMON_RATES[1]:g}): set a higher trainer.callbacks.min_lr"
                )
        before = config[setting]
        if is_set:
            config[setting] = found
        log.info(
            "%s: %s %s, %s", name, setting, found, f"was {before}" if is_set else f"is {before}: update_attr false"
        )


def _fits(plan: Plan | None, batch_size: int) -> bool:
    """Whether a batch fits into the memory of a processor, as far as that is known; other devices say so themselves."""
    if plan is None or plan.network is None or plan.device != "cpu" or plan.free_memory is None:
        return True
    assert plan.parameters is not None
    assert plan.memory is not None
    assert plan.datamodule is not None
    supervised = plan.datamodule.supervised_fraction
    costs = costs_of_step(plan, plan.network, batch_size, supervised, plan.device)
    expected = expected_memory(plan.parameters, costs, plan.precision, plan.device, 1, plan.memory.held)
    return expected.to_come <= plan.free_memory


def _arguments(callback: Any) -> dict[str, Any]:
    arguments = callback.get("init_args") or {}
    return dict(arguments if isinstance(arguments, Mapping) else arguments.as_dict())
