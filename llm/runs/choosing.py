"""Which checkpoint `last` and `best` are, and which folder a run that goes on writes to, from its configuration."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from llm.runs.run_folder import (
    CHECKPOINTS,
    LAST,
    NoCheckpointError,
    checkpoint_to_go_on_from,
    newest_checkpoint,
    run_folder_of,
)

log = logging.getLogger("llm")

RUNS = "runs"
"""The folder in which every run gets a folder of its own."""


def choose_checkpoint(config: Any, subcommand: str) -> str | None:
    """The file that `ckpt_path` stands for; None to begin at step 0.

    `fit` resumes the newest run of its own name; the other commands use the newest run of any name.

    Raises:
        CheckpointError: there is none, or none is whole; a run is never silently begun afresh.
    """
    if config.ckpt_path not in ("last", "best"):
        return config.ckpt_path
    if subcommand != "fit":
        return str(newest_checkpoint(_folder_of_runs(config), config.ckpt_path))
    folder = _folder_of_runs(config, of_its_name=True)
    try:
        if config.ckpt_path == "best":
            return str(newest_checkpoint(folder, "best"))
        return str(checkpoint_to_go_on_from(folder))
    except NoCheckpointError as error:
        if not config.fresh:
            raise
        log.info("starting a new run: %s", str(error).partition("; ")[0])
        return None


def _folder_of_runs(config: Any, of_its_name: bool = False) -> Path:
    """The folder that holds runs, or the one folder of checkpoints that is set."""
    logger, trainer = config.trainer.logger, config.trainer
    if config.checkpoint.folder is not None:
        return Path(config.checkpoint.folder)
    if logger is False and of_its_name:
        return Path(trainer.default_root_dir or ".", CHECKPOINTS)
    settings = getattr(logger, "init_args", None)
    folder = Path(getattr(settings, "save_dir", None) or RUNS)
    if not of_its_name:
        return folder
    folder /= getattr(settings, "name", None) or ""
    version = getattr(settings, "version", None)
    return folder if version is None else folder / (version if isinstance(version, str) else f"version_{version}")


def logger_to_go_on_with(config: Any) -> TensorBoardLogger | None:
    """The configured logger, but for the folder of the run whose `last.ckpt` a run goes on from; None for all others.

    Another checkpoint of a run, such as `best.ckpt`, begins a new run: what came after it in the old one stays.
    """
    logger = config.trainer.logger
    settings = getattr(logger, "init_args", None)
    if config.ckpt_path is None or settings is None or not str(logger.class_path).endswith("TensorBoardLogger"):
        return None
    path = Path(config.ckpt_path).resolve()
    run = run_folder_of(path)
    of_this_name = Path(settings.save_dir, settings.name or "").resolve() == run.parent
    if path.parent == run or not of_this_name or settings.version is not None or settings.sub_dir is not None:
        return None
    if path.name != LAST and path != newest_checkpoint(path.parent).resolve():
        return None
    options = {**settings.as_dict(), **dict(getattr(logger, "dict_kwargs", None) or {}), "version": run.name}
    return TensorBoardLogger(**options)
