import json

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_both_to_their_losses(bench):
    recipe, ours = json.loads(bench("from_start", "--tiny", "--json"))
    assert recipe["of_recipe"] == 1.0
    assert ours["steps"] == 2
    for row in (recipe, ours):
        assert row["cpu_seconds"] > 0
        assert row["wall_seconds"] > 0
        assert 1 < row["loss"] < 5
