import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")


@pytest.mark.slow
def test_the_benchmark_runs_and_all_ways_write_the_same():
    command = [sys.executable, "-m", "bench.generate", "--tiny", "--threads", "1", "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["rows"]
    assert [(row["precision"], row["rows"]) for row in rows] == [("float32", 1), ("float32", 2)]
    for row in rows:
        assert row["same_tokens"] == 1
        assert min(*row["rates"].values(), *row["ratios"].values()) > 0
    assert len(rows[0]["rates"]) == 5
    assert "compiled, lookahead" not in rows[1]["rates"], "of several texts none is guessed"
