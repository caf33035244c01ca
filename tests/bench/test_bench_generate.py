import json
import os
from importlib.util import find_spec

import pytest

pytest.importorskip("transformers")


@pytest.mark.slow
def test_the_benchmark_runs_and_all_ways_write_the_same(bench):
    output = bench("generate", "--tiny", "--threads", "1", "--json")
    rows = json.loads(output)["rows"]
    assert [(row["precision"], row["rows"]) for row in rows] == [("float32", 1), ("float32", 2)]
    for row in rows:
        assert set(row["same_tokens"].values()) == {1}
        assert min(*row["rates"].values(), *row["ratios"].values()) > 0
    assert {"transformers, lookup", "compiled, prompt lookup"} <= set(rows[0]["rates"])
    assert set(rows[1]["rates"]) == {"transformers", "plain", "compiled"}, "of several texts none is guessed"
    assert ("book" in rows[0]["rates"]) == bool(find_spec("llms_from_scratch"))
    assert ("litgpt" in rows[0]["rates"]) == ("LITGPT_PYTHON" in os.environ)


@pytest.mark.slow
def test_a_llama_writes_the_same_as_in_transformers(bench):
    output = bench("generate", "--shape", "smollm2-135m", "--tiny", "--threads", "1", "--json")
    rows = json.loads(output)["rows"]
    assert all(set(row["same_tokens"].values()) == {1} for row in rows)
    assert [set(row["rates"]) >= {"transformers", "plain", "compiled"} for row in rows] == [True, True]
