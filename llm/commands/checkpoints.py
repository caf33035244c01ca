"""The checkpoint that a command uses: a file, or `best` or `last` of the newest run whose task it is for."""

from __future__ import annotations

import sys
from typing import TypeVar

from llm.config.tasks import tasks_like

NAMES = ("best", "last")
Source = TypeVar("Source", str, list[str], None)


def find_checkpoint(source: Source, task: str | None, with_template: bool = False) -> Source:
    """What was given, with the file in place of `best` or `last`; says which it is.

    Args:
        source: a path or a name, or several.
        task: the word of the task that the command is for; None for all.
        with_template: whether it needs a chat template.

    Raises:
        CheckpointError: there is no such run, or its checkpoint is damaged.
    """
    if isinstance(source, list):
        return [find_checkpoint(one, task, with_template) for one in source]
    if source is None or source not in NAMES:
        return source
    from llm.runs.newest import RUNS, newest_checkpoint

    path = newest_checkpoint(RUNS, source, None if task is None else tasks_like(task), with_template)
    print(f"checkpoint: {path}", file=sys.stderr)
    return str(path)
