import json
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_of_lora_runs():
    command = [sys.executable, "-m", "bench.lora", "--tiny", "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    full, small = found["ways"]["all"], found["ways"]["LoRA, r = 1"]
    assert full["trained"] == found["parameters"]
    for name in ("trained", "optimizer_bytes", "checkpoint_bytes"):
        assert 0 < small[name] < full[name] / 3
    assert all(row["loss"] > 0 for row in found["ways"].values())
