"""Nothing is made on another device than the model's, and no value is waited for on the way."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_nothing_is_left_on_the_cpu():
    command = [sys.executable, str(REPOSITORY / "tests" / "other_device.py")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.stdout.strip() == "all on the device", found.stderr
