"""What could go wrong in a run, checked before it begins: each check is a function from a plan to sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from llm.config import WordVectorsConfig
from llm.config.tasks import LANGUAGE
from llm.data import TextDataModule
from llm.preflight.labels import doubtful_labels
from llm.preflight.plan import Plan, existing
from llm.preflight.sizes import in_bytes
from llm.preflight.special_tokens import special_tokens_in_the_text
from llm.pretrained.adapting import differences
from llm.runs.newest import BEST, CHECKPOINTS, LAST, PREVIOUS
from llm.runs.resuming import other_architecture
from llm.runtime.hardware import has_native_bfloat16
from llm.runtime.words import counted
from llm.tasks import TASKS
from llm.training.schedule import batches_of_epoch

Check = Callable[[Plan], Iterator[str]]

COMMON_RATES = (1e-6, 3e-2)
_MUCH_VALIDATION = 0.15
"""Fraction of the time of a run."""
_FEW_WINDOWS = 100
"""Fewer are not worth a choice."""
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
            yield f"the pretrained weights are of another architecture: {', '.join(different)}"
        return
    if problem := other_architecture(plan.start.trained.to_dict(), plan.network.to_dict()):
        yield problem


def too_little_memory(plan: Plan) -> Iterator[str]:
    """Weights, gradients and optimizer alone do not fit, whatever the batch."""
    if plan.memory is None or plan.free_memory is None or _is_sharded(plan):
        return
    if (needed := plan.memory.state * _on_this_memory(plan)) > plan.free_memory:
        yield (
            f"not enough memory: weights, gradients and optimizer take {in_bytes(needed)}, and {plan.device} has "
            f"{in_bytes(plan.free_memory)} free; use a smaller n_layer or n_embd"
        )


def too_little_disk(plan: Plan) -> Iterator[str]:
    """The checkpoints do not fit: best, last, the one before it, and the one that is being written."""
    size, best = plan.checkpoint_bytes, plan.weights_bytes
    if size is None or best is None or plan.free_disk is None or plan.setting("trainer.enable_checkpointing") is False:
        return
    folder = (plan.folder or Path()) / CHECKPOINTS
    of_each = {BEST: best, LAST: size, PREVIOUS: size}
    needed = size + sum(of_it for name, of_it in of_each.items() if not (folder / name).is_file())
    if needed > plan.free_disk:
        yield (
            f"not enough disk: {BEST}, {LAST}, {PREVIOUS} and the one that is being written, as far as they are not "
            f"there, take {in_bytes(needed)}, and {in_bytes(plan.free_disk)} are free where the run will be; "
            "free some, or set checkpoint.folder"
        )


def folder_that_can_not_be_written(plan: Plan) -> Iterator[str]:
    """A run folder that can't be written to."""
    if plan.folder is not None and not plan.folder_is_writable:
        folder = str(existing(plan.folder))
        yield (
            f"the run folder can't be made: {folder!r} is not writable; choose another with "
            "--trainer.default_root_dir FOLDER"
        )


def validation_that_never_comes(plan: Plan) -> Iterator[str]:
    """Lightning refuses an interval longer than an epoch, where epochs are counted."""
    interval = plan.setting("trainer.val_check_interval")
    epochs = plan.setting("trainer.check_val_every_n_epoch")
    if plan.corpus is None or epochs is None or not isinstance(interval, int) or plan.validates_every is None:
        return
    if interval > plan.corpus.batches:
        batches = counted(plan.corpus.batches, "batch", "batches")
        yield (
            f"trainer.val_check_interval is {interval:,} batches and an epoch has {batches}: set "
            "trainer.check_val_every_n_epoch to null to count over epochs, or a smaller interval"
        )


# What a run can have, but the user may not want: these are hints.


def memory_may_not_suffice(plan: Plan) -> Iterator[str]:
    """The estimated peak of memory is more than is free."""
    if plan.memory is None or plan.free_memory is None or _is_sharded(plan):
        return
    processes = _on_this_memory(plan)
    if plan.memory.state * processes <= plan.free_memory < plan.memory.to_come * processes:
        yield (
            f"memory may not suffice: about {in_bytes(plan.memory.to_come * processes)} of {in_bytes(plan.free_memory)}"
            "; a smaller batch_size needs less (with trainer.accumulate_grad_batches for the same step)"
        )


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


def validation(plan: Plan) -> Iterator[str]:
    """No validation, or none before the end."""
    if plan.corpus is None or not plan.steps:
        return
    every = plan.validates_every
    if not plan.validates:
        yield "there is no validation, so no best.ckpt; set data.validation_fraction or data.validation_corpus"
    elif every is None or plan.start.step:  # by time; or it depends on what was validated before
        return
    elif (epochs := plan.setting("trainer.check_val_every_n_epoch")) is None:
        if every > (batches := plan.batches_until(plan.steps)):
            yield (
                f"the run has {counted(batches, 'batch', 'batches')}, and trainer.val_check_interval is {every:,}: "
                "validation comes at the end only"
            )
    elif plan.epochs is not None and epochs > plan.epochs:
        yield (
            f"the run has {plan.epochs:,.1f} epochs, and trainer.check_val_every_n_epoch is {epochs:,}: "
            "validation comes at the end only"
        )


def validation_takes_long(plan: Plan) -> Iterator[str]:
    """More time in validation than the run is worth."""
    windows = plan.setting("data.validation_windows")
    if plan.corpus is None or not plan.steps or not isinstance(plan.datamodule, TextDataModule) or windows is not None:
        return
    batches = plan.batches_until(plan.steps) - plan.batches_until(plan.start.step)
    taken = plan.time_of_validation(batches)
    many = plan.corpus.validation_rows > _FEW_WINDOWS
    if many and batches > 0 and (fraction := taken / (batches + taken)) > _MUCH_VALIDATION:
        enough = max(1, int(plan.corpus.validation_rows * batches / 9 / taken))
        yield (
            f"validation takes {fraction:.0%} of the time, on {plan.corpus.validation_rows:,} windows: "
            f"--data.validation_windows {enough} takes so many of them, spread evenly over the text, and a tenth of "
            "the time"
        )


def accumulation(plan: Plan) -> Iterator[str]:
    """A step that takes more batches than an epoch has."""
    accumulation = plan.accumulation
    most = accumulation if isinstance(accumulation, int) else max(accumulation.values())
    if plan.corpus is not None and most > plan.corpus.batches > 0:
        batches = counted(plan.corpus.batches, "batch", "batches")
        yield f"a step accumulates {most} batches and an epoch has {batches}: a step ends with the epoch"


def precision(plan: Plan) -> Iterator[str]:
    """A precision that the device emulates or does not have."""
    asked = str(plan.setting("trainer.precision") or "")
    if plan.device == "cpu" and asked in ("16-mixed", "16"):
        yield f"trainer.precision {asked}: processors have no float16; bf16-mixed is taken"
    elif plan.device in ("cpu", "cuda") and asked.startswith("bf16") and not has_native_bfloat16(plan.device):
        yield f"trainer.precision {asked}: this device does not multiply bfloat16 natively, so it will be slow"


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


def _is_sharded(plan: Plan) -> bool:
    """Whether the processes shard one model, so that each holds a part."""
    strategy = str(plan.setting("trainer.strategy") or "auto")
    return not (strategy == "auto" or strategy.startswith(("ddp", "single")))


def _on_this_memory(plan: Plan) -> int:
    """How many processes take from the same memory: on a processor all of this machine."""
    nodes = plan.setting("trainer.num_nodes") or 1
    return max(1, plan.world_size // nodes) if plan.device == "cpu" else 1
