"""How inspection stays out of the way of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import lightning as L

from llm.errors import first_line_of
from llm.runs.loggers import folder_of
from llm.runtime.randomness import preserve_rng_state
from llm.training.throughput import side_work

log = logging.getLogger("llm")


class Apart:
    """Does what looks at a run apart from training: the run is bit for bit the same with it or without it.

    What goes wrong is a warning, never the end of a run.
    """

    def __init__(self) -> None:
        self._failed: set[str] = set()

    def do(self, what: str, module: L.LightningModule, work: Callable[[], None]) -> None:
        """Do one thing; if it can't be done, say so in a line and don't try again.

        Args:
            what: its name.
            module: of the run.
            work: does it.
        """
        if what in self._failed:
            return
        with side_work(module.trainer), preserve_rng_state(module.device):
            try:
                work()
            except Exception as error:
                log.warning(f"no {what} in this run: {first_line_of(error)}")
                self._failed.add(what)


def folder_for_files(trainer: L.Trainer) -> Path | None:
    """Where files go; None if this run is to leave none."""
    return None if trainer.fast_dev_run else folder_of(trainer)  # type: ignore[attr-defined]
