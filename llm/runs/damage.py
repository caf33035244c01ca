"""Whether a checkpoint holds the whole state of a run: progress, optimizer, schedule and callbacks."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from llm.config import OptimConfig
from llm.errors import CheckpointError
from llm.pretrained.checkpoint import ENTRY
from llm.training.optimizer import build_optimizer, build_schedule

log = logging.getLogger("llm")

_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_MUON = {"step", "momentum_buffer"}
_GROUP_SETTINGS = {"betas", "eps", "weight_decay", "momentum", "matrices"}


def refuse_damaged_state(
    checkpoint: dict[str, Any], network: nn.Module, optim: OptimConfig, trainer: L.Trainer
) -> None:
    """Check that a run can go on from what a checkpoint holds besides weights.

    Args:
        checkpoint: as it was read.
        network: the run's.
        optim: the run's settings of the optimizer, which are those of the checkpoint.
        trainer: the run's.

    Raises:
        CheckpointError: names the first thing that is missing or damaged.
    """
    _refuse_damaged_progress(checkpoint, trainer)
    _refuse_damaged_optimizer(checkpoint, network, optim, trainer)
    _refuse_damaged_callbacks(checkpoint, trainer)


def check(condition: bool, problem: str) -> None:
    """Refuse a damaged checkpoint.

    Args:
        condition: what holds of one that is whole.
        problem: what is wrong with this one where it does not.

    Raises:
        CheckpointError: it does not hold.
    """
    if not condition:
        raise CheckpointError(f"the checkpoint is damaged, and no run can resume from it: {problem}")


def _refuse_damaged_progress(checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
    step, loops = checkpoint.get("global_step"), checkpoint.get("loops")
    check(isinstance(step, int), f"its global_step is {step!r}")
    # `state_dict` is of the loaders, which Lightning makes later; their position is the loop's.
    expected = {"fit_loop": {**trainer.fit_loop.state_dict(), "state_dict": {}}}
    _check_structure(loops, expected, "loops")
    progress = loops["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]  # type: ignore[index]
    done = progress["optimizer"]["step"]["total"]["completed"]
    check(done == step, f"its loops count {done} optimizer steps, its global_step is {step}")
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None and datamodule.state_dict() and not getattr(datamodule, "allow_changed_data", False):
        name = type(datamodule).__qualname__
        _check_structure(checkpoint.get(name), datamodule.state_dict(), name, types=False)


def _refuse_damaged_optimizer(
    checkpoint: dict[str, Any], network: nn.Module, optim: OptimConfig, trainer: L.Trainer
) -> None:
    optimizer = build_optimizer(network, optim)
    schedules = checkpoint.get("lr_schedulers")
    check(isinstance(schedules, list) and len(schedules) == 1, "lr_schedulers is not a list of one schedule")
    if isinstance(schedules[0], dict) and "anneal_epochs" in schedules[0]:  # type: ignore[index]
        raise CheckpointError(
            "StochasticWeightAveraging has begun to average in this checkpoint, and no run can resume exactly from "
            "there: begin a new run from its weights with --model.pretrained FILE, or use EMAWeightAveraging"
        )
    schedule = build_schedule(optimizer, optim, None).state_dict()
    _check_structure(schedules[0], schedule, "lr_schedulers[0]")  # type: ignore[index]
    for name in ("base_lrs", "_last_lr"):
        rates = schedules[0][name]  # type: ignore[index]
        is_whole = len(rates) == len(optimizer.param_groups) and all(map(_is_number, rates))
        check(is_whole, f"lr_schedulers[0].{name} is not a number for each group of the optimizer")
    steps = schedules[0]["last_epoch"]  # type: ignore[index]
    check(steps == checkpoint["global_step"], f"its schedule is at step {steps}, not at {checkpoint['global_step']}")
    states = checkpoint.get("optimizer_states")
    check(isinstance(states, list) and len(states) == 1, "optimizer_states is not a list of one optimizer")
    if trainer.strategy.restore_checkpoint_after_setup:  # sharded: the strategy has a form of its own
        return
    _check_structure(states[0], {"state": {}, "param_groups": []}, "optimizer_states[0]")  # type: ignore[index]
    expected, found = optimizer.state_dict()["param_groups"], states[0]["param_groups"]  # type: ignore[index]
    where = "optimizer_states[0].param_groups"
    check(len(found) == len(expected), f"{where} holds {len(found)} groups, expected {len(expected)}")
    for number, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
        _check_structure(theirs, {name: ours[name] for name in ("params", "lr")}, f"{where}[{number}]", types=False)
        check(theirs["params"] == ours["params"], f"{where}[{number}] is of other parameters")
        check(_is_number(theirs["lr"]), f"{where}[{number}] has a learning rate that is not a number")
        for name in _GROUP_SETTINGS & ours.keys():  # its settings are the run's, which are the same by now
            check(_is_same(theirs.get(name), ours[name]), f"{where}[{number}] has another {name} than its settings")
    moments = states[0]["state"]  # type: ignore[index]
    skipped = checkpoint[ENTRY].get("skipped_steps") != [0, 0] or checkpoint[ENTRY].get("unsupervised_batches")
    if checkpoint["global_step"] == 0 or (not moments and (skipped or "16-mixed" in str(trainer.precision))):
        return  # an optimizer whose every step was skipped has no moments yet
    for ours, group in zip(expected, optimizer.param_groups, strict=True):
        needed = _MUON if "matrices" in group else _ADAM
        for index, parameter in zip(ours["params"], group["params"], strict=True):
            _check_moments(moments.get(index), parameter, needed, index)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_same(theirs: Any, ours: Any) -> bool:
    return type(theirs) is type(ours) and bool(theirs == ours)


def _check_moments(state: Any, parameter: Tensor, needed: set[str], index: int) -> None:
    where = f"optimizer_states[0].state[{index}]"
    check(isinstance(state, dict), f"{where} is missing")
    for name in sorted(needed):
        value = state.get(name)
        check(isinstance(value, Tensor), f"{where}.{name} is missing")
        shape = torch.Size() if name == "step" else parameter.shape
        check(value.shape == shape, f"{where}.{name} is {tuple(value.shape)} where {tuple(shape)} is expected")


def _refuse_damaged_callbacks(checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
    states = checkpoint.get("callbacks")
    check(isinstance(states, dict), "callbacks is missing" if states is None else "callbacks is not a dict")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not (expected := callback.state_dict()):
            continue
        name = type(callback).__name__
        if type(callback).__module__.startswith("llm."):
            _check_structure(states.get(callback.state_key), expected, f"callbacks.{name}", types=False)  # type: ignore[union-attr]
        elif callback.state_key not in states:  # type: ignore[operator]
            log.warning("the checkpoint knows nothing of the callback %s, which therefore starts from scratch", name)


def _check_structure(found: Any, expected: Any, where: str, types: bool = True) -> None:
    """Check that nested dicts have the names that are expected, and counts, lists and dicts where those are expected.

    Raises:
        CheckpointError: names the first place that differs.
    """
    check(found is not None, f"{where} is missing")
    if isinstance(expected, dict):
        check(isinstance(found, dict), f"{where} is {type(found).__name__}, expected a dict")
        for name, value in expected.items():
            check(name in found, f"{where} has no {name!r}")
            if types and value is not None:
                _check_structure(found[name], value, f"{where}.{name}")
    elif isinstance(expected, int):
        check(isinstance(found, int) and found >= 0, f"{where} is {found!r}, expected a count")
    elif isinstance(expected, list):
        check(isinstance(found, list), f"{where} is {type(found).__name__}, expected a list")
