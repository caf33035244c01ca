"""Random numbers of a run: dropout is seeded from (seed, batch, process), so that a resumed run repeats it."""

from __future__ import annotations

import os

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
