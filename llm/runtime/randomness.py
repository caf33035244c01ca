"""Random numbers of a run: dropout is seeded from (seed, batch, process), so that a resumed run repeats it."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch


def run_seed() -> int:
    """The seed that Lightning's `seed_everything` has left for all processes of a run; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def seed_batch(position: int, rank: int, device: torch.device) -> None:
    """Seed the random number generators for one training batch.

    Args:
        position: how many batches of the run came before it.
        rank: of this process; each has its own random numbers.
        device: of the model.
    """
    seed = (run_seed() * 1_000_003 + position) * 4096 + rank
    torch.default_generator.manual_seed(seed)  # torch.manual_seed checks for every kind of device each time
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


@contextlib.contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Restore the states of all random number generators on exit."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
