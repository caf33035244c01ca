"""A logger that keeps a run elsewhere than on the disk, as those of Weights & Biases and MLflow may."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import Logger


class Elsewhere(Logger):
    """Keeps nothing here."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self.project = project

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return "a1b2"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass
