"""Checks of when a run is validated, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterator

from llm.data import TextDataModule
from llm.preflight.plan import Plan
from llm.runtime.words import counted

_MUCH_VALIDATION = 0.15
"""Fraction of the time of a run."""
_FEW_WINDOWS = 100
"""Fewer are not worth a choice."""


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
