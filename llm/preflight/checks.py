"""What could go wrong in a run, checked before it begins: each check is a function from a plan to sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from llm.config import WordVectorsConfig
from llm.config.tasks import LANGUAGE
from llm.data import TextDataModule
from llm.preflight.labels import doubtful_labels
from llm.preflight.plan import Plan
from llm.preflight.resources import (
    folder_that_can_not_be_written,
    memory_may_not_suffice,
    precision,
    too_little_disk,
    too_little_memory,
)
from llm.preflight.special_tokens import special_tokens_in_the_text
from llm.preflight.validation import validation, validation_takes_long, validation_that_never_comes
from llm.pretrained.adapting import differences
from llm.runs.resuming import other_architecture
from llm.runtime.words import counted
from llm.tasks import TASKS
from llm.training.schedule import batches_of_epoch

Check = Callable[[Plan], Iterator[str]]

COMMON_RATES = (1e-6, 3e-2)
_BY_HEART = 20.0
"""Epochs from which on a model memorizes the text."""
_OFTEN = 4.0
"""Epochs over the same text that are about as good as new text (Muennighoff et al. 2023)."""
_TOKENS_PER_PARAMETER = 20.0
"""The compute-optimal number of tokens per parameter (Hoffmann et al. 2022, table 3)."""


# What no run can have: these refuse.


def settings_that_can_not_be(plan: Plan) -> Iterator[str]:
    """What the parts of the run said when they were made: settings, corpus, tokenizer, devices."""
    yield from plan.problems


def nothing_to_do(plan: Plan) -> Iterator[str]:
    """Limits and intervals of zero."""
    for name in ("val_check_interval", "accumulate_grad_batches"):
        if plan.setting(f"trainer.{name}") == 0:
            yield f"trainer.{name} must be at least 1, got 0"
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if plan.setting(f"trainer.{name}") == 0:
            yield f"trainer.{name} is 0, so there is nothing to train; leave it out, or set it to 1 or more"
    if plan.corpus is None or plan.overfits:
        return
    validation = batches_of_epoch(plan.corpus.validation_batches, plan.limit("val")) if plan.validates else 1
    for split, batches in (("train", plan.corpus.batches), ("val", validation)):
        limit = plan.limit(split)
        if isinstance(limit, float) and limit > 0 and batches == 0:
            yield f"trainer.limit_{split}_batches {limit:g} is less than one batch; give a number of them, such as 1"


def other_weights(plan: Plan) -> Iterator[str]:
    """Trained weights, and an architecture or a tokenizer that they do not go with."""
    if plan.start.trained is None or plan.network is None:
        return
    if plan.setting("ckpt_path") is None:
        trained, wanted = plan.start.trained, plan.network
        module = TASKS[plan.settings.get("task", LANGUAGE)].module_class()
        if getattr(module, "grows_vocabulary", False) and trained.vocab_size < wanted.vocab_size:
            trained = dataclasses.replace(trained, vocab_size=wanted.vocab_size)
        if different := differences(trained, wanted):
            reason = ""
            if trained.vocab_size != wanted.vocab_size and plan.start.no_tokenizer is not None:
                reason = f"; {plan.start.no_tokenizer}; give theirs with --data.tokenizer.checkpoint"
            yield f"the pretrained weights are of another architecture: {', '.join(different)}{reason}"
        return
    if problem := other_architecture(plan.start.trained.to_dict(), plan.network.to_dict()):
        yield problem


# What a run can have, but the user may not want: these are hints.


def learning_rate(plan: Plan) -> Iterator[str]:
    """An unusual learning rate, or one that is never reached."""
    if plan.optim is None:
        return
    low, high = COMMON_RATES
    if not low <= plan.optim.learning_rate <= high:
        yield f"learning_rate {plan.optim.learning_rate:g} is unusual: {low:g} to {high:g} is common"
    if plan.steps is not None and plan.optim.warmup_steps >= plan.steps > 0:
        yield (
            f"warmup_steps {plan.optim.warmup_steps} is no less than the run's {counted(plan.steps, 'step')}: "
            "the learning rate never gets past its warm-up"
        )


def frozen_at_random(plan: Plan) -> Iterator[str]:
    """Adapters, or a part, of a network that nobody has trained."""
    begins_with = plan.start.trained, plan.setting("model.pretrained"), plan.setting("ckpt_path")
    if plan.parameters is None or any(begin is not None for begin in begins_with):
        return
    if frozen := plan.parameters.total - plan.parameters.trained:
        give = "give --model.pretrained, or " if "pretrained" in plan.settings["model"] else ""
        part = "model.lora.rank" if plan.trained.lora.rank else "model.train"
        yield (
            f"{frozen:,} of {plan.parameters.total:,} parameters are frozen at random values, for the run begins "
            f"without trained weights: {give}leave {part} out"
        )


def two_lengths(plan: Plan) -> Iterator[str]:
    """Steps that end the run before its epochs do."""
    most, epochs = plan.setting("trainer.max_steps"), plan.setting("trainer.max_epochs")
    if not plan.epochs or not epochs or epochs < 0 or plan.steps != most:
        return
    if plan.epochs < epochs:
        yield (
            f"trainer.max_steps {most:,} ends the run after {plan.epochs:,.1f} of {epochs:,} epochs "
            "(trainer.max_epochs); --trainer.max_steps -1 makes them all"
        )


def data_and_size(plan: Plan) -> Iterator[str]:
    """Too little text for the length of the run, or too few or too many tokens for the size of the model."""
    if plan.corpus is None or plan.parameters is None or not plan.tokens:
        return
    if isinstance(plan.network, WordVectorsConfig):  # each word is seen in many contexts, and is two rows of the tables
        return
    times, each = plan.tokens / plan.corpus.train, plan.tokens / plan.parameters.total
    if times > _BY_HEART:
        yield (
            f"every token is seen about {times:,.0f} times: the model will memorize the text, and the validation "
            "loss will rise again; more text helps (best.ckpt keeps the best)"
        )
    elif not isinstance(plan.datamodule, TextDataModule):
        return  # labels and answers are learned from far fewer tokens
    elif each < _TOKENS_PER_PARAMETER / 20 and plan.start.trained is None:
        longer = "train longer" if times < _OFTEN else "take more text and train longer"
        yield (
            f"{each:.2g} tokens for each parameter is little: about {_TOKENS_PER_PARAMETER:g} are the best use of "
            f"compute; {longer}, or a smaller model"
        )
    elif each > _TOKENS_PER_PARAMETER * 20:
        yield f"{each:,.0f} tokens for each parameter: a larger model would learn more from them"


def skipped_text(plan: Plan) -> Iterator[str]:
    """Windows with skipped text between them."""
    if isinstance(plan.datamodule, TextDataModule) and (
        (stride := plan.datamodule.stride) > plan.datamodule.context_length
    ):
        skipped = 1 - plan.datamodule.context_length / stride
        yield (
            f"data.stride {stride:,} is more than data.context_length {plan.datamodule.context_length:,}: "
            f"{skipped:.0%} of the text is never seen"
        )


def averaging(plan: Plan) -> Iterator[str]:
    """An average over more steps than the run has."""
    for callback in plan.callbacks("EMAWeightAveraging"):
        decay = callback.get("decay", 0.999)
        if (
            plan.steps
            and plan.steps > 20
            and isinstance(decay, float)
            and 0 < decay < 1
            and 1 / (1 - decay) > plan.steps / 5
        ):
            yield (
                f"the average of decay {decay:g} is over some {1 / (1 - decay):,.0f} steps, and the run has "
                f"{plan.steps:,}: weights from its beginning weigh much; a decay of {1 - 10 / plan.steps:.2g} or less "
                "would not"
            )


def accumulation(plan: Plan) -> Iterator[str]:
    """A step that takes more batches than an epoch has."""
    accumulation = plan.accumulation
    most = accumulation if isinstance(accumulation, int) else max(accumulation.values())
    if plan.corpus is not None and most > plan.corpus.batches > 0:
        batches = counted(plan.corpus.batches, "batch", "batches")
        yield f"a step accumulates {most} batches and an epoch has {batches}: a step ends with the epoch"


def nothing_left(plan: Plan) -> Iterator[str]:
    """A checkpoint of a finished run."""
    if plan.steps is not None and plan.start.step >= max(1, plan.steps):
        limit = "max_steps" if plan.steps == plan.setting("trainer.max_steps") else "max_epochs"
        yield f"the checkpoint is at step {plan.start.step:,} of {plan.steps:,}: nothing is left; set trainer.{limit}"


REFUSING: tuple[Check, ...] = (
    settings_that_can_not_be,
    nothing_to_do,
    other_weights,
    too_little_memory,
    too_little_disk,
    folder_that_can_not_be_written,
    validation_that_never_comes,
)
HINTING: tuple[Check, ...] = (
    memory_may_not_suffice,
    learning_rate,
    frozen_at_random,
    two_lengths,
    data_and_size,
    skipped_text,
    doubtful_labels,
    special_tokens_in_the_text,
    averaging,
    validation,
    validation_takes_long,
    accumulation,
    precision,
    nothing_left,
)
