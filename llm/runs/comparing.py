"""What runs did, read from their folders: settings, losses, time."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from llm.errors import DataError

CONFIGURATION = "config.yaml"
_METRICS = "metrics.csv"
_LOSS, _VALIDATION, _SPEED = "train/loss", "validation/loss", "train/tokens_per_second"
_OF_NO_RESULT = ("name", "trainer.logger", "ckpt_path", "fresh", "preflight", "data.cache_dir", "config")


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Args:
        folder: of the run.
        settings: by dotted name, without those that no result depends on.
        steps: optimizer steps that were logged last.
        train_loss: the last that was logged, in nats; None if none was.
        best_loss: the lowest of validation, in nats; None without a validation.
        best_step: the step of that.
        seconds: from the first to the last value logged; None where the logger keeps no time.
        tokens_per_second: the median of what was logged.
    """

    folder: Path
    settings: Mapping[str, Any] = field(repr=False)
    steps: int = 0
    train_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None


def runs_in(folder: str | Path) -> list[Path]:
    """The folder, if it is that of a run; else those of all runs in it and below."""
    path = Path(folder)
    if (path / CONFIGURATION).is_file():
        return [path]
    return sorted(found.parent for found in path.rglob(CONFIGURATION)) or [path]


def summarize_run(folder: str | Path) -> RunSummary:
    """Read what a run left in its folder: `config.yaml`, and TensorBoard's events or a `metrics.csv`.

    Raises:
        DataError: it is not the folder of a run, a file in it is damaged, or nothing was logged in it.
    """
    path = Path(folder)
    if not (path / CONFIGURATION).is_file():
        raise DataError(f"{str(folder)!r} is not the folder of a run: it holds no {CONFIGURATION}")
    settings = _settings(path / CONFIGURATION)
    try:
        curves, seconds = _curves(path)
    except Exception as error:  # a damaged file can make tensorboard raise anything
        raise DataError(f"what was logged in {str(folder)!r} can't be read: {_in_one_line(error)}") from error
    if not curves:
        raise DataError(f"nothing was logged in {str(folder)!r}: the run ended before its first step, or has no logger")
    finite = [(value, step) for step, value in curves.get(_VALIDATION, []) if math.isfinite(value)]
    best = min(finite, default=None)
    losses, speeds = curves.get(_LOSS, []), [value for _, value in curves.get(_SPEED, [])]
    return RunSummary(
        path,
        {name: value for name, value in _flat(settings).items() if not name.startswith(_OF_NO_RESULT)},
        max(step for points in curves.values() for step, _ in points),
        losses[-1][1] if losses else None,
        None if best is None else best[0],
        None if best is None else best[1],
        seconds,
        median(speeds) if speeds else None,
    )


def settings_that_differ(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs: by name, the value of each run, None where it has none."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: of for name, of in values.items() if any(value != of[0] for value in of)}


def _settings(file: Path) -> Mapping[str, Any]:
    """What is in a configuration.

    Raises:
        DataError: it can't be read, or is none.
    """
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{str(file)!r} can't be read: {_in_one_line(error)}") from error
    if not isinstance(settings, Mapping):
        raise DataError(f"{str(file)!r} holds no settings, so it is not that of a run")
    return settings


def _in_one_line(error: Exception) -> str:
    """What an error says, on one line."""
    if isinstance(error, KeyError):
        return f"there is no column {error}"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _curves(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], float | None]:
    """Step and value of everything of interest that was logged, and the seconds between the first and the last."""
    wanted = (_LOSS, _VALIDATION, _SPEED)
    if (folder / _METRICS).is_file():
        found: dict[str, list[tuple[int, float]]] = {}
        with (folder / _METRICS).open(newline="") as file:
            for row in csv.DictReader(file):
                for name in wanted:
                    if row.get(name):
                        found.setdefault(name, []).append((int(row["step"]), float(row[name])))
        return found, None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    nothing_else = {"images": 1, "tensors": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
    events = EventAccumulator(str(folder), {"scalars": 0, **nothing_else}).Reload()
    scalars = {name: events.Scalars(name) for name in wanted if name in events.Tags()["scalars"]}
    times = [event.wall_time for of in scalars.values() for event in of]
    curves = {name: [(event.step, event.value) for event in of] for name, of in scalars.items()}
    return curves, max(times) - min(times) if times else None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
