"""Which checkpoint `last` and `best` are, and which folder a run that goes on writes to, from its configuration."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from llm.runs.loggers import (
    MetricsFile,
    RunFolder,
    folder_of_name,
    logger_settings,
    root_of_runs,
    run_folder_logger,
)
from llm.runs.newest import NoCheckpointError, checkpoint_to_go_on_from, goes_on_in, newest_checkpoint, run_folder_of

log = logging.getLogger("llm")


def choose_checkpoint(config: Any, subcommand: str, task: str) -> str | None:
    """The file that `ckpt_path` stands for; None to begin at step 0.

    `fit` resumes the newest run of its own name; the other commands use the newest run of the task, of any name.

    Raises:
        CheckpointError: there is none, or none is whole; a run is never silently begun afresh.
    """
    if config.ckpt_path not in ("last", "best"):
        return config.ckpt_path
    if subcommand != "fit":
        return str(newest_checkpoint(_folder_of_runs(config), config.ckpt_path, (task,)))
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
    if config.checkpoint.folder is not None:
        return Path(config.checkpoint.folder)
    return folder_of_name(config.trainer) if of_its_name else root_of_runs(config.trainer)


def folder_to_go_on_in(config: Any) -> Path | None:
    """The folder of the run whose `last.ckpt` a run goes on from; None for a new one.

    Another checkpoint of a run, such as `best.ckpt`, begins a new run: what came after it in the old one stays.
    """
    if config.ckpt_path is None:
        return None
    path = Path(config.ckpt_path).resolve()
    run = run_folder_of(path)
    _, settings = logger_settings(config.trainer.logger)
    named = settings.get("version") is not None or settings.get("sub_dir") is not None
    of_this_name = folder_of_name(config.trainer).resolve() == run.parent
    return run if of_this_name and not named and goes_on_in(run, path) else None


def loggers_of_run(config: Any, made: Any) -> list[Logger]:
    """The loggers of a run: those that were configured, with the run's folder.

    Args:
        config: of `fit`.
        made: of the setting `trainer.logger`.
    """
    if made is None or made is True:
        made = TensorBoardLogger(root_of_runs(config.trainer), name="lightning_logs", default_hp_metric=False)
    loggers = [] if made is False else made if isinstance(made, list) else [made]
    loggers = [MetricsFile.of(logger) if type(logger) is CSVLogger else logger for logger in loggers]
    folder = folder_to_go_on_in(config)
    with_folder = [logger for logger in loggers if isinstance(logger, TensorBoardLogger | CSVLogger)]
    if not with_folder:
        return [
            *loggers,
            run_folder_logger(config.trainer) if folder is None else RunFolder(folder.parent, folder.name),
        ]
    unnamed = [logger for logger in with_folder if logger._version is None]
    versions = [logger.version for logger in unnamed]
    for logger in unnamed:  # the same for all, so that each knows its own again
        logger._version = max(versions) if folder is None else folder.name
    return loggers
