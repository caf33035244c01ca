"""`python -m llm compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm.runtime.words import in_columns

if TYPE_CHECKING:
    from llm.runs.comparing import RunSummary

_WIDEST = 60
"""Characters in a cell; a chat template has hundreds, and several lines."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or of many of them: runs/lr")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each run instead of a table")


def run(arguments: argparse.Namespace) -> None:
    """Print a row for each run, the best one first: what differs, best loss and its step, time, tokens/s.

    Runs of each task have a table of their own, since losses of different tasks can't be compared.

    Raises:
        DataError: no folder is that of a run.
    """
    import json
    import logging
    import math

    from llm.errors import DataError
    from llm.runs.comparing import runs_in, settings_that_differ, summarize_run

    runs, problems = [], []
    for folder in dict.fromkeys(path for given in arguments.runs for path in runs_in(given)):
        try:
            runs.append(summarize_run(folder))
        except DataError as error:
            problems.append(str(error))
    if not runs:
        raise DataError(problems[0])
    for problem in problems:
        logging.getLogger("llm").warning("left out: %s", problem)
    runs.sort(key=lambda run: (run.best_loss is None, run.best_loss, str(run.folder)))
    groups: dict[str | None, list[RunSummary]] = {}
    for one in runs:
        groups.setdefault(one.settings.get("task"), []).append(one)
    if arguments.json:
        for task, group in groups.items():
            differing = settings_that_differ(group)
            for place, one in enumerate(group):
                settings = {name: values[place] for name, values in differing.items()}
                row = {**vars(one), "folder": str(one.folder), "task": task, "settings": settings}
                if one.train_loss is not None and not math.isfinite(one.train_loss):  # JSON has no such number
                    row["train_loss"] = None
                print(json.dumps(row, default=str))
        return
    print("\n\n".join(_paragraph(task if len(groups) > 1 else None, group) for task, group in groups.items()))


def _paragraph(task: str | None, runs: Sequence[RunSummary]) -> str:
    """The table of runs of one task, under the name of the task where there are several, and which run is the best."""
    from llm.runs.comparing import settings_that_differ

    lines = [] if task is None else [f"task {task}"]
    lines += _table(runs, settings_that_differ(runs))
    best = runs[0]
    if best.best_loss is not None and len(runs) > 1:
        lines += ["", f"best: {best.folder}, validation loss {best.best_loss:.4f} at step {best.best_step:,}"]
    return "\n".join(lines)


def _table(runs: Sequence[RunSummary], differing: dict[str, list[Any]]) -> list[str]:
    measured = ["best validation loss", "at step", "steps", "last train loss", "time", "tokens/s"]
    lines = [["run", *differing, *measured]]
    for place, run in enumerate(runs):
        numbers = [
            _number(run.best_loss, ".4f"),
            _number(run.best_step, ",d"),
            _number(run.steps, ",d"),
            _number(run.train_loss, ".4f"),
            "" if run.seconds is None else f"{int(run.seconds) // 60}:{int(run.seconds) % 60:02d}",
            _number(run.tokens_per_second, ",.0f"),
        ]
        lines.append([str(run.folder), *(_word(values[place]) for values in differing.values()), *numbers])
    return in_columns(lines, right=range(1 + len(differing), len(lines[0])))


def _word(value: Any) -> str:
    """A setting in a cell: on one line, and no longer than that leaves room for others."""
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
