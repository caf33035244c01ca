"""Texts and pictures of a run, for loggers besides TensorBoard's: each by the means that it has."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import lightning as L
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger, WandbLogger
from PIL import Image

from llm.runtime.files import write_whole


class Record(Protocol):
    """Where texts and pictures of a run go."""

    def text(self, tag: str, text: str, step: int) -> None:
        """A text in Markdown.

        Args:
            tag: what it is, the same at every step.
            text: in Markdown.
            step: the optimizer step.
        """

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        """A picture; see `text`."""

    def settings(self, settings: Mapping[str, Any]) -> None:
        """What the run's result depends on, by dotted name."""


class _WandbRecord:
    """Weights & Biases: steps are a metric, as in Lightning's logger, since theirs may only grow."""

    def __init__(self, logger: WandbLogger) -> None:
        self._logger = logger

    def text(self, tag: str, text: str, step: int) -> None:
        import wandb

        self._log(tag, wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False), step)

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        import wandb

        self._log(tag, wandb.Image(image.convert("RGB")), step)

    def settings(self, settings: Mapping[str, Any]) -> None:
        self._logger.log_hyperparams(dict(settings))

    def _log(self, tag: str, value: Any, step: int) -> None:
        self._logger.experiment.log({tag: value, "trainer/global_step": step})


class _MLFlowRecord:
    """MLflow: an artifact for each step; settings are its parameters."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self._logger = logger

    def text(self, tag: str, text: str, step: int) -> None:
        self._logger.experiment.log_text(self._logger.run_id, text, f"{_path(tag, step)}.md")

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        self._logger.experiment.log_image(self._logger.run_id, image.convert("RGB"), f"{_path(tag, step)}.png")

    def settings(self, settings: Mapping[str, Any]) -> None:
        self._logger.log_hyperparams(dict(settings))


class _CometRecord:
    """Comet has both."""

    def __init__(self, logger: CometLogger) -> None:
        self._logger = logger

    def text(self, tag: str, text: str, step: int) -> None:
        self._logger.experiment.log_text(text, step=step, metadata={"name": tag})

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        self._logger.experiment.log_image(image.convert("RGB"), name=tag, step=step)

    def settings(self, settings: Mapping[str, Any]) -> None:
        self._logger.log_hyperparams(dict(settings))


class _FolderRecord:
    """Files beside the metrics of `CSVLogger`: `samples/step-60.md`, `attention/layer-0/step-60.png`."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def text(self, tag: str, text: str, step: int) -> None:
        write_whole(self._folder / f"{_path(tag, step)}.md", text.encode())

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        path = self._folder / f"{_path(tag, step)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Nothing: `config.yaml` is there."""


def records_of(trainer: L.Trainer) -> list[Record]:
    """What a run's loggers, TensorBoard's apart, write texts and pictures with; only the first process writes any."""
    found: list[Record] = []
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, WandbLogger):
            found.append(_WandbRecord(logger))
        elif isinstance(logger, MLFlowLogger):
            found.append(_MLFlowRecord(logger))
        elif isinstance(logger, CometLogger):
            found.append(_CometRecord(logger))
        elif isinstance(logger, CSVLogger):
            found.append(_FolderRecord(logger.log_dir))
    return found


def end_records(trainer: L.Trainer, status: int) -> None:
    """End the run at Weights & Biases, where another run of this process would go on with it.

    Args:
        trainer: of the run that has ended.
        status: 0 if it ended well.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=status)


def _path(tag: str, step: int) -> str:
    folder = re.sub(r"[^\w/]+", "-", re.sub(r"^\d ", "", tag))  # TensorBoard sorts by the number
    return f"{folder}/step-{step}"
