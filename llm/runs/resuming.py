"""Whether a run can resume from a checkpoint as the same run: checked before anything of it is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from llm.config import OptimConfig
from llm.errors import CheckpointError, LLMError
from llm.model.trained import Trained
from llm.pretrained.checkpoint import ENTRY, optim_of, task_of, trained_of, weights_of
from llm.runs.damage import check, refuse_damaged_state
from llm.runtime.randomness import run_seed
from llm.tokenizers.base import Tokenizer, fingerprint_of
from llm.training.trainer_state import accumulation_of

log = logging.getLogger("llm")

SETTINGS = "settings"
_WEIGHTLESS = ("dropout", "projection_init")
"""Settings of the architecture that the shapes and the meaning of trained weights do not depend on."""
_NEW_RUN = "start a new run from its weights with --model.pretrained FILE in place of --ckpt_path"
_OMIT = "omit these settings, as flags and in YAML files alike,"


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
    refuse_damaged_state(checkpoint, network, optim, trainer)


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
    check(isinstance(theirs, dict), "its architecture is missing")
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


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} ({theirs.get(name)} in the checkpoint, {value} now)"
        for name, value in ours.items()
        if theirs.get(name) != value
    )
