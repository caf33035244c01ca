import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_of_the_preflight_runs():
    command = [sys.executable, "-m", "bench.preflight", "--tiny", "--precisions", "32-true"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    head, row = done.stdout.splitlines()
    assert "memory: estimated" in head
    assert row.split()[6] == "32-true"
    (found,) = json.loads(subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, check=True).stdout)
    assert found["precision"] == "32-true"
    assert found["bytes"] > 0
