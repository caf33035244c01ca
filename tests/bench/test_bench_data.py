"""The measurements run; what they measure is nobody's promise here."""

import json
import subprocess
import sys
from pathlib import Path


def test_it_runs_on_tiny_sizes():
    root = Path(__file__).parents[2]
    words = [sys.executable, "-m", "bench.data", "--tiny"]
    output = subprocess.run([*words, "--json"], cwd=root, capture_output=True, text=True, check=True).stdout
    results = json.loads(output)
    assert [len(results[name]) for name in ("tokenize", "windows", "open")] == [2, 3, 2]
    figures = [row for rows in results.values() for row in rows]
    assert all(value >= 0 for row in figures for name, value in row.items() if name != "what")
    assert all(row["tokens/s"] > 0 for name in ("windows", "open") for row in results[name])
