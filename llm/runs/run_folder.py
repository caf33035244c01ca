"""The folder of a run: which checkpoint in it to resume from, that it can be written to, and that it is locked."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from llm.errors import CheckpointError, ConfigError
from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.loggers import MetricsFile, folder_of
from llm.runtime.files import remove_stale

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("llm")

CHECKPOINTS = "checkpoints"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
_LOCK = ".lock"
_CONFIG = "config.yaml"
_SIGNS_OF_A_RUN = (LAST, PREVIOUS, _LOCK, _CONFIG)
_NAMES = {"last": (LAST, PREVIOUS), "best": (BEST,)}


class NoCheckpointError(CheckpointError):
    """There is no checkpoint to resume from yet."""


def newest_checkpoint(folder: str | Path, name: str = "last") -> Path:
    """The `last` or the `best` checkpoint of the newest run that has one, in a folder and below.

    Where `last.ckpt` is damaged, it is the one before it, and a warning says so.

    Raises:
        NoCheckpointError: there is none.
        CheckpointError: none of that run is whole; says what is wrong with each. Another run's is never taken for it.
    """
    found = _newest(folder, _NAMES[name])
    if found is None:
        raise NoCheckpointError(
            f"there is no {_NAMES[name][0]} in {str(folder)!r} and below; name a checkpoint: --ckpt_path FILE"
        )
    return _first_whole(found.parent, _NAMES[name])


def checkpoint_to_go_on_from(folder: str | Path) -> Path:
    """As `newest_checkpoint`, but of the newest run, whether it has a checkpoint or not.

    Raises:
        NoCheckpointError: there is no run, or the newest one was ended before its first checkpoint.
        CheckpointError: none of that run is whole.
    """
    begun, saved = _newest(folder, _SIGNS_OF_A_RUN), _newest(folder, _NAMES["last"])
    if begun is not None:
        run = run_folder_of(begun)
        if saved is None or run_folder_of(saved) != run:
            older = "" if saved is None else f", or name a checkpoint, such as {str(saved)!r}"
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


def refuse_to_overwrite(folders: Iterable[Path], checkpoint: str | Path | None = None, fresh: bool = False) -> None:
    """Hold a run to folders that are empty, or those of the run that it goes on with.

    Args:
        folders: that the run is about to write to.
        checkpoint: that it begins with; None for step 0.
        fresh: what was ended before its first checkpoint may be begun again.

    Raises:
        ConfigError: a folder holds another run.
    """
    for folder in folders:
        kept = [name for name in (BEST, LAST, PREVIOUS, _CONFIG) if (folder / name).exists()]
        if not kept or goes_on_in(folder, checkpoint):
            continue
        beside = checkpoint is not None and folder.name == run_folder_of(Path(checkpoint).resolve()).name
        if kept == [_CONFIG] and (fresh or beside):  # `beside`: the folder of another logger of the same run
            continue
        raise ConfigError(
            f"{str(folder)!r} holds a run already ({', '.join(kept)}), which this one would overwrite: go on with that "
            "run (--ckpt_path last), or give this one a name of its own (--name NAME)"
        )


def _newest(folder: str | Path, names: Sequence[str]) -> Path | None:
    """The file with one of these names that was last written to, in a folder and below."""
    found: list[tuple[int, Path]] = []
    for name in names:
        for path in Path(folder).rglob(name):
            with contextlib.suppress(OSError):  # gone meanwhile
                if path.is_file():
                    found.append((path.stat().st_mtime_ns, path))
    return max(found, default=(0, None))[1]


def _first_whole(folder: Path, names: Sequence[str]) -> Path:
    """The first of some checkpoints that is whole; says what is wrong with those before it."""
    wrong = [] if (folder / names[0]).is_file() else [f"there is no {str(folder / names[0])!r}"]
    for path in (folder / name for name in names):
        if not path.is_file():
            continue
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            wrong.append(str(error))
            continue
        if wrong:
            log.warning("%s; resuming from the one before it: %s", "; ".join(wrong), path)
        return path
    raise CheckpointError(
        f"no checkpoint of the newest run is whole: {'; '.join(wrong)}. Name one of another run with --ckpt_path FILE, "
        "or omit --ckpt_path to start a new run"
    )


def experiments_of(trainer: L.Trainer) -> list[Any]:
    """What a run's TensorBoard loggers write with; in other processes than the first it writes nothing."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def goes_on_in_its_folder(trainer: L.Trainer) -> bool:
    """Whether a run was resumed and writes to the same folder as before."""
    folder = folder_of(trainer)
    if trainer.ckpt_path is None or folder is None:
        return False
    return folder.resolve() == run_folder_of(Path(trainer.ckpt_path).resolve())


class OneCurve(L.Callback):
    """Lets TensorBoard and CSV forget what a run logged after the checkpoint from which it goes on, and logs again.

    For TensorBoard as `purge_step` of `SummaryWriter`, but only once it is certain that the run does go on.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say at which step the events that follow begin."""
        del pl_module
        if not trainer.is_global_zero or not goes_on_in_its_folder(trainer):
            return
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.forget_after(trainer.global_step)
        step = trainer.global_step + 1
        for experiment in experiments_of(trainer):
            writer = experiment._get_file_writer()
            writer.add_event(Event(step=step, file_version="brain.Event:2"))
            writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))


@contextlib.contextmanager
def locked(folders: Iterable[Path]) -> Iterator[None]:
    """Make sure that the folders exist and can be written to, and lock them meanwhile.

    What earlier runs left half-written in them is removed. A folder that was made for this and stays empty is removed
    in the end.

    Raises:
        ConfigError: a folder can't be written to, or another run holds it.
    """
    with contextlib.ExitStack() as stack:
        for folder in dict.fromkeys(folders):
            stack.enter_context(_locked(folder))
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / _LOCK
    try:
        with _held_lock(folder, lock):
            remove_stale(folder, held=True)
            yield
    finally:
        with contextlib.suppress(OSError):
            if made and [path.name for path in folder.iterdir()] == [_LOCK]:
                lock.unlink()
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _held_lock(folder: Path, lock: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with file:  # closing it gives the lock back, and so does the end of the process, however it comes
        if not _is_mine(file):
            file.seek(0)
            raise ConfigError(
                f"{str(folder)!r} is the folder of a run that has not ended, {file.read().strip()}; wait for it, or "
                "give this run a folder of its own"
            )
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield


def _is_mine(file: IO[str]) -> bool:
    """Lock a file, if it is not locked. The lock is this process's alone: processes that it forks don't hold it."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"can't write to {str(folder)!r}, where this run is to be kept: {error.strerror}; make room or choose another "
        "folder with --trainer.default_root_dir FOLDER"
    )
