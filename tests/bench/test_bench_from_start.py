import json

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_both_to_their_losses(bench):
    recipe, ours = json.loads(bench("from_start", "--tiny", "--json"))
    assert recipe["of_recipe"] == 1.0
    assert ours["steps"] == 2
    for row in (recipe, ours):
        assert 0 < row["cpu_seconds"]
        assert 0 < row["wall_seconds"]
        assert 1 < row["loss"] < 5
