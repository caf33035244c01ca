import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_of_the_step_runs():
    ways = ["loop", "module loop", "trainer"]
    command = [sys.executable, "-m", "bench.step", "--tiny", "--threads", "1", "--json", "--ways", *ways]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["sizes"]["tiny"]
    assert [row["way"] for row in rows] == ways
    assert all(row["ms"] > 0 and row["cpu_ms"] > 0 and row["peak_mb"] > 100 for row in rows)
    assert rows[0]["to_loop"] == 1


def test_the_benchmarks_are_listed():
    done = subprocess.run([sys.executable, "-m", "bench"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split()[2] for line in done.stdout.splitlines()]
    files = [path.stem for path in (ROOT / "bench").glob("[!_]*.py")]
    assert sorted(listed) == sorted(f"bench.{name}" for name in files)
