"""How the threads of a computation wait for each other: in a loop while cores are free, asleep where others want them.

A thread that waits in a loop begins its next piece of work at once, and holds a core meanwhile. Alone, that makes a
small model half as fast again as threads that sleep; where another program wants the core, such as a second run, the
threads wait for one that has none, and both runs become several times as slow (`python -m bench.crowded`).

How long they loop is read once, when libgomp is loaded. But while OpenMP has more threads than there are processors,
it is 100 rounds instead of 300,000 (GOMP_SPINCOUNT in libgomp's manual). So a thread with a team of its own, which then
does nothing, lets all others fall asleep soon, and its end lets them loop again. The team of the computation stays as
it is, and with it every bit of a result.

Only the standard library is imported: this is in place before torch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.5
CROWDED = 0.35
"""Of each second, how much threads were ready and had no core, all together, from which on they should sleep soon.

Beside a program that is busy half of the time it is 0.28, and looping as fast as sleeping; beside one that always is,
0.4 to 0.8, and beside another run 1.
"""
STILL_CROWDED = 0.25
"""The same for threads that sleep soon: beside a program that is busy a third of the time it is 0.24, half of the time
0.3, and beside one that always is, or another run, 0.4."""
_CALM_LOOKS = 2
_THREADS = Path("/proc/self/task")

_watching = threading.Lock()


def watch() -> bool:
    """Begin to look whether threads wait for cores, and let them sleep soon where they do.

    Returns:
        Whether this system tells (Linux does). A second call begins nothing.
    """
    if seconds_without_core() is None:
        return False
    if _watching.acquire(blocking=False):
        threading.Thread(target=_watch, daemon=True, name="watch-cores").start()
    return True


def seconds_without_core() -> float | None:
    """How long the threads of this process were ready and had no core, all together; None where nothing tells."""
    waits = []
    try:
        for thread in _THREADS.iterdir():
            try:
                _, wait, _ = (thread / "schedstat").read_bytes().split()  # ns on a core, ready without one; time slices
                waits.append(int(wait))
            except (OSError, ValueError):  # it has ended meanwhile, or the kernel does not count
                continue
    except OSError:
        return None
    return sum(waits) / 1e9 if waits else None


class Crowd:
    """Whether others want the cores, by what each look has found."""

    def __init__(self) -> None:
        self.is_there = False
        self._calm_looks = 0

    def look(self, share: float) -> bool:
        """Note of how much of each second threads had no core since the last look; gives `is_there`."""
        if not self.is_there:
            self.is_there, self._calm_looks = share > CROWDED, 0
        else:
            self._calm_looks = self._calm_looks + 1 if share < STILL_CROWDED else 0
            self.is_there = self._calm_looks < _CALM_LOOKS
        return self.is_there


class ShortWaits:
    """Lets the threads of this process sleep soon where they wait for each other, from `begin` to `end`.

    The number of threads that compute does not change.
    """

    def __init__(self) -> None:
        self._idle: list[threading.Thread] = []
        self._over = threading.Event()

    @property
    def are_on(self) -> bool:
        """Whether there are idle teams."""
        return bool(self._idle)

    def begin(self) -> None:
        """Start as many idle teams as it takes to have more threads than processors; none where one thread computes."""
        import torch

        team, processors = torch.get_num_threads(), len(os.sched_getaffinity(0))
        if team == 1:
            return
        self._over = threading.Event()
        for _ in range(max(0, processors - team) // (team - 1) + 1):  # each has `team - 1` threads besides its own
            ready = threading.Event()
            thread = threading.Thread(target=_idle, args=(team, ready, self._over), daemon=True, name="short-waits")
            thread.start()
            ready.wait()
            self._idle.append(thread)

    def end(self) -> None:
        """Let them wait in a loop again."""
        self._over.set()
        for thread in self._idle:
            thread.join()
        self._idle.clear()


def _idle(team: int, ready: threading.Event, over: threading.Event) -> None:
    import torch

    _leave_signals_to_others()
    torch.ones(team << 15, dtype=torch.float32, device="cpu")  # each thread of a team takes 32,768 numbers at least
    ready.set()
    over.wait()


def _watch() -> None:
    _leave_signals_to_others()
    crowd, short = Crowd(), ShortWaits()
    before, then = seconds_without_core() or 0.0, time.monotonic()
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        waited, now = seconds_without_core() or 0.0, time.monotonic()
        share = (waited - before) / (now - then)  # below 0 where a thread has ended, which is not counted any more
        before, then = waited, now
        if "torch" not in sys.modules:
            continue
        if crowd.look(share) and not short.are_on:
            short.begin()
        elif short.are_on and not crowd.is_there:
            short.end()


def _leave_signals_to_others() -> None:
    """A signal to the process goes to any thread that lets it, and who handles it has decided which one does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
