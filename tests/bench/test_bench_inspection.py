import json
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_of_inspection_runs():
    command = [sys.executable, "-m", "bench.inspection", "--tiny", "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["run"], found["steps"]) == ("tiny", 4)
    assert found["same_losses"]
    assert 0 < found["inspection_seconds"] < found["run_seconds"]["with"]
    assert found["fraction"] == found["inspection_seconds"] / found["training_seconds"]
