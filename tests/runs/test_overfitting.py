"""`overfit_batches`: the same batches again and again, and validation on these."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import Curve, fit

from llm.cli.main import main

REPOSITORY = Path(__file__).parents[2]


class Seen(L.Callback):
    """Keeps the tokens of all batches."""

    def __init__(self) -> None:
        self.train: list[torch.Tensor] = []
        self.validation: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.train.append(batch.inputs)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validation.append(batch.inputs)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_run_that_is_to_overfit_sees_the_same_batches_in_every_epoch(tmp_path, batches):
    fit(tmp_path, seen := Seen(), overfit_batches=batches, max_steps=6)
    assert len(seen.train) == 6
    for number, inputs in enumerate(seen.train):
        assert torch.equal(inputs, seen.train[number % batches])
    assert len(seen.validation) == 2 * batches
    for number, inputs in enumerate(seen.validation):
        assert torch.equal(inputs, seen.train[number % batches])


def test_it_goes_on_with_the_same_bits(tmp_path):
    whole, _ = fit(tmp_path, overfit_batches=2, max_steps=6, curve=(curve := Curve()))
    fit(tmp_path, overfit_batches=2, max_steps=3)
    again, _ = fit(
        tmp_path, overfit_batches=2, max_steps=6, ckpt=tmp_path / "checkpoints" / "last.ckpt", curve=(later := Curve())
    )
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert later.values.items() <= curve.values.items()


def test_the_model_learns_the_batch_and_the_preflight_knows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["fit", "--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=16", "--data.batch_size=2"]
    words += ["--data.context_length=16", "--data.tokenizer.kind=char", "--trainer.overfit_batches=1"]
    words += ["--inspect.every=0", "--samples.every=0", "--model.optim.learning_rate=0.02", "--model.gpt.dropout=0"]
    words += ["--trainer.max_steps=-1", "--trainer.max_epochs=40", "--trainer.val_check_interval=60"]
    words += ["--model.optim.warmup_steps=0"]
    assert main(words, default_config=REPOSITORY / "configs" / "default.yaml") == 0
    err = capsys.readouterr().err
    assert "an epoch is 1 batch of 2" in err
    assert "40: 1,280 tokens, 40.0 epochs" in err
    assert "validation comes at the end only" in err
    best = next(line for line in err.splitlines() if line.startswith("best:"))
    assert "step 40" in best
    assert float(best.split()[-1]) < 1.5, "it was about 4"
