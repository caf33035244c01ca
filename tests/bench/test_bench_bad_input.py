"""A try of those faults that no other test goes through; `python -m bench.faults` makes many of all."""

from __future__ import annotations

import random

import pytest


@pytest.mark.parametrize(
    "name", ["NaN or Inf in loss or gradient, stopped and resumed", "kill -9 of a run that skips steps"]
)
def test_a_fault(tmp_path, name):
    from bench import _bad_input, faults  # here, so that no other test gets its faults

    assert _bad_input.CANARY
    faults.FAULTS[name].trial(tmp_path / "run", random.Random(1))
