import json
import os
import subprocess
import sys
from importlib.util import find_spec
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
        assert set(row["same_tokens"].values()) == {1}
        assert min(row["transformers"], row["plain"], row["fast"], row["plain_ratio"], row["fast_ratio"]) > 0
    assert ("book" in rows[0]) == bool(find_spec("llms_from_scratch"))
    assert ("litgpt" in rows[0]) == ("LITGPT_PYTHON" in os.environ)
