import json
from dataclasses import replace

import lightning as L
import pytest
import torch
from torch import nn

from llm.config import GPTConfig, SamplingConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.errors import ConfigError
from llm.generation import generate_batch, log_probabilities
from llm.tasks import LanguageModel
from llm.tasks.predictions import PredictionWriter

SAMPLING = SamplingConfig(max_new_tokens=6)
TEXTS = ["The cat", "sat", "Ça va; yes", "y"]


@pytest.fixture
def predict(corpus, tmp_path):
    """Run `predict` on some prompts; gives the module and the data."""

    def run(writer, sampling=SAMPLING, texts=TEXTS):
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("\n\n".join(texts), encoding="utf-8")
        data = TextDataModule(str(corpus), TokenizerConfig("char"), batch_size=3, prompts=str(prompts))
        torch.manual_seed(0)
        config = GPTConfig(vocab_size=data.vocab_size, context_length=8, n_layer=1, n_head=2, n_embd=8)
        module = LanguageModel(config, sampling=sampling)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        trainer = L.Trainer(
            accelerator="cpu", callbacks=[writer], logger=False, enable_progress_bar=False, barebones=False
        )
        trainer.predict(module, data)
        return module, data

    return run


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_continuations(predict, tmp_path):
    output = tmp_path / "new" / "predictions.jsonl"
    module, data = predict(PredictionWriter(str(output)), replace(SAMPLING, n_samples=2))
    records = read(output)
    ids = [torch.tensor(data.tokenizer.encode(text)) for text in TEXTS]
    expected = generate_batch(module.gpt, ids, replace(SAMPLING, n_samples=2), data.tokenizer.end_of_text_id)
    assert [(record["line"], record["prompt"], record["sample"]) for record in records] == [
        (2 * number + 1, text, sample) for number, text in enumerate(TEXTS) for sample in range(2)
    ]
    texts = [data.tokenizer.decode(sample) for samples in expected for sample in samples]
    assert [record["continuation"] for record in records] == texts
    assert [path.name for path in output.parent.iterdir()] == ["predictions.jsonl"]


def test_log_probabilities(predict, tmp_path):
    output = tmp_path / "scores.jsonl"
    module, data = predict(PredictionWriter(str(output), "log_probabilities"))
    for record, text in zip(read(output), TEXTS, strict=True):
        ids = data.tokenizer.encode(text)
        assert record["prompt"] == text
        assert record["ids"] == ids
        assert len(record["tokens"]) == len(ids)
        first, *others = record["log_probabilities"]
        assert first is None
        assert others == pytest.approx(log_probabilities(module.gpt, torch.tensor(ids)).tolist(), abs=1e-5)


def test_on_screen(predict, capsys):
    predict(PredictionWriter())
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()] == TEXTS


def test_a_failure_leaves_the_file_of_before(predict, tmp_path, monkeypatch):
    output = tmp_path / "predictions.jsonl"
    output.write_text("before", encoding="utf-8")

    def fail(self, batch, batch_idx):
        if batch_idx == 1:
            raise ConfigError("no more")
        return LanguageModel.original(self, batch, batch_idx)

    monkeypatch.setattr(LanguageModel, "original", LanguageModel.predict_step, raising=False)
    monkeypatch.setattr(LanguageModel, "predict_step", fail)
    with pytest.raises(ConfigError, match="no more"):
        predict(PredictionWriter(str(output)))
    assert output.read_text(encoding="utf-8") == "before"
    assert not list(tmp_path.glob(".*"))


def test_a_place_that_can_not_be_written(predict, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't write predictions to"):
        predict(PredictionWriter(str(tmp_path / "file" / "predictions.jsonl")))
