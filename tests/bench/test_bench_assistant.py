import json

from bench import assistant


def test_the_benchmark_runs_in_both_forms(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["bench.assistant", "--tiny", "--json", "--folder", str(tmp_path)])
    assistant.main()
    printed = capsys.readouterr().out
    runs = json.loads(printed[printed.index('{\n "runs"') :])["runs"]  # what is said of the pre-training is before it
    assert [(run["form"], run["base"]) for run in runs] == [
        ("class", "small GPT"),
        ("class", "SmolLM2"),
        ("instruction", "small GPT"),
        ("instruction", "SmolLM2"),
    ]
    template = 2 * 2 * 128  # two new tokens, a row each in token embedding and head
    assert runs[2]["trained"] - template == runs[0]["trained"] - (4 * 128 + 4)
    assert all(0 <= run["accuracy"] <= 1 and run["texts"] == 4 for run in runs)
