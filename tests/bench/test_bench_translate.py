import json

import pytest


@pytest.mark.slow
def test_the_benchmark_trains_both_and_measures_the_same_sentences(bench, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    words = [a + b + c for a in "abc" for b in "abc" for c in "abc"]
    pairs.write_text("".join(f"{word}\t{word.upper()}\n" for word in words))
    sizes = ["--layers", "1", "--n_embd", "16", "--heads", "2", "--batch_size", "4", "--seconds", "1"]
    output = bench("translate", "--corpus", str(pairs), *sizes, "--json")
    rows = json.loads(output)
    assert [row["way"] for row in rows] == ["theirs", "ours"]
    for row in rows:
        assert row["steps"] > 0
        assert 0 < row["loss"] < 10
        assert {"bleu_13a", "chrf", "exact"} <= set(row)
