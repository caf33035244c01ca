import json

import pytest

pytest.importorskip("transformers")


def test_every_family_means_the_same_in_transformers(bench):
    output = bench("parity", "--tiny", "--json")
    rows = json.loads(output)
    names = ["GPT2", "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "GPTNeoX", "OPT"]
    assert [row["family"] for row in rows] == names
    for row in rows:
        assert row["greedy"], row
        assert row["bytes"], row
        assert 0 < row["logits"] < 1e-4, row
        assert row["reopened"] < 1e-5, row
        assert 0 < row["bfloat16"] < 3 * row["own_bfloat16"], row
