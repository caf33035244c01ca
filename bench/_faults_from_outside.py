"""Faults that come from outside a run's process: signals, the loss of one that loads data, the loss of a rank."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

from bench._processes import REPOSITORY, SLURM, Ended, Moment, Run, members
from bench.faults import FIT, GO_ON, VARIANTS, Lost, Result, fault, moments, prepare, result_of, uninterrupted

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
STARTING = ("setup", "on_fit_start", "on_train_start")
SECONDS_TO_END = 60.0


def stopped(ended: Ended, number: int) -> None:
    """Hold a run to have ended as a shell expects of a signal, or to have been at its end."""
    if ended.status not in (0, 128 + number) or "Traceback" in ended.errors:
        raise Lost(f"{signal.Signals(number).name}: it ended with {ended.status}: {ended.last_line}")


def go_on(folder: Path, variant: str, environment: dict[str, str] | None = None) -> None:
    """Hold a run to what it would have been."""
    ended = Run(folder, [*FIT, *VARIANTS[variant], *GO_ON], environment=environment).wait()
    if ended.status != 0:
        raise Lost(f"{variant}: it does not go on: {ended.last_line}")
    if left := [path.name for path in folder.rglob("*.tmp")]:
        raise Lost(f"{variant}: {left} was left")
    if difference := result_of(folder).difference(uninterrupted(variant)[0]):
        raise Lost(f"{variant}: {difference}")


@fault("SIGTERM, SIGINT, SIGHUP or SIGUSR1 in training, validation or a save", 16)
def _signal(folder: Path, rng: random.Random) -> str:
    variant, number = rng.choice(list(VARIANTS)), rng.choice(STOPPING)
    _, counts = uninterrupted(variant)
    moment = replace(next(moments(rng.choice(["save", "edge"]), counts, rng)), sends=number)
    stopped(Run(prepare(folder), [*FIT, *VARIANTS[variant], *GO_ON], moment).wait(), number)
    go_on(folder, variant)
    return f"{signal.Signals(number).name} at {moment}"


@fault("SIGTERM or SIGINT before the first step", 4)
def _signal_at_start(folder: Path, rng: random.Random) -> str:
    number = rng.choice(STOPPING[:2])
    moment = Moment("hook", rng.choice(STARTING), sends=number)
    ended = Run(prepare(folder), [*FIT, *VARIANTS["max_steps"], *GO_ON], moment).wait()
    stopped(ended, number)
    if ended.status == 0 or list(folder.rglob("*.ckpt")) or "nothing to save" not in ended.last_line:
        raise Lost(f"it ended with {ended.status}: {ended.last_line}")
    go_on(folder, "max_steps")
    return "nothing to save"


@fault("SLURM's warning before the time limit", 2)
def _slurm(folder: Path, rng: random.Random) -> str:
    prepare(folder / "bin")
    scontrol = folder / "bin" / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/asked'\n")
    scontrol.chmod(0o755)
    environment = {**SLURM, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    moment = Moment("hook", "on_train_batch_start", rng.randint(2, 30), sends=signal.SIGUSR1)
    ended = Run(prepare(folder), [*FIT, *VARIANTS["max_steps"], *GO_ON], moment, environment).wait()
    stopped(ended, signal.SIGUSR1)
    if not (folder / "asked").is_file() or (folder / "asked").read_text() != "requeue 4711\n":
        raise Lost(f"the job is not in the queue again: {ended.last_line}")
    go_on(folder, "max_steps", environment)
    return "in the queue again"


@fault("process that loads data killed", 4)
def _worker(folder: Path, rng: random.Random) -> str:
    moment = Moment("hook", "on_train_batch_end", rng.randint(2, 25), to_worker=True)
    run = Run(prepare(folder), [*FIT, *VARIANTS["2 workers"], *GO_ON], moment)
    ended = run.wait()
    if ended.status != 1 or not ended.last_line.startswith("error: the process ") or "Traceback" in ended.errors:
        raise Lost(f"it ended with {ended.status}: {ended.last_line}")
    nobody_left(folder)
    go_on(folder, "2 workers")
    return "named"


def nobody_left(folder: Path) -> None:
    """Hold a run to have left no process behind."""
    deadline = time.monotonic() + SECONDS_TO_END
    while left := members(folder):
        if time.monotonic() > deadline:
            raise Lost(f"the processes {left} were left behind")
        time.sleep(0.1)


TWO = [*FIT, "--trainer.max_steps=151", "--trainer.devices=2", "--trainer.strategy=ddp"]


def start_two(folder: Path) -> subprocess.Popen[str]:
    """Start a run of two processes."""
    command = [sys.executable, str(REPOSITORY / "train.py"), *TWO, *GO_ON]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=prepare(folder), env=variables, stderr=subprocess.PIPE, text=True)


@cache
def uninterrupted_by_two() -> Result:
    """What a run of two processes leaves."""
    with tempfile.TemporaryDirectory() as name:
        run = start_two(Path(name))
        _, errors = run.communicate(timeout=300)
        if run.returncode != 0:
            raise RuntimeError(f"the run without a fault fails:\n{errors}")
        return result_of(Path(name))


@fault("one of two processes ended with SIGKILL or SIGTERM", 4)
def _rank(folder: Path, rng: random.Random) -> str:
    rank, number = rng.choice([(0, 9), (1, 9), (0, 15), (1, 15)])
    expected = uninterrupted_by_two()
    run = start_two(folder)
    while run.poll() is None and not list(folder.rglob("last.ckpt")):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 1))
    began = time.monotonic()
    with contextlib.suppress(IndexError, ProcessLookupError):  # it was over before
        os.kill(members(folder)[rank], number)
    try:
        _, errors = run.communicate(timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        run.kill()
        raise Lost(f"it did not end within {SECONDS_TO_END} s") from None
    nobody_left(folder)
    seconds = time.monotonic() - began
    if "Traceback" in errors:
        raise Lost(f"rank {rank}, signal {number}: {errors}")
    run = start_two(folder)
    _, errors = run.communicate(timeout=300)
    if run.returncode != 0:
        raise Lost(f"rank {rank}, signal {number}: it does not go on: {errors}")
    if difference := result_of(folder).difference(expected):
        raise Lost(f"rank {rank}, signal {number}: {difference}")
    shutil.rmtree(folder)
    return f"ended in {seconds:.0f} s"
