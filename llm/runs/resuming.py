"""Whether a run can resume from a checkpoint as the same run: checked before anything of it is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from llm.config import OptimConfig
from llm.errors import CheckpointError, LLMError
from llm.model.trained import Trained
from llm.pretrained.checkpoint import ENTRY, optim_of, task_of, trained_of, weights_of
from llm.runtime.randomness import run_seed
from llm.tokenizers.base import Tokenizer, fingerprint_of
from llm.training.optimizer import build_optimizer, build_schedule
from llm.training.trainer_state import accumulation_of

log = logging.getLogger("llm")

SETTINGS = "settings"
_WEIGHTLESS = ("dropout", "projection_init")
"""Settings of the architecture that the shapes and the meaning of trained weights do not depend on."""
_NEW_RUN = "start a new run from its weights with --model.pretrained FILE in place of --ckpt_path"
_OMIT = "omit these settings, as flags and in YAML files alike,"
_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_MUON = {"step", "momentum_buffer"}
_GROUP_SETTINGS = {"betas", "eps", "weight_decay", "momentum", "matrices"}


def settings_of(trainer: L.Trainer, optim: OptimConfig) -> dict[str, Any]:
    """The settings, besides architecture and data, that a run's weights depend on; as primitives."""
    return {
        "optim": dataclasses.asdict(optim),
        "seed": run_seed(),
        "precision": str(trainer.precision),
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "accumulate_grad_batches": accumulation_of(trainer),
        "limit_train_batches": trainer.limit_train_batches,
        "overfit_batches": getattr(trainer, "overfit_batches", 0.0),
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": None if (kind := trainer.gradient_clip_algorithm) is None else str(kind),
    }


def refuse_what_does_not_fit(
    checkpoint: dict[str, Any],
    task: str,
    network: nn.Module,
    trained: Trained,
    tokenizer: Any,
    optim: OptimConfig,
    trainer: L.Trainer | None,
) -> None:
    """Check that a checkpoint fits a network, and a run if one is to resume from it, before any of it is loaded.

    Args:
        checkpoint: as it was read.
        task: the word of the run's.
        network: with a `config`.
        trained: what of it is trained, and its adapters.
        tokenizer: the run's; None if it has none.
        optim: the run's settings of the optimizer.
        trainer: the run's.

    Raises:
        CheckpointError: names what differs, with both values, or what is missing or damaged.
    """
    if ENTRY not in checkpoint:
        raise CheckpointError(f"this is not a checkpoint of this package: it has no entry {ENTRY!r}")
    if (theirs := task_of(checkpoint)) != task:
        raise CheckpointError(
            f"the checkpoint is of the task {theirs!r}, this run is of {task!r}: give --task {theirs}"
        )
    _refuse_other_adapters(checkpoint, trained)
    _refuse_other_architecture(checkpoint, network)
    refuse_other_tokenizer(checkpoint, tokenizer)
    if trainer is None or trainer.state.fn != "fit":
        return
    refuse_weights_alone(checkpoint)
    if (words := trained_of(checkpoint).words) != trained.words:
        raise CheckpointError(
            f"in the checkpoint, {', '.join(words)} is trained, in this run {', '.join(trained.words)}: omit "
            f"model.train to resume as before, or {_NEW_RUN}"
        )
    _refuse_to_lose_an_average(checkpoint, trainer)
    _refuse_other_settings(checkpoint, optim, trainer)
    _refuse_damaged_progress(checkpoint, trainer)
    _refuse_damaged_optimizer(checkpoint, network, optim, trainer)
    _refuse_damaged_callbacks(checkpoint, trainer)


def refuse_weights_alone(checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint holds what a run resumes from.

    Raises:
        CheckpointError: it holds weights alone.
    """
    if "optimizer_states" not in checkpoint and "loops" not in checkpoint:
        raise CheckpointError(
            "the checkpoint holds weights alone, as every best.ckpt does, so there is no run to resume: go on with the "
            "newest by --ckpt_path last, or start one from these weights by --model.pretrained FILE in place of "
            "--ckpt_path"
        )


def _refuse_other_adapters(checkpoint: dict[str, Any], trained: Trained) -> None:
    theirs, ours = trained_of(checkpoint).lora, trained.lora
    if ours.rank and not theirs.rank:
        raise CheckpointError(
            f"the checkpoint has no adapters (model.lora), and no run with adapters can be it: {_NEW_RUN}"
        )
    wanted = {name: getattr(ours, name) for name in ("rank", "alpha", "modules", "base_precision")}
    if theirs.rank and (different := _differences(dataclasses.asdict(theirs), wanted)):
        raise CheckpointError(
            f"the checkpoint has other adapters: {different}; omit model.lora to use them as they are, or {_NEW_RUN}"
        )


def other_architecture(theirs: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """What to say if a checkpoint's weights are not those of an architecture; None if they are."""
    wanted = {name: value for name, value in ours.items() if name not in _WEIGHTLESS}
    different = _differences(theirs, wanted)
    if not different:
        return None
    way = f"{_OMIT} to use it as it is, or start a new run without --ckpt_path"
    return f"the checkpoint is of another architecture: {different}; {way}"


def _refuse_other_architecture(checkpoint: dict[str, Any], network: Any) -> None:
    theirs = checkpoint[ENTRY].get("network")
    _check(isinstance(theirs, dict), "its architecture is missing")
    with contextlib.suppress(TypeError, LLMError):  # what it does not state has its default
        theirs = type(network.config)(**theirs).to_dict()
    if problem := other_architecture(theirs, network.config.to_dict()):
        raise CheckpointError(problem)
    if "state_dict" not in checkpoint:  # a strategy that shards the weights has removed them
        return
    found, expected = weights_of(checkpoint), network.state_dict()
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is none of this model's" for name in found if name not in expected]
    wrong += [
        f"{name} is {tuple(found[name].shape)} where {tuple(expected[name].shape)} is expected"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(f"the checkpoint's weights do not fit its architecture: {', '.join(wrong)}")


def refuse_other_tokenizer(
    checkpoint: dict[str, Any], ours: Any, name: str = "tokenizer", vocab_size: str = "vocab_size"
) -> None:
    """Hold a run to a tokenizer of its checkpoint.

    Args:
        checkpoint: as it was read.
        ours: the run's; None if it has none.
        name: of the checkpoint's, in its entry; it is also the setting's.
        vocab_size: the setting of the architecture that is its size.

    Raises:
        CheckpointError: it is another, or the checkpoint's is damaged.
    """
    theirs = checkpoint[ENTRY].get(name)
    if theirs is None or not isinstance(ours, Tokenizer):
        return
    try:
        fingerprint = fingerprint_of(theirs)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint is damaged: its tokenizer can't be read: {error}") from error
    if fingerprint != ours.fingerprint:
        size, mine = checkpoint[ENTRY]["network"].get(vocab_size, 0), ours.to_dict()
        kind, shown = theirs.get("encoding", theirs.get("kind")), name.replace("_", " ")
        raise CheckpointError(
            f"the checkpoint has another {shown}: {kind!r} of {size:,} tokens with the fingerprint {fingerprint} in "
            f"the checkpoint, {mine.get('encoding', mine['kind'])!r} of "
            f"{ours.vocab_size:,} tokens with the fingerprint {ours.fingerprint} now; leave data.{name} out, "
            "so that the checkpoint's is used"
        )


def _refuse_to_lose_an_average(checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
    """With averaged weights (EMA), these are a checkpoint's weights, and those that are trained stand beside them."""
    averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if "current_model_state" in checkpoint and not averages:
        raise CheckpointError(
            "the checkpoint's weights are an average over steps, and this run has no callback that keeps one: give the "
            "same (--trainer.callbacks=EMAWeightAveraging), or begin a new run from the average with "
            "--model.pretrained FILE in place of --ckpt_path"
        )


def _refuse_other_settings(checkpoint: dict[str, Any], optim: OptimConfig, trainer: L.Trainer) -> None:
    """Optimizer settings have to be the same; what else makes it another run is said.

    A checkpoint holds the optimizer's learning rates and moments, a configuration the schedule: a mixture of two
    settings would be neither's run.
    """
    theirs = optim_of(checkpoint, "the checkpoint")
    if theirs is None:  # written before checkpoints held settings
        return
    if different := _differences(dataclasses.asdict(theirs), dataclasses.asdict(optim)):
        raise CheckpointError(
            f"the checkpoint was trained with other settings of model.optim: {different}; {_OMIT} to resume "
            f"as before, or {_NEW_RUN}"
        )
    now = settings_of(trainer, optim)
    if different := _differences(checkpoint[ENTRY][SETTINGS], {name: now[name] for name in now if name != "optim"}):
        log.warning("from here on, this will not be the run that it would have been: %s", different)


def _refuse_damaged_progress(checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
    step, loops = checkpoint.get("global_step"), checkpoint.get("loops")
    _check(isinstance(step, int), f"its global_step is {step!r}")
    # `state_dict` is of the loaders, which Lightning makes later; their position is the loop's.
    expected = {"fit_loop": {**trainer.fit_loop.state_dict(), "state_dict": {}}}
    _check_structure(loops, expected, "loops")
    progress = loops["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]  # type: ignore[index]
    done = progress["optimizer"]["step"]["total"]["completed"]
    _check(done == step, f"its loops count {done} optimizer steps, its global_step is {step}")
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None and datamodule.state_dict() and not getattr(datamodule, "allow_changed_data", False):
        name = type(datamodule).__qualname__
        _check_structure(checkpoint.get(name), datamodule.state_dict(), name, types=False)


def _refuse_damaged_optimizer(
    checkpoint: dict[str, Any], network: nn.Module, optim: OptimConfig, trainer: L.Trainer
) -> None:
    optimizer = build_optimizer(network, optim)
    schedules = checkpoint.get("lr_schedulers")
    _check(isinstance(schedules, list) and len(schedules) == 1, "lr_schedulers is not a list of one schedule")
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
        _check(is_whole, f"lr_schedulers[0].{name} is not a number for each group of the optimizer")
    steps = schedules[0]["last_epoch"]  # type: ignore[index]
    _check(steps == checkpoint["global_step"], f"its schedule is at step {steps}, not at {checkpoint['global_step']}")
    states = checkpoint.get("optimizer_states")
    _check(isinstance(states, list) and len(states) == 1, "optimizer_states is not a list of one optimizer")
    if trainer.strategy.restore_checkpoint_after_setup:  # sharded: the strategy has a form of its own
        return
    _check_structure(states[0], {"state": {}, "param_groups": []}, "optimizer_states[0]")  # type: ignore[index]
    expected, found = optimizer.state_dict()["param_groups"], states[0]["param_groups"]  # type: ignore[index]
    where = "optimizer_states[0].param_groups"
    _check(len(found) == len(expected), f"{where} holds {len(found)} groups, expected {len(expected)}")
    for number, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
        _check_structure(theirs, {name: ours[name] for name in ("params", "lr")}, f"{where}[{number}]", types=False)
        _check(theirs["params"] == ours["params"], f"{where}[{number}] is of other parameters")
        _check(_is_number(theirs["lr"]), f"{where}[{number}] has a learning rate that is not a number")
        for name in _GROUP_SETTINGS & ours.keys():  # its settings are the run's, which are the same by now
            _check(_is_same(theirs.get(name), ours[name]), f"{where}[{number}] has another {name} than its settings")
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
    _check(isinstance(state, dict), f"{where} is missing")
    for name in sorted(needed):
        value = state.get(name)
        _check(isinstance(value, Tensor), f"{where}.{name} is missing")
        shape = torch.Size() if name == "step" else parameter.shape
        _check(value.shape == shape, f"{where}.{name} is {tuple(value.shape)} where {tuple(shape)} is expected")


def _refuse_damaged_callbacks(checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
    states = checkpoint.get("callbacks")
    _check(isinstance(states, dict), "callbacks is missing" if states is None else "callbacks is not a dict")
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
    _check(found is not None, f"{where} is missing")
    if isinstance(expected, dict):
        _check(isinstance(found, dict), f"{where} is {type(found).__name__}, expected a dict")
        for name, value in expected.items():
            _check(name in found, f"{where} has no {name!r}")
            if types and value is not None:
                _check_structure(found[name], value, f"{where}.{name}")
    elif isinstance(expected, int):
        _check(isinstance(found, int) and found >= 0, f"{where} is {found!r}, expected a count")
    elif isinstance(expected, list):
        _check(isinstance(found, list), f"{where} is {type(found).__name__}, expected a list")


def _check(condition: bool, problem: str) -> None:
    if not condition:
        raise CheckpointError(f"the checkpoint is damaged, and no run can resume from it: {problem}")


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} ({theirs.get(name)} in the checkpoint, {value} now)"
        for name, value in ours.items()
        if theirs.get(name) != value
    )
