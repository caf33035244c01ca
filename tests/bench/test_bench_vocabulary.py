import json

from bench import vocabulary


def test_the_benchmark_runs_with_each_tokenizer(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench.vocabulary", "--tiny", "--json"])
    vocabulary.main()
    found = json.loads(capsys.readouterr().out)["tokenizers"]
    assert found.keys() == {"400", "char"}
    assert found["400"]["vocab_size"] == 400
    assert found["400"]["bytes_per_token"] > found["char"]["bytes_per_token"] >= 1
    for run in found.values():
        assert len(run["points"]) >= 1
        assert 0 < run["best"] <= run["last"] < 8, "less than a byte has"
        assert run["seconds"] > 0
        assert run["sample"].startswith("The")
