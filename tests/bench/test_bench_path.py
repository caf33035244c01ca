import itertools
import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_runs_and_shows_both_curves(bench, tmp_path):
    picture = tmp_path / "path.png"
    output = bench("path", "--tiny", "--json", "--picture", str(picture))
    found = json.loads(output)
    gpt2, modern = (found["runs"][name]["curve"] for name in ("gpt2", "modern"))
    assert [point["step"] for point in gpt2] == [0, 5, 10, 15, 20]
    assert [point["step"] for point in modern] == [0, 1, 2, 3, 4, 5]
    for curve in (gpt2, modern):
        assert curve[-1]["validation_loss"] < curve[0]["validation_loss"]
        for clock in ("wall_seconds", "cpu_seconds", "median_seconds"):
            assert all(later[clock] >= earlier[clock] for earlier, later in itertools.pairwise(curve))
    assert found["goal"] == gpt2[-1]["validation_loss"]
    assert found["runs"]["modern"]["gpt"]["positions"] == "rotary"
    assert picture.read_bytes().startswith(b"\x89PNG")
