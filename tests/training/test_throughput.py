"""How fast a run is, as it is logged."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule, TokenBatch
from llm.model import GPT
from llm.tasks import LanguageModel
from llm.training import throughput
from llm.training.flops import flops_per_token


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
    operations = flops_per_token(module.gpt.config, module.gpt.n_parameters)
    expected = metrics["train/tokens_per_second"] * operations / 1e9
    assert metrics["train/model_flops_utilization"] == pytest.approx(expected, rel=1e-5)
    assert asked[-1] == (torch.device("cpu"), "32-true")


def test_utilization_is_not_logged_where_nobody_knows_the_peak(logged):
    _, metrics = logged()
    assert metrics["train/tokens_per_second"] > 0
    assert "train/model_flops_utilization" not in metrics


@pytest.mark.parametrize("log_every", [1, 3])
def test_padding_is_no_token(monkeypatch, log_every):
    """Of 2 x 8 tokens in each batch, 7 are real; a second passes from one batch to the next."""
    ids = torch.zeros(2, 8).long()
    batches = [TokenBatch(ids, ids, torch.tensor([3, 4]))] * 4
    ended = []
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(len(ended)))

    class Clock(L.Callback):
        def on_train_batch_start(self, *_):
            ended.append(None)

    module = LanguageModel(GPTConfig(5, 8, n_layer=1, n_head=1, n_embd=4), OptimConfig())
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=4,
        log_every_n_steps=log_every,
        callbacks=[Clock(), throughput.Throughput()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert float(trainer.callback_metrics["train/tokens_per_second"]) == 7


def test_operations_of_a_token_are_those_of_its_matrix_products(tiny):
    matrices = 12 * tiny.n_embd**2 * tiny.n_layer + tiny.vocab_size * tiny.n_embd
    attention = 12 * tiny.n_layer * tiny.n_embd * tiny.context_length
    found = flops_per_token(tiny, GPT(tiny).n_parameters)
    assert found == pytest.approx(6 * matrices + attention, rel=0.2)  # biases and gains are counted with N
    assert found > 6 * matrices + attention


def test_a_head_of_its_own_does_not_change_the_operations():
    tied, untied = (GPTConfig(17, 8, n_embd=8, tie_head=tie) for tie in (True, False))
    assert flops_per_token(tied, GPT(tied).n_parameters) == flops_per_token(untied, GPT(untied).n_parameters)


def test_operations_of_gpt2_124m_by_hand():
    """12 layers of 12 heads of 64; its 1024 x 768 positions are looked up, all else is multiplied with."""
    config = GPTConfig.gpt2("124m")
    n_parameters = 50257 * 768 + 1024 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    expected = 6 * (n_parameters - 1024 * 768) + 12 * 12 * 12 * 64 * 1024
    assert n_parameters == 124_439_808
    assert flops_per_token(config, n_parameters) == expected == 855_166_464


def test_rotary_positions_have_no_table_to_leave_out():
    learned, rotary = (GPTConfig(17, 8, n_embd=8, n_head=2, positions=kind) for kind in ("learned", "rotary"))
    assert flops_per_token(learned, GPT(learned).n_parameters) == flops_per_token(rotary, GPT(rotary).n_parameters)
