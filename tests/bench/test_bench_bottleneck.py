import argparse
import json
import re

import pytest

from bench.bottleneck import NAMES, build, data_of, lists_of, size_of


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


def test_the_networks_have_as_many_parameters(tmp_path):
    data = data_of(argparse.Namespace(longest=2, lists=50, seed=1), tmp_path)
    for name in NAMES:
        n_parameters = build(name, size_of(name, 40_000, data), data).translator.n_parameters
        assert n_parameters == pytest.approx(40_000, rel=0.1), name


@pytest.mark.slow
def test_the_benchmark_runs_and_draws(bench, tmp_path):
    output = bench("bottleneck", "--tiny", "--json", "--pictures", str(tmp_path))
    rows = json.loads(output.splitlines()[-1])["rows"]
    assert [row["network"] for row in rows] == ["none", "bahdanau", "transformer"]
    assert all(len(row["right"]) == 3 and all(0 <= right <= 1 for right in row["right"]) for row in rows)
    assert {path.name for path in tmp_path.iterdir()} == {"bottleneck.png", "bottleneck-alignment.png"}
