import json
from importlib.util import find_spec

import pytest
import torch

from bench.word_vectors import agreement, read_pairs, spearman
from llm.pretrained.vectors import NamedVectors


def test_rank_correlation():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert spearman([1, 1, 2], [1, 1, 5]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_pairs_of_words_without_vectors_are_left_out(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("# a comment\nsun\tmoon\t9\nSun\tsea\t1\nsun\tnowhere\t5\n")
    vectors = NamedVectors(["sun", "moon", "sea"], torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    assert agreement(vectors, read_pairs(path)) == (pytest.approx(1), 2)


@pytest.mark.slow
def test_the_benchmark_runs(bench):
    output = bench("word_vectors", "--tiny", "--json", "--objectives", "cbow")
    rows = json.loads(output.splitlines()[-1])["rows"]
    programs = ["ours", "gensim"] if find_spec("gensim") else ["ours"]
    assert [row["program"] for row in rows] == programs
    assert all(row["words/s"] > 0 for row in rows)
