"""A try of those faults that no other test goes through; `python -m bench.faults` makes many of all."""

from __future__ import annotations

import random

import pytest


@pytest.mark.parametrize(
    "name", ["loss or gradient that is no number, stopped and gone on", "kill -9 of a run that leaves steps out"]
)
def test_a_fault(tmp_path, name):
    from bench import _bad_input, faults  # here, so that no other test gets its faults

    assert _bad_input.CANARY
    faults.FAULTS[name].trial(tmp_path / "run", random.Random(1))
