"""Which checkpoint is the newest of the runs in a folder. Lightning is not imported here: commands begin at once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from llm.config.tasks import INSTRUCT
from llm.errors import CheckpointError
from llm.pretrained.checkpoint import has_template, read_checkpoint, task_of

log = logging.getLogger("llm")

RUNS = "runs"
"""The folder in which every run gets a folder of its own."""

CHECKPOINTS = "checkpoints"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
LOCK = ".lock"
CONFIG = "config.yaml"
_SIGNS_OF_A_RUN = (LAST, PREVIOUS, LOCK, CONFIG)
_NAMES = {"last": (LAST, PREVIOUS), "best": (BEST,)}


class NoCheckpointError(CheckpointError):
    """There is no checkpoint to resume from yet."""


def newest_checkpoint(
    folder: str | Path, name: str = "last", tasks: Collection[str] | None = None, with_template: bool = False
) -> Path:
    """The `last` or the `best` checkpoint of the newest run that has one, in a folder and below.

    Where `last.ckpt` is damaged, it is the one before it, and a warning says so.

    Args:
        folder: of runs.
        name: `last` or `best`.
        tasks: those whose runs count. Default: all.
        with_template: whether only runs count that state a chat template.

    Raises:
        NoCheckpointError: there is none.
        CheckpointError: none of that run is whole; says what is wrong with each. Another run's is never taken for it.
    """
    return newest_with_task(folder, name, tasks, with_template)[0]


def newest_with_task(
    folder: str | Path, name: str = "last", tasks: Collection[str] | None = None, with_template: bool = False
) -> tuple[Path, str]:
    """As `newest_checkpoint`, and the word of its task; raises what that raises."""
    for run in dict.fromkeys(path.parent for path in _newest_first(folder, _NAMES[name])):
        path, checkpoint = _first_whole(run, _NAMES[name])
        task = task_of(checkpoint)
        if (tasks is None or task in tasks) and (has_template(checkpoint) or not with_template):
            return path, task
    of_tasks = "" if tasks is None else f" of the task {' or '.join(tasks)}"
    wanted = f"{of_tasks} with a chat template, as --task {INSTRUCT} has it," if with_template else of_tasks
    raise NoCheckpointError(
        f"there is no {_NAMES[name][0]}{wanted} in {str(folder)!r} and below; name a checkpoint by its file"
    )


def checkpoint_to_go_on_from(folder: str | Path) -> Path:
    """As `newest_checkpoint`, but of the newest run, whether it has a checkpoint or not.

    Raises:
        NoCheckpointError: there is no run, or the newest one was ended before its first checkpoint.
        CheckpointError: none of that run is whole.
    """
    begun, saved = _newest_first(folder, _SIGNS_OF_A_RUN), _newest_first(folder, _NAMES["last"])
    if begun:
        run = run_folder_of(begun[0])
        if not saved or run_folder_of(saved[0]) != run:
            older = f", or name a checkpoint, such as {str(saved[0])!r}" if saved else ""
            raise NoCheckpointError(
                f"the newest run, {str(run)!r}, ended before its first checkpoint; start a new run with --fresh{older}"
            )
    try:
        return newest_checkpoint(folder)
    except NoCheckpointError as error:
        raise NoCheckpointError(
            f"there is no checkpoint in {str(folder)!r} and below; start a new run with --fresh, or name one: "
            "--ckpt_path FILE"
        ) from error


def run_folder_of(path: Path) -> Path:
    """The run's folder, of a file in it or of one of its checkpoints."""
    return path.parent.parent if path.parent.name == CHECKPOINTS else path.parent


def goes_on_in(folder: Path, checkpoint: str | Path | None) -> bool:
    """Whether a run that begins with a checkpoint goes on with the run in a folder: from the last of it, not another.

    Args:
        folder: of a run, or of its checkpoints.
        checkpoint: None for a run from step 0.
    """
    if checkpoint is None:
        return False
    path = Path(checkpoint).resolve()
    if folder.resolve() not in (path.parent, run_folder_of(path)) or path.name == BEST:
        return False
    return path.name == LAST or path == newest_checkpoint(path.parent).resolve()


def _newest_first(folder: str | Path, names: Sequence[str]) -> list[Path]:
    """The files with one of these names in a folder and below, the last that was written to first."""
    found: list[tuple[int, Path]] = []
    for name in names:
        for path in Path(folder).rglob(name):
            with contextlib.suppress(OSError):  # gone meanwhile
                if path.is_file():
                    found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def _first_whole(folder: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The first of some checkpoints that is whole, and what is in it; says what is wrong with those before it."""
    wrong = [] if (folder / names[0]).is_file() else [f"there is no {str(folder / names[0])!r}"]
    for path in (folder / name for name in names):
        if not path.is_file():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            wrong.append(str(error))
            continue
        if wrong:
            log.warning("%s; resuming from the one before it: %s", "; ".join(wrong), path)
        return path, checkpoint
    raise CheckpointError(
        f"no checkpoint of the newest run is whole: {'; '.join(wrong)}. Name one of another run with --ckpt_path FILE, "
        "or omit --ckpt_path to start a new run"
    )
