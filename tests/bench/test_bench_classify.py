import json

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_each_way_and_keeps_its_runs(bench, tmp_path):
    words = ["--tiny", "--ways", "head", "lora", "--dropout", "0", "0.3", "--folder", str(tmp_path / "runs")]
    runs = json.loads(bench("classify", *words, "--json"))["runs"]
    assert [(run["way"], run["start"], run["dropout"]) for run in runs] == [
        (way, start, dropout) for way in ("head", "lora") for start in ("pre-trained", "random") for dropout in (0, 0.3)
    ]
    assert runs[0]["trained"] == 4 * 128 + 4
    assert runs[4]["trained"] > runs[0]["trained"]
    assert all(0 <= run["accuracy"] <= 1 and run["naive_bayes"] > 0.25 for run in runs)
    kept = (tmp_path / "runs" / "runs.jsonl").read_text()
    again = bench("classify", *words)
    assert (tmp_path / "runs" / "runs.jsonl").read_text() == kept, "no run is made twice"
    head = next(line.split(" | ") for line in again.splitlines() if line.startswith("| head | pre-trained | 516 |"))
    best = max(runs[:2], key=lambda run: (run["validation_accuracy"], -run["validation_loss"]))
    assert head[4] == f"{best['dropout']}, 1 (of 2)", "validation texts choose, test texts do not"
    assert "| Naive Bayes |" in again
