"""What torch and its threads read from the environment when they are loaded; a user's own settings stay."""

from __future__ import annotations

from collections.abc import MutableMapping

SPIN_COUNT = "2000"
"""Rounds that a thread of OpenMP waits in a loop for its next piece of work before it sleeps; libgomp's are 300,000.

Those hold a core that another process needs: two runs at once then take far longer than one after the other
(`python -m bench.crowded`). Far fewer, and every short piece of work begins with waking a thread up.
"""


def prepare(environment: MutableMapping[str, str]) -> None:
    """Set what makes a run faster, alone and beside others, unless the user has set it."""
    # Huge pages of 2 MB for weights and activations: fewer TLB misses, up to 10 % less time on a CPU under Linux.
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
