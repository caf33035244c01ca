import json


def test_the_benchmark_of_inspection_runs(bench):
    output = bench("inspection", "--tiny", "--json")
    found = json.loads(output)
    assert (found["run"], found["steps"]) == ("tiny", 4)
    assert found["same_losses"]
    assert 0 < found["inspection_seconds"] < found["run_seconds"]["with"]
    assert found["fraction"] == found["inspection_seconds"] / found["training_seconds"]
