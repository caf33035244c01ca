import json


def test_the_benchmark_of_lora_runs(bench):
    output = bench("lora", "--tiny", "--json")
    found = json.loads(output)
    full, small = found["ways"]["all"], found["ways"]["LoRA, r = 1"]
    assert full["trained"] == found["parameters"]
    for name in ("trained", "optimizer_bytes", "checkpoint_bytes"):
        assert 0 < small[name] < full[name] / 3
    assert all(row["loss"] > 0 for row in found["ways"].values())
