"""Runs of `train.py fit` as processes of their own, which can be killed at a chosen moment.

A server imports everything once, and forks a process for each run: it starts in a second, not in ten, and is as real as
any other (its own memory, files, signals).
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
COUNTS = "counts.json"
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
"""What SLURM tells the one process of a job."""


def members(folder: Path) -> list[int]:
    """The processes of a run that was begun in a folder, its first one and all that came of it, by their numbers."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile, a zombie, or another user's
                if (process / "cwd").readlink() == folder.resolve():
                    found.append(int(process.name))
    return sorted(found)


@dataclass(frozen=True)
class Moment:
    """When a process sends a signal, to itself or to one that loads its data.

    Args:
        kind: `hook`, around the calls of Lightning's hooks; or `file`, at an operation on a file of a checkpoint.
        name: of the hook.
        number: at which of them, from 1.
        delay: seconds from there; 0 is before it, a negative number right after it (of a hook).
        sends: the signal.
        to_worker: to the first process that loads data.
    """

    kind: str
    name: str = ""
    number: int = 1
    delay: float = 0.0
    sends: int = signal.SIGKILL
    to_worker: bool = False


@dataclass
class Ended:
    """How a run ended: its exit status, negative for a signal, and what it wrote to standard error."""

    status: int
    errors: str

    @property
    def last_line(self) -> str:
        """What a user reads last."""
        return (self.errors.strip().splitlines() or [""])[-1]


class Run:
    """A run that was started.

    Args:
        folder: its working directory.
        words: what follows `train.py`.
        moment: when it is to kill itself.
        environment: variables to set.
        largest_file: bytes beyond which a file can't be written, as on a full disk.
    """

    def __init__(
        self,
        folder: Path,
        words: list[str],
        moment: Moment | None = None,
        environment: dict[str, str] | None = None,
        largest_file: int | None = None,
    ) -> None:
        self.log = folder / "stderr.txt"
        context = _server()
        arguments = (str(folder), words, moment, environment or {}, largest_file)
        self.process: ForkServerProcess = context.Process(target=_run, args=arguments)
        self.process.start()

    def wait(self, seconds: float = 120) -> Ended:
        """Wait for the end.

        Raises:
            TimeoutError: it does not come; the process is killed.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"a run did not end within {seconds} s:\n{self._errors()}")
        return Ended(self.process.exitcode, self._errors())

    def kill(self) -> Ended:
        """Kill it, if it is not over yet."""
        self.process.kill()
        self.process.join(60)
        return Ended(self.process.exitcode or 0, self._errors())

    def _errors(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


def _server() -> Any:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["llm.cli.main", __name__])
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


# In the new process


def _run(
    folder: str, words: list[str], moment: Moment | None, environment: dict[str, str], largest_file: int | None
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    tempfile.tempdir = None  # else the one of the server
    multiprocessing.set_start_method("fork", force=True)  # loader workers as in a run that nobody forked
    errors = os.open("stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    if largest_file is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    counts = _kill_at(moment)
    from llm.cli.main import main
    from llm.runtime.process import prepare

    prepare()
    status = main(words, default_config=REPOSITORY / "configs" / "default.yaml")
    if moment is None and largest_file is None:
        Path(COUNTS).write_text(json.dumps(counts))
    sys.exit(status)


def _kill_at(moment: Moment | None) -> Counter[str]:
    """Kill this process at a moment; gives what is counted, hooks by their names and operations on files as `file`."""
    from lightning.pytorch.trainer import call

    counts: Counter[str] = Counter()
    call_hooks = call._call_callback_hooks

    def count_hook(trainer: Any, hook: str, *args: Any, **kwargs: Any) -> None:
        counts[hook] += not trainer.sanity_checking
        is_now = moment is not None and (moment.kind, moment.name, moment.number) == ("hook", hook, counts[hook])
        if is_now and moment is not None and moment.delay >= 0:
            _send(moment, moment.delay)
        call_hooks(trainer, hook, *args, **kwargs)
        if is_now and moment is not None:
            _send(moment)

    def count_file(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.link", "os.remove") and ".ckpt" in str(arguments[0]):
            counts["file"] += 1
            if moment is not None and (moment.kind, moment.number) == ("file", counts["file"]):
                _send(moment, moment.delay)

    call._call_callback_hooks = count_hook  # type: ignore[assignment]
    sys.addaudithook(count_file)
    return counts


def _send(moment: Moment, delay: float = 0.0) -> None:
    if delay > 0:
        later = threading.Timer(delay, _send, (moment,))
        later.daemon = True
        later.start()
    elif not moment.to_worker:
        os.kill(os.getpid(), moment.sends)
    elif workers := multiprocessing.active_children():
        os.kill(workers[0].pid or 0, moment.sends)
