"""Before the first step: what a run will do, what it will need, and everything that is foreseeably wrong with it."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch

from llm.config import WordVectorsConfig
from llm.data import InstructDataModule
from llm.errors import LLMError
from llm.inspection.tags import PREFLIGHT
from llm.inspection.writers import TensorBoard
from llm.preflight.checks import HINTING, REFUSING
from llm.preflight.making import can_be_planned, make_plan
from llm.preflight.plan import Plan, Start
from llm.preflight.table import table
from llm.preflight.timing import estimated_seconds, measure_steps
from llm.preflight.words import measure_words
from llm.runtime.randomness import preserve_rng_state

__all__ = [
    "HINTING",
    "REFUSING",
    "Plan",
    "PreflightDone",
    "Problems",
    "RecordPreflight",
    "Start",
    "can_be_planned",
    "make_plan",
    "possible_plan",
    "preflight",
    "table",
]

log = logging.getLogger("llm")


class Problems(LLMError):
    """Everything that is wrong with a run, a sentence each."""


class PreflightDone(Exception):
    """All that was asked for was the preflight.

    Args:
        status: what the process ends with: 0 if the run could begin, 1 if not.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def preflight(
    settings: dict[str, Any], start: Start | None = None, alone: bool = False, keeps_interval: bool = True
) -> Plan:
    """Look at a run before it begins, say what it will be, and refuse it if it can't be.

    Args:
        settings: of `fit`, as nested dicts.
        start: what it begins with besides.
        alone: nothing follows: take the time to make a few steps with a throwaway copy of the model.
        keeps_interval: whether `trainer.val_check_interval` is what somebody set; else it may be lengthened, in
            the plan's settings, so that validation takes no more than a tenth of the time.

    Raises:
        Problems: the run can't be.
        PreflightDone: the preflight was `alone`, and found nothing that refuses.
    """
    with preserve_rng_state(torch.device("cpu")):  # the run is bit for bit that without
        plan = make_plan(settings, start)
        if not keeps_interval and plan.world_size == 1:  # the other processes have no plan
            plan.lengthen_interval()
        problems = [problem for check in REFUSING for problem in check(plan)]
        if not problems:
            _find_out_time(plan, measured=alone)
    if alone or not problems:
        log.info("%s", table(plan))
    for check in HINTING:
        for hint in check(plan):
            log.info("hint: %s", hint)
    if problems:
        raise Problems(*dict.fromkeys(problems))
    if alone:
        if isinstance(plan.datamodule, InstructDataModule):
            plan.datamodule.show_sample()
        log.info("no problems found; without --preflight, the run would begin now")
        raise PreflightDone(0)
    return plan


def possible_plan(settings: dict[str, Any], start: Start | None = None) -> Plan:
    """The plan of a run that can be; nothing is printed.

    Args:
        settings: of `fit`, as nested dicts.
        start: what it begins with besides.

    Raises:
        Problems: the run can't be.
    """
    plan = make_plan(settings, start)
    if problems := [problem for check in REFUSING for problem in check(plan)]:
        raise Problems(*dict.fromkeys(problems))
    return plan


def _find_out_time(plan: Plan, measured: bool) -> None:
    if plan.network is None or plan.optim is None or plan.costs is None or plan.device is None or plan.steps is None:
        return
    batch_size, seconds = plan.settings["data"]["batch_size"], None
    assert plan.datamodule is not None  # else there were no costs
    options = batch_size, plan.precision, plan.device, plan.datamodule.supervised_fraction
    is_words = isinstance(plan.network, WordVectorsConfig)
    if measured:
        try:
            if is_words:
                data = plan.settings["data"]
                found = measure_words(plan.network, plan.optim, data, plan.precision, plan.device, plan.trained)
            else:
                found = measure_steps(plan.network, plan.optim, *options, plan.trained)
        except (RuntimeError, MemoryError) as error:
            plan.problems.append(str(error))
            return
        seconds, plan.measured = found.seconds, found.peak
    elif not is_words:  # whose time is no product's
        seconds = estimated_seconds(plan.network, plan.costs, *options)
    if seconds is None or plan.corpus is None:
        return
    seconds *= plan.corpus.batch_tokens / (batch_size * plan.corpus.longest)
    batches = max(0, plan.batches_until(plan.steps) - plan.batches_until(plan.start.step))
    plan.seconds = seconds * (batches + plan.time_of_validation(batches))


class RecordPreflight(L.Callback):
    """Leaves the table of a preflight with the run, in its loggers.

    Args:
        plan: what was found.
    """

    def __init__(self, plan: Plan) -> None:
        self.text = "\n".join(f"    {line}" for line in table(plan).splitlines())

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it."""
        del pl_module
        if trainer.is_global_zero:
            TensorBoard.of(trainer, trainer.global_step).text(PREFLIGHT, self.text)
