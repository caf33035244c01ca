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
        assert min(*row["rates"].values(), *row["ratios"].values()) > 0
    assert {"transformers, lookup", "compiled, prompt lookup"} <= set(rows[0]["rates"])
    assert set(rows[1]["rates"]) == {"transformers", "plain", "compiled"}, "of several texts none is guessed"
    assert ("book" in rows[0]["rates"]) == bool(find_spec("llms_from_scratch"))
    assert ("litgpt" in rows[0]["rates"]) == ("LITGPT_PYTHON" in os.environ)


@pytest.mark.slow
def test_a_llama_writes_the_same_as_in_transformers():
    command = [sys.executable, "-m", "bench.generate", "--shape", "smollm2-135m", "--tiny", "--threads", "1", "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row["same_tokens"].values()) == {1} for row in rows)
    assert [set(row["rates"]) >= {"transformers", "plain", "compiled"} for row in rows] == [True, True]
