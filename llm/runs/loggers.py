"""The loggers of a run, and the folder of one whose loggers have none."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from llm.runs.newest import RUNS
from llm.runtime.files import write_whole

_UNLOGGED = "unlogged"
_WITH_FOLDER: dict[str, type[TensorBoardLogger] | type[CSVLogger]] = {
    "TensorBoardLogger": TensorBoardLogger,
    "CSVLogger": CSVLogger,
}


class RunFolder(Logger):
    """A logger that keeps no values: it gives a run without a logger, or with one elsewhere, a folder of its own.

    Args:
        root: the folder of all runs of this name.
        version: the name of the run's folder. Default: `version_0`, or one more than the highest there is.
    """

    def __init__(self, root: str | Path, version: str | int | None = None) -> None:
        super().__init__()
        self._root = Path(root)
        self._version = f"version_{version}" if isinstance(version, int) else version

    @property
    def version(self) -> str:
        """The name of the run's folder."""
        if self._version is None:
            found = [re.fullmatch(r"version_(\d+)", path.name) for path in self._root.glob("version_*")]
            self._version = f"version_{max((int(match[1]) for match in found if match), default=-1) + 1}"
        return self._version

    @property
    def name(self) -> str:
        """Empty: `save_dir` is the run's own already."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return str(self._root / self.version)

    @property
    def save_dir(self) -> str:
        """The same, for Lightning, which takes it where a logger is not one of those with folders."""
        return self.log_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


class MetricsFile(CSVLogger):
    """Lightning's `CSVLogger`, which also goes on with the file of a resumed run; Lightning's own would delete it."""

    @classmethod
    def of(cls, logger: CSVLogger) -> MetricsFile:
        """The same logger, as one that can go on."""
        return cls(logger.save_dir, logger.name, logger._version, logger._prefix, logger._flush_logs_every_n_steps)

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        """What writes the file."""
        if not isinstance(self._experiment, _Rows):
            self._experiment = _Rows(self.log_dir)
        return self._experiment

    def forget_after(self, step: int) -> None:
        """Leave out of the file what was logged after a step."""
        self.experiment.forget_after(step)


class _Rows(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        with contextlib.suppress(FileNotFoundError), Path(self.metrics_file_path).open(newline="") as file:
            self.metrics_keys = list(csv.DictReader(file).fieldnames or [])

    def _check_log_dir_exists(self) -> None:
        """Nothing: a folder that holds another run is refused before."""

    def forget_after(self, step: int) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        kept = io.StringIO(newline="")
        writer = csv.DictWriter(kept, self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, kept.getvalue().encode())


def logger_settings(logger: Any) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of the logger that decides where a run is kept; empty where there is no logger.

    Args:
        logger: the setting `trainer.logger`: a class with its arguments, a list of these, or a truth value, of which
            true is Lightning's default logger.
    """
    of_each = [_class_and_arguments(one) for one in (logger if isinstance(logger, list) else [logger])]
    with_folder = [(name, arguments) for name, arguments in of_each if name in _WITH_FOLDER]
    return [*with_folder, *of_each, ("", {})][0]


def root_of_runs(trainer: Any) -> Path:
    """The folder of all runs, whatever their name.

    Args:
        trainer: the settings of the Trainer.
    """
    _, arguments = logger_settings(_setting(trainer, "logger"))
    return Path(arguments.get("save_dir") or _setting(trainer, "default_root_dir") or RUNS)


def folder_of_name(trainer: Any) -> Path:
    """The folder of the runs of this name; where the settings name a version, the folder of that run.

    Args:
        trainer: the settings of the Trainer.
    """
    kind, arguments = logger_settings(_setting(trainer, "logger"))
    version = arguments.get("version")
    if kind not in _WITH_FOLDER:
        name, version = _name_without_folder(kind, arguments), version or arguments.get("id")
    else:
        name = arguments.get("name", "lightning_logs") or ""
    folder = root_of_runs(trainer) / name
    return folder if version is None else folder / (version if isinstance(version, str) else f"version_{version}")


def has_folder(logger: Any) -> bool:
    """Whether the loggers of the setting `trainer.logger` give a run a folder."""
    return logger_settings(logger)[0] in _WITH_FOLDER


def run_folder_logger(trainer: Any) -> RunFolder:
    """What gives a run a folder where its loggers don't: below that of all runs, named after its logger.

    Args:
        trainer: the settings of the Trainer.
    """
    kind, arguments = logger_settings(_setting(trainer, "logger"))
    root = root_of_runs(trainer) / _name_without_folder(kind, arguments)
    return RunFolder(root, arguments.get("version") or arguments.get("id"))


def planned_folder(trainer: Any) -> Path:
    """The folder that a new run will have.

    Args:
        trainer: the settings of the Trainer.
    """
    logger = _setting(trainer, "logger")
    if not has_folder(logger):
        return Path(run_folder_logger(trainer).log_dir)
    kind, arguments = logger_settings(logger)
    known = {name: arguments[name] for name in ("name", "version", "sub_dir") if name in arguments}
    return Path(_WITH_FOLDER[kind](str(root_of_runs(trainer)), **known).log_dir)


def folder_of(trainer: L.Trainer) -> Path | None:
    """The folder of a run, which is that of its first logger that has one, or None.

    Not `trainer.log_dir`: that waits for all processes, and most files are written by the first one alone.
    """
    folders = (getattr(logger, "log_dir", None) for logger in trainer.loggers)
    return next((Path(folder) for folder in folders if folder), None)


def _setting(settings: Any, name: str) -> Any:
    return settings.get(name) if isinstance(settings, Mapping) else getattr(settings, name, None)


def _name_without_folder(kind: str, arguments: dict[str, Any]) -> str:
    named = (arguments.get(name) for name in ("project", "experiment_name", "name"))
    return next((str(name) for name in named if name), kind or _UNLOGGED)


def _class_and_arguments(logger: Any) -> tuple[str, dict[str, Any]]:
    if logger is None or logger is True:
        return "TensorBoardLogger", {"name": "lightning_logs"}
    path, arguments = _setting(logger, "class_path"), _setting(logger, "init_args")
    if arguments is not None and not isinstance(arguments, Mapping):
        arguments = arguments.as_dict()
    return str(path or "").rpartition(".")[2], dict(arguments or {})
