"""Processes that take turns: one steps while the others sleep, and each says how long its steps took."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


class Sleeper:
    """A process that works when it is told to, and answers with a line of JSON.

    Args:
        command: what to run.
        log: a file for what it writes to its standard error.
        environment: its variables.
    """

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("w") as errors:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment)

    def begin(self, word: str) -> None:
        """Send it a word, and do not wait."""
        assert self.process.stdin is not None
        if self.process.poll() is None:
            print(word, file=self.process.stdin, flush=True)

    def answer(self, word: str | None = None) -> dict[str, float]:
        """Send it a word, if any, and wait for its line."""
        assert self.process.stdout is not None
        if word is not None:
            self.begin(word)
        line = self.process.stdout.readline()
        if not line:
            last = "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-20:])
            sys.exit(f"{last}error: {' '.join(map(str, self.process.args))} ended")  # type: ignore[arg-type]
        return dict(json.loads(line))

    def end(self) -> None:
        """End it: it never ends by itself."""
        self.process.kill()
        self.process.wait()


class Stopwatch:
    """Called after every step; waits for its turn whenever one is over.

    Args:
        warmup: steps before the first answer.
        steps: of every turn.
    """

    def __init__(self, warmup: int, steps: int) -> None:
        import torch

        self.cuda = torch.cuda if torch.cuda.is_available() else None
        self.left, self.steps = warmup, steps
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.pipe, sys.stdout = sys.stdout, sys.stderr  # what others print is no answer
        self.before = self._now()

    def follow_optimizers(self) -> None:
        """Call this after the step of any optimizer of torch, whoever owns it."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(lambda *_: self())

    def __call__(self) -> None:
        """Note the step; after the last of a turn, say how long they took and wait."""
        now = self._now()
        self.wall.append(now[0] - self.before[0])
        self.cpu.append(now[1] - self.before[1])
        self.left -= 1
        if self.left == 0:
            wall, cpu = statistics.median(self.wall), statistics.fmean(self.cpu)
            mean = statistics.fmean(self.wall)
            answer = {"ms": wall * 1e3, "mean_ms": mean * 1e3, "cpu_ms": cpu * 1e3, "peak_mb": self._peak()}
            print(json.dumps(answer), file=self.pipe, flush=True)
            if not sys.stdin.readline():
                sys.exit("the parent has ended")
            self.left, self.wall, self.cpu = self.steps, [], []
        self.before = self._now()

    def _now(self) -> tuple[float, float]:
        """The wall's clock and the processor's, once the device has finished."""
        if self.cuda:
            self.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def _peak(self) -> float:
        """MB: of the GPU's memory what tensors took at most, else the most that the process was resident."""
        if self.cuda:
            peak = self.cuda.max_memory_allocated() / 1e6
            self.cuda.empty_cache()  # the others want it while this one sleeps
            return peak
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return resident * (1 if sys.platform == "darwin" else 1024) / 1e6  # kB of 1,024 bytes, on macOS bytes
