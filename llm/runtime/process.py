"""This process: its rank, its cores, and what may end it from outside.

Signals, a closed terminal, a closed pipe, a parent that has ended. Only the standard library is
imported, so that all of it can be in place before the imports that take seconds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

Handler = Callable[[int, FrameType | None], Any]

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")  # Windows has the first two
    if hasattr(signal, name)
]
"""What asks a process to end: the machine, Ctrl+C, a terminal that closes, and what SLURM sends before a time limit."""

READER_LEFT = 13
"""The number of SIGPIPE, which Python does not let come: what is written to then raises an error instead."""

_SECONDS_BETWEEN_LOOKS = 0.5


class Interrupted(BaseException):
    """A signal ended the run. Not an `Exception`, so that no handler of errors catches it.

    Args:
        message: what was saved, and how to resume.
        signal_number: the exit status is 128 plus this.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def rank() -> int:
    """The number of this process among several that train one model, by what started it; 0 for the first or only."""
    numbers = (os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((int(number) for number in numbers if number.isdigit() and number != "0"), 0)


def usable_cores() -> int:
    """How many cores this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def name_of(number: int) -> str:
    """The name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:  # not on this system
        return f"signal {number}"


def listen(handler: Handler) -> dict[int, Any]:
    """Handle every signal that asks to end, except those that whoever started this process wants ignored (`nohup`).

    Returns:
        What handled them before, for `listen_as_before`; nothing if this is not the main thread, which alone can.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {
        number: signal.signal(number, handler) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
    }


def listen_as_before(before: dict[int, Any]) -> None:
    """Undo `listen`."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def say(text: str) -> None:
    """Write a line from a signal handler, where logging is not safe; of several processes the first one speaks."""
    if rank() == 0:
        with contextlib.suppress(OSError):  # the reader is gone
            os.write(2, f"\n{text}\n".encode())


def leave_at_once(number: int, frame: FrameType | None = None) -> None:
    """Exit where there is nothing to save, without unwinding the stack, so that there is no traceback."""
    del frame
    say(f"stopped by {name_of(number)}; there was nothing to save")
    os._exit(128 + number)


class Output:
    """A standard stream which, once its reader has left, asks the run to end as a signal would, and says no more.

    Args:
        stream: standard output or error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, unless the reader has left."""
        with self._until_reader_leaves():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, unless the reader has left."""
        with self._until_reader_leaves():
            self._stream.flush()

    @contextlib.contextmanager
    def _until_reader_leaves(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # a pipe, a terminal
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            handler = signal.getsignal(signal.SIGTERM)
            if callable(handler):
                handler(READER_LEFT, None)


def prepare() -> None:
    """Let nothing from outside end this process with a traceback, or leave it behind. Call it first of all."""
    listen(leave_at_once)
    sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
    if rank() or "TORCHELASTIC_RUN_ID" in os.environ:  # the Trainer's first process started it, or torchrun did
        end_with_parent()


def end_with_parent() -> None:
    """Exit when the process that started this one ends: a collective operation may wait half an hour for a lost one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def shield_worker(number: int) -> None:
    """Let a DataLoader worker ignore a signal that is sent to all processes of a run.

    The training process finishes its step with it, and saves. The worker obeys SIGTERM only from its parent. If the
    training process ends while a batch is being transferred, the worker prints no traceback: the parent says why.
    """
    del number
    say = sys.excepthook

    def say_unless_nobody_listens(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not isinstance(error, ConnectionError | EOFError):
            say(kind, error, trace)

    sys.excepthook = say_unless_nobody_listens  # the thread that transfers tensors reports to it
    for signal_number in SIGNALS:
        if signal_number != signal.SIGTERM:
            signal.signal(signal_number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True, name="obey").start()


def _obey(parent: int) -> None:
    while (received := signal.sigwaitinfo({signal.SIGTERM})) is not None and received.si_pid != parent:
        pass
    os._exit(0)
