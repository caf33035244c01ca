"""`python -m llm compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm.runs.comparing import RunSummary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or of many of them: runs/lr")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each run instead of a table")


def run(arguments: argparse.Namespace) -> None:
    """Print a row for each run, the best one first: what differs, best loss and its step, time, tokens/s.

    Raises:
        DataError: no folder is that of a run.
    """
    import json
    import logging

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
    differing = settings_that_differ(runs)
    if arguments.json:
        for place, one in enumerate(runs):
            settings = {name: values[place] for name, values in differing.items()}
            print(json.dumps({**vars(one), "folder": str(one.folder), "settings": settings}, default=str))
        return
    print("\n".join(_table(runs, differing)))
    best = runs[0]
    if best.best_loss is not None and len(runs) > 1:
        print(f"\nbest: {best.folder}, validation loss {best.best_loss:.4f} at step {best.best_step:,}")


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
        lines.append([str(run.folder), *(str(values[place]) for values in differing.values()), *numbers])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    n_words = 1 + len(differing)
    return [
        "  ".join(
            cell.ljust(width) if column < n_words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
