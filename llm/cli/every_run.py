"""What every run has besides what its user chose: callbacks, a beginning and an end that lose nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from llm.preflight import Plan, RecordPreflight
from llm.runs.beginning import begin_where_it_was_said
from llm.runs.checkpointing import BestAndLast
from llm.runs.ending import EndPoint
from llm.runs.processes import EndTogether, without_looks
from llm.runs.run_folder import OneCurve
from llm.runs.stopping import StopSafely
from llm.training.progress import RunProgress, StartingPoint
from llm.training.throughput import Throughput


def callbacks_of_run(
    config: Mapping[str, Any], callbacks: list[L.Callback], looks: Sequence[type], plan: Plan | None
) -> list[L.Callback]:
    """The callbacks of a run, those that it always has at the end.

    Args:
        config: of the Trainer.
        callbacks: that have options of their own: those of the task, and the one that saves.
        looks: the classes of those of the task, which only look.
        plan: of the preflight, if there was one.
    """
    if config.get("enable_checkpointing") is False:
        callbacks = [callback for callback in callbacks if not isinstance(callback, BestAndLast)]
    chosen = without_looks(callbacks, config.get("strategy"), looks)
    always: list[L.Callback] = [OneCurve(), StartingPoint(), Throughput(), EndTogether()]
    their_own = any(isinstance(c, ProgressBar) for c in [*chosen, *as_list(config.get("callbacks"))])
    if config.get("enable_progress_bar") is not False and not their_own:
        always.append(RunProgress())
    if plan is not None:
        always.append(RecordPreflight(plan))
    return [*chosen, *always]


def begin_and_end_safely(trainer: L.Trainer) -> None:
    """Let the run begin where it was said, reach its end, and stop at a signal with its state saved."""
    EndPoint().put_in_place(trainer)
    begin_where_it_was_said(trainer)
    # Behind those that save, which Lightning puts last.
    trainer.callbacks.append(StopSafely())  # type: ignore[attr-defined]


def as_list(value: Any) -> list[Any]:
    """A setting of the Trainer that is nothing, one thing, or a list, as a list."""
    return [] if value is None else value if isinstance(value, list) else [value]
