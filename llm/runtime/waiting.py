"""How OpenMP threads wait for each other: they spin while cores are free, and sleep when the cores are oversubscribed.

A thread that spins begins its next piece of work at once, and holds a core meanwhile. Alone, that makes a small model
half as fast again as threads that sleep; where another program wants the core, such as a second run, the threads wait
for one that has none, and both runs become several times as slow (`python -m bench.crowded`).

The spin count is read once, when libgomp is loaded, which torch's wheels for Linux bring along. But while OpenMP has
more threads than there are processors, it is 100 instead of 300,000 (GOMP_SPINCOUNT in libgomp's manual). So a thread
with an idle team of its own lets all others sleep after a short spin, and its end lets them spin again. The number of
threads that compute stays, and with it every bit of a result.

Only the standard library is imported: this is in place before torch.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import signal
import sys
import threading
import time
from pathlib import Path

from llm.runtime.process import usable_cores

SECONDS_BETWEEN_LOOKS = 0.5
CROWDED = 0.35
"""The fraction of time that threads were runnable without a core, summed over them, above which they should sleep.

On two cores, beside a program that is busy half of the time it is 0.28, and spinning as fast as sleeping; beside one
that always is, 0.4 to 0.8, and beside another run 1.
"""
STILL_CROWDED = 0.15
"""The same, below which threads that sleep should spin again: beside a program that is busy a third of the time it is
0.12, half of the time 0.19, and beside one that always is, or another run, 0.24."""
MOST_IDLE_THREADS = 64
"""More are not started: a program that may have no more threads is ended by libgomp."""
_CALM_LOOKS = 2
_NS_TO_WAKE_UP = 10_000
"""Wake-up latency, of each time that a thread is scheduled; it is there without contention, too."""
_THREADS = Path("/proc/self/task")

Waits = dict[str, int]
"""Nanoseconds that each thread was runnable without a core since it began, by thread id."""

_is_watching = threading.Lock()
_switching = threading.Lock()
"""Held while idle teams begin or end, and for good once the process ends: no thread may be within torch then."""


def watch() -> bool:
    """Start to watch whether threads wait for cores, and let them sleep after a short spin where they do.

    Returns:
        Whether this system tells (Linux does). A second call begins nothing.
    """
    if not waits_for_cores():
        return False
    if _is_watching.acquire(blocking=False):
        cores = usable_cores()
        atexit.register(_switching.acquire, timeout=1)
        thread = threading.Thread(target=_watch, args=(cores,), daemon=True, name="watch-cores")
        # A signal goes to any thread that lets it, and who handles it has decided which one does. Threads inherit this.
        crashes = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - crashes)
        thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return True


def waits_for_cores() -> Waits:
    """How long each thread of this process was runnable without a core, less wake-up latency; empty if unknown."""
    waits: Waits = {}
    try:
        for thread in _THREADS.iterdir():
            try:
                _, wait, n_slices = (thread / "schedstat").read_bytes().split()  # the first: nanoseconds on a core
                waits[thread.name] = int(wait) - _NS_TO_WAKE_UP * int(n_slices)
            except (OSError, ValueError):  # it has ended meanwhile, or the kernel does not count
                continue
    except OSError:
        return {}
    return waits


def seconds_between(before: Waits, after: Waits) -> float:
    """How long the threads that are in both waited from one to the other, all together."""
    return sum(max(0, after[thread] - before[thread]) for thread in before.keys() & after.keys()) / 1e9


class Crowd:
    """Whether the cores are oversubscribed, with hysteresis."""

    def __init__(self) -> None:
        self.is_there = False
        self._calm_looks = 0

    def look(self, fraction: float) -> bool:
        """Note the fraction of time without a core, summed over threads, since the last look; gives `is_there`."""
        if not self.is_there:
            self.is_there, self._calm_looks = fraction > CROWDED, 0
        else:
            self._calm_looks = self._calm_looks + 1 if fraction < STILL_CROWDED else 0
            self.is_there = self._calm_looks < _CALM_LOOKS
        return self.is_there


class ShortWaits:
    """Lets the threads of this process sleep after a short spin where they wait for each other, while it is on.

    The number of threads that compute does not change.

    Args:
        cores: that libgomp has found.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.are_on = False
        self._idle: list[threading.Thread] = []
        self._over = threading.Event()

    def switch(self, on: bool) -> None:
        """Begin or end as many idle teams as it takes to have more threads than processors.

        None begin where one thread computes, or where they would have more than `MOST_IDLE_THREADS`.
        """
        if on == self.are_on:
            return
        with _switching:
            self.are_on = on
            try:
                if on:
                    self._begin()
                else:
                    self._end()
            except RuntimeError:  # no more threads can be had
                self._end()

    def _begin(self) -> None:
        self._over = threading.Event()
        team = self._begin_one()
        n_teams = 0 if team == 1 else max(0, self.cores - team) // (team - 1) + 1  # each adds `team - 1` threads
        if not 0 < n_teams * team <= MOST_IDLE_THREADS:
            self._end()
            return
        for _ in range(n_teams - 1):
            self._begin_one()

    def _begin_one(self) -> int:
        sizes: queue.SimpleQueue[int] = queue.SimpleQueue()
        thread = threading.Thread(target=_idle, args=(sizes, self._over), daemon=True, name="short-waits")
        thread.start()
        self._idle.append(thread)
        return sizes.get()

    def _end(self) -> None:
        self._over.set()
        for thread in self._idle:
            thread.join()
        self._idle.clear()


def _idle(sizes: queue.SimpleQueue[int], over: threading.Event) -> None:
    """Have a team, say how large, and wait."""
    team = 1
    with contextlib.suppress(Exception):  # torch is not whole, or there is no memory
        import torch

        threads = torch.get_num_threads()  # a thread is told once: one that asked before would not see a new number
        torch.ones(threads << 15, dtype=torch.float32, device="cpu")  # each of a team takes 32,768 numbers at least
        team = threads
    sizes.put(team)
    over.wait()


def _watch(cores: int) -> None:
    crowd, short = Crowd(), ShortWaits(cores)
    before, then = waits_for_cores(), time.monotonic()
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        waits, now = waits_for_cores(), time.monotonic()
        is_there = crowd.look(seconds_between(before, waits) / (now - then))
        before, then = waits, now
        if "torch" in sys.modules:
            short.switch(is_there)
