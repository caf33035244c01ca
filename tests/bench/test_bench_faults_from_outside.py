"""One try of faults that come from outside a run; `python -m bench.faults` makes many."""

from __future__ import annotations

import random

import pytest

import bench._faults_from_outside  # noqa: F401
from bench.faults import FAULTS


@pytest.mark.parametrize(
    "name",
    [
        "SIGTERM, SIGINT, SIGHUP or SIGUSR1 in training, validation or a save",
        "SIGTERM or SIGINT before the first step",
        "process that loads data killed",
    ],
)
def test_it_is_survived(tmp_path, name):
    FAULTS[name].trial(tmp_path / "run", random.Random(1))
