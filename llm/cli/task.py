"""Which task a command line is about: found before there is a parser, since the options are the task's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm.cli.parsing import suggestion
from llm.cli.words import TASK, settings_of_files, take, value_in_files
from llm.config.tasks import LANGUAGE
from llm.errors import CheckpointError, ConfigError
from llm.pretrained.checkpoint import task_in, task_of
from llm.runs.newest import RUNS, newest_with_task
from llm.tasks import TASKS
from llm.tasks.base import TaskModule

_USES_A_CHECKPOINT = ("validate", "test", "predict")


def choose_task(words: Sequence[str]) -> str:
    """The word of the task: of `--task`, else of the YAML files, else of the checkpoint, else the default.

    Args:
        words: of the command line, the command first.

    Raises:
        ConfigError: there is no such task.
        CheckpointError: the checkpoint can't be read.
    """
    files = settings_of_files(words).values()
    flags, _ = take(words, (TASK,))
    word = flags[-1][1] if flags else value_in_files(files, "task")
    if word is not None:
        if word not in list(TASKS):  # a list: what YAML holds may have no hash
            near = suggestion(str(word), TASKS)
            raise ConfigError(f"there is no task {str(word)!r}{near}; there is {', '.join(TASKS)}")
        return str(word)
    if words[:1] and words[0] in _USES_A_CHECKPOINT:
        word = _task_of_checkpoint(words, files)
    return LANGUAGE if word is None else word


def _task_of_checkpoint(words: Sequence[str], files: Iterable[dict[str, Any]]) -> str | None:
    """That of the checkpoint that the words name, as `llm.runs.choosing` will choose it; None if they name none."""

    def value(*names: str) -> str | None:
        flags, _ = take(words, [f"--{name}" for name in names])
        found = [*(value_in_files(files, name) for name in names), *(value for _, value in flags)]
        return next(filter(None, reversed(found)), None)

    path = value("ckpt_path")
    if path is None or path == "null":
        return None
    if path not in ("last", "best"):
        return _known(task_in(path), path)
    folder = value("checkpoint.folder") or value("trainer.default_root_dir")
    folder = folder or value("trainer.logger.init_args.save_dir", "trainer.logger.save_dir")
    newest, word = newest_with_task(folder or RUNS, path)
    return _known(word, newest)


def _known(word: str, path: str | Path) -> str:
    if word not in TASKS:
        raise CheckpointError(f"{str(path)!r} holds the task {word[:80]!r}; there is {', '.join(TASKS)}")
    return word


def refuse_other_task(checkpoint: dict[str, Any], path: str | Path, word: str) -> None:
    """Hold a checkpoint to the task of the command line.

    Raises:
        CheckpointError: it holds another.
    """
    if (theirs := _known(task_of(checkpoint), path)) != word:
        raise CheckpointError(f"{str(path)!r} holds the task {theirs!r}, not {word!r}: give --task {theirs}")


def refuse_without_predictions(word: str) -> None:
    """Hold `predict` to the tasks that define it.

    Raises:
        ConfigError: this one does not.
    """
    task = TASKS[word]
    module = task.module_class()
    if issubclass(module, TaskModule) and module.predict_step is TaskModule.predict_step:
        instead = f": use python -m llm {task.usage[0]}" if task.usage else ""
        raise ConfigError(f"predict does nothing with the task {word}{instead}")
