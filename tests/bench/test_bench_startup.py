import json
import subprocess
import sys
from pathlib import Path


def test_it_runs_and_help_imports_nothing_large():
    words = [sys.executable, "-m", "bench.startup", "--tiny", "--json"]
    output = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    rows = json.loads(output)
    assert [row["command"] for row in rows] == [
        "train.py --help",
        "python -m llm --help",
        "python -m llm generate --help",
    ]
    assert all(row["seconds"] >= row["fastest"] > 0 < row["processor"] and row["imports"] == [] for row in rows)
