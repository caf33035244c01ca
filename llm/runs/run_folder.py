"""The folder of a run: that no other run is overwritten, that it can be written to, and that it is locked."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from llm.errors import ConfigError
from llm.runs.checkpointing import best_and_last
from llm.runs.loggers import MetricsFile, folder_of
from llm.runs.newest import BEST, CHECKPOINTS, CONFIG, LAST, LOCK, PREVIOUS, goes_on_in, run_folder_of
from llm.runtime.files import make_folder, remove_stale

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


def refuse_to_overwrite(
    folders: Iterable[Path],
    checkpoint: str | Path | None = None,
    fresh: bool = False,
    chosen: str | Path | None = None,
) -> None:
    """Hold a run to folders that are empty, or those of the run that it goes on with.

    Args:
        folders: that the run is about to write to.
        checkpoint: that it begins with; None for step 0.
        fresh: what was ended before its first checkpoint may be begun again.
        chosen: the one of the folders that `checkpoint.folder` sets, which no name of the run changes.

    Raises:
        ConfigError: a folder holds another run.
    """
    for folder in folders:
        kept = [name for name in (BEST, LAST, PREVIOUS, CONFIG) if (folder / name).exists()]
        if not kept or goes_on_in(folder, checkpoint):
            continue
        beside = checkpoint is not None and folder.name == run_folder_of(Path(checkpoint).resolve()).name
        if kept == [CONFIG] and (fresh or beside):  # `beside`: the folder of another logger of the same run
            continue
        is_chosen = chosen is not None and folder == Path(chosen)
        other = "another folder (--checkpoint.folder)" if is_chosen else "a name of its own (--name NAME)"
        raise ConfigError(
            f"{str(folder)!r} holds a run already ({', '.join(kept)}), which this one would overwrite: go on with that "
            f"run (--ckpt_path last), or give this one {other}"
        )


def folders_of(trainer: L.Trainer) -> list[Path]:
    """Where a run writes to: the loggers' folders and that of the checkpoints."""
    folders = [Path(path) for logger in trainer.loggers if (path := getattr(logger, "log_dir", None))]
    if checkpoint := best_and_last(trainer):
        run = folders[0] if folders else Path(trainer.default_root_dir)
        folders.append(Path(checkpoint.folder or run / CHECKPOINTS))
    return folders


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

    What earlier runs left half-written in them is removed; so is, in the folders of the runs beside this one, what
    processes of this machine left that have ended: a run that was killed in its first checkpoint begins again in
    another folder. A folder that was made for this and stays empty is removed in the end.

    Raises:
        ConfigError: a folder can't be written to, or another run holds it.
    """
    with contextlib.ExitStack() as stack:
        for folder in dict.fromkeys(folders):
            stack.enter_context(_locked(folder))
            if folder.name == CHECKPOINTS:
                for other in folder.parent.parent.glob(f"*/{CHECKPOINTS}"):
                    remove_stale(other)
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / LOCK
    try:
        with _held_lock(folder, lock):
            remove_stale(folder, held=True)
            yield
    finally:
        with contextlib.suppress(OSError):
            if made and [path.name for path in folder.iterdir()] == [LOCK]:
                lock.unlink()
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _held_lock(folder: Path, lock: Path) -> Iterator[None]:
    try:
        make_folder(folder)
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
