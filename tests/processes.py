"""Real runs in processes of their own, for the tests that signal, kill and resume them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench._processes import REPOSITORY

PATHS = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "lean")])
"""Where a run finds this package, and what makes it start sooner."""

WORDS = [
    "fit",
    "--data.tokenizer.kind=char",
    "--model.gpt.n_layer=1",
    "--model.gpt.n_embd=16",
    "--data.context_length=16",
    "--trainer.accelerator=cpu",
    "--trainer.val_check_interval=20",
    "--inspect.every=0",
    "--samples.every=0",
]
"""A model that makes some hundred steps a second."""


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Start `train.py` with `WORDS` and more, in a folder and a session of its own."""
    return start_command(folder, [sys.executable, str(REPOSITORY / "train.py"), *WORDS, *words], **environment)


def start_command(folder: Path, command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command; its errors are read from a pipe."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, **environment}
    return subprocess.Popen(
        command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def errors_of(process: subprocess.Popen[str], seconds: float = 60) -> str:
    """What a run and the processes that it started said; if it does not end in time, they all are ended."""
    try:
        return process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"it did not end:\n{process.communicate()[1]}") from None


def wait_until(happened: Callable[[], object], run: subprocess.Popen[str] | None, seconds: float = 120) -> None:
    """Wait for something that a run, if it still has to be there, does."""
    deadline = time.monotonic() + seconds
    while not happened():
        if run is not None and run.poll() is not None:
            raise AssertionError(f"it ended before:\n{errors_of(run)}")
        if time.monotonic() > deadline:
            if run is not None:
                os.killpg(run.pid, signal.SIGKILL)
            raise AssertionError(f"it did not happen in {seconds} s:\n{errors_of(run) if run else ''}")
        time.sleep(0.02)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> Path:
    """Wait for the first `last.ckpt` of a run."""
    wait_until(lambda: list(folder.rglob("last.ckpt")), process)
    return next(iter(folder.rglob("last.ckpt")))
