"""How fast a run is, as it is logged."""

import lightning as L
import pytest
import torch

from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.runtime import hardware
from llm.tasks import LanguageModel
from llm.training import throughput


@pytest.fixture
def logged(corpus, tmp_path):
    """The last values of a run of a few steps, which began with a batch of 4 x 8 tokens."""

    def fit():
        data = TextDataModule(
            str(corpus), TokenizerConfig("char"), context_length=8, batch_size=4, cache_dir=str(tmp_path / "cache")
        )
        module = LanguageModel(GPTConfig(data.vocab_size, 8, n_layer=1, n_head=1, n_embd=8), OptimConfig())
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            max_steps=3,
            log_every_n_steps=1,
            callbacks=[throughput.Throughput()],
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
        return module, {name: float(value) for name, value in trainer.callback_metrics.items()}

    return fit


def test_utilization_is_the_tokens_operations_by_the_peak(logged, monkeypatch):
    asked = []
    monkeypatch.setattr(throughput, "peak_flops", lambda device, precision: asked.append((device, precision)) or 1e9)
    module, metrics = logged()
    operations = hardware.flops_per_token(module.gpt.config, module.gpt.n_parameters)
    expected = metrics["train/tokens_per_second"] * operations / 1e9
    assert metrics["train/model_flops_utilization"] == pytest.approx(expected, rel=1e-5)
    assert asked[-1] == (torch.device("cpu"), "32-true")


def test_utilization_is_not_logged_where_nobody_knows_the_peak(logged):
    _, metrics = logged()
    assert metrics["train/tokens_per_second"] > 0
    assert "train/model_flops_utilization" not in metrics
