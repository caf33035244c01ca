"""Which rows of a corpus are held out of training, to validate on: never a matter of the run's seed.

Otherwise runs of different seeds could not be compared.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from llm.data.order import KeyedPermutation

_SEED = 0


def held_out_rows(n: int, fraction: float) -> npt.NDArray[np.int64]:
    """The numbers of the rows that are kept for validation, in ascending order.

    Some are where the fraction is above 0, and never all.

    Args:
        n: rows in all.
        fraction: from 0 to 1.
    """
    count = min(math.ceil(n * fraction), max(0, n - 1))
    return np.sort(KeyedPermutation(n, _SEED, 0)(np.arange(count)))


def problems_of_fraction(fraction: float) -> list[str]:
    """What is wrong with a `validation_fraction`: nothing, or one sentence."""
    return [] if 0 <= fraction < 1 else [f"validation_fraction must be in [0, 1), got {fraction}"]
