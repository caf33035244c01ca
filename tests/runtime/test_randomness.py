"""Side work leaves every random state as it was."""

import random

import numpy as np
import pytest
import torch

from llm.runtime.randomness import preserve_rng_state


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_drawn_inside_is_not_missing_outside(fails):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [draw(), draw()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = [draw()]
    try:
        with preserve_rng_state(torch.device("cpu")):
            draw()
            if fails:
                raise ValueError
    except ValueError:
        pass
    found.append(draw())
    assert found == expected
