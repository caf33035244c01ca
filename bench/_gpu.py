"""What the parts of `bench.gpu` share: where results go, the time that is left, and short ways to measure."""

from __future__ import annotations

import contextlib
import gc
import io
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llm import GPT, GPTConfig

LAST_LINES = 6
"""Of a traceback, how many are kept."""


@dataclass
class Lab:
    """One part's surroundings.

    Args:
        device: `cuda` or `cpu`.
        tiny: sizes that only show that the part runs.
        corpus: a text to train on; None for the story of the repository.
        batches: for the step, the largest that fits counts.
        folder: for files that may go afterwards.
        deadline: of `time.time`, infinite if there is none.
        save: writes all results down.
        results: the part's own.
        failed: what of the part went wrong.
    """

    device: str
    tiny: bool
    corpus: str | None
    batches: list[int]
    folder: Path
    deadline: float
    save: Callable[[], None]
    results: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @property
    def gpt(self) -> GPTConfig:
        """GPT-2 124M; when tiny, one block with its vocabulary."""
        if self.tiny:
            return GPTConfig(50257, 32, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
        return GPTConfig.gpt2("124m", dropout=0.0)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def note(self, name: str, value: Any) -> Any:
        """Keep a result, write all down, and say it in a line."""
        self.results[name] = value
        self.save()
        say(f"  {name}: {in_words(value)}")
        return value

    def attempt(self, name: str, seconds: float, function: Callable[[], Any]) -> Any:
        """Note what a function gives, or how it failed, or that there was no time; None unless it went well.

        Args:
            name: of the result.
            seconds: what it takes on a GPU.
            function: called without arguments.
        """
        if not self.tiny and self.left < seconds:
            self.note(name, {"left_out": f"takes {seconds:.0f} s, {self.left:.0f} s are left"})
            return None
        try:
            return self.note(name, function())
        except (Exception, SystemExit) as error:
            self.failed.append(name)
            self.note(name, {"error": last_lines(error)})
            return None
        finally:
            self.free()

    def free(self) -> None:
        """Free unreferenced memory, compiled code included."""
        torch.compiler.reset()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def finish(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_mb(self) -> float | None:
        """The most that tensors took since `forget_peak`, on a GPU."""
        return torch.cuda.max_memory_allocated() / 1e6 if self.device == "cuda" else None

    def forget_peak(self) -> None:
        """Count the peak of memory from here."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def timed(self, step: Callable[[], object], warmup: int = 3, steps: int = 10) -> dict[str, float | None]:
        """Milliseconds of a call, over several that nothing waits between; the first call's seconds; the peak."""
        self.forget_peak()
        start = time.perf_counter()
        step()
        self.finish()
        first = time.perf_counter() - start
        for _ in range(0 if self.tiny else warmup):
            step()
        self.finish()
        steps = 2 if self.tiny else steps
        start = time.perf_counter()
        for _ in range(steps):
            step()
        self.finish()
        ms = (time.perf_counter() - start) / steps * 1e3
        return {"ms": ms, "first_call_seconds": first, "peak_mb": self.peak_mb()}


def say(line: str) -> None:
    print(line, flush=True)


def in_words(value: Any) -> str:
    """A result in a line; lists of tables only by their length."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {in_words(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return value[-1][:200]
    if isinstance(value, list):
        return f"({len(value)} rows)"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)[:200]


def last_lines(error: BaseException) -> list[str]:
    """The end of a traceback."""
    return "".join(traceback.format_exception(error)).strip().splitlines()[-LAST_LINES:]


def n_parameters(config: GPTConfig) -> int:
    with torch.device("meta"):
        return GPT(config).n_parameters


def train(*words: str) -> tuple[int, str]:
    """`train.py fit` in this process; gives its exit status and what it said."""
    from llm.cli.main import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = main(["fit", *words])
    return status, said.getvalue()


def last_line(said: str) -> str:
    return (said.strip().splitlines() or [""])[-1]
