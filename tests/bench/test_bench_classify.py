import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_runs_each_way_and_keeps_its_runs(bench, tmp_path):
    words = ["--tiny", "--ways", "head", "lora", "--folder", str(tmp_path / "runs")]
    output = bench("classify", *words, "--json")
    runs = json.loads(output)["runs"]
    assert [(run["way"], run["start"]) for run in runs] == [
        ("head", "pre-trained"),
        ("head", "random"),
        ("lora", "pre-trained"),
        ("lora", "random"),
    ]
    assert runs[0]["trained"] == 4 * 128 + 4
    assert runs[2]["trained"] > runs[0]["trained"]
    assert all(0 <= run["accuracy"] <= 1 and run["naive_bayes"] > 0.25 for run in runs)
    kept = (tmp_path / "runs" / "runs.jsonl").read_text()
    again = bench("classify", *words)
    assert (tmp_path / "runs" / "runs.jsonl").read_text() == kept, "no run is made twice"
    assert "| head | 516 |" in again
    assert "| Naive Bayes |" in again
