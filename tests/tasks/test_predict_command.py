import json

import pytest

from llm.cli.main import main

pytestmark = pytest.mark.slow  # it trains, if only for two steps


def test_predict_from_the_command_line(corpus, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("The cat\nsat", encoding="utf-8")
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    model = ["--model.gpt.n_layer", "1", "--model.gpt.n_head", "2", "--model.gpt.n_embd", "8"]
    data = ["--data.corpus", str(corpus), "--data.tokenizer.kind", "char", "--data.context_length", "8"]
    assert main(["fit", *quiet, *model, *data, "--trainer.max_steps", "2", "--inspect.every", "0"]) == 0
    before = {path.name for path in tmp_path.iterdir()}
    predict = ["predict", *quiet, "--ckpt_path", "last", "--data.prompts", "prompts.txt"]
    sampling = ["--model.sampling.max_new_tokens", "5", "--model.sampling.n_samples", "2"]
    for kind, n_lines in (("continuations", 4), ("log_probabilities", 2)):
        output = ["--predictions.output", f"{kind}.jsonl", "--predictions.kind", kind]
        assert main([*predict, *sampling, *output]) == 0
        lines = (tmp_path / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["line"] for line in lines] == sorted([1, 2] * (n_lines // 2))
    assert {path.name for path in tmp_path.iterdir()} - before == {"continuations.jsonl", "log_probabilities.jsonl"}
    capfd.readouterr()
    (tmp_path / "taken").mkdir()
    assert main([*predict, "--predictions.output", "taken"]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: can't write predictions to 'taken': it is a folder"]
