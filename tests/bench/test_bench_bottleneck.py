import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.bottleneck import lists_of


def test_lists_of_dates():
    lists = list(lists_of(3, 50, 1, 4))
    assert lists == list(lists_of(3, 50, 1, 4))
    assert {each.n_dates for each in lists} == {1, 2, 3, 4}
    for each in lists:
        assert len(each.target.split()) == 3 * each.n_dates
        assert each.source.count(" and ") == each.n_dates - 1
        year, month, day = each.target.split()[:3]
        first = each.source.split(" and ")[0].replace(",", " ")
        assert year in first.split()
        assert re.search(rf"\b{int(day)}(st|nd|rd|th)?\b", first)
        assert 1 <= int(month) <= 12


@pytest.mark.slow
def test_the_benchmark_runs_and_draws(tmp_path):
    command = [sys.executable, "-m", "bench.bottleneck", "--tiny", "--json", "--pictures", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["network"] for row in rows] == ["none", "bahdanau", "transformer"]
    assert all(len(row["right"]) == 3 and all(0 <= right <= 1 for right in row["right"]) for row in rows)
    assert {path.name for path in tmp_path.iterdir()} == {"bottleneck.png", "bottleneck-alignment.png"}
