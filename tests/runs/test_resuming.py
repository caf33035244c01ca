"""What does not fit, or is damaged, is named before anything is loaded."""

from __future__ import annotations

import copy
from pathlib import Path

import lightning as L
import pytest
import torch

from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.errors import CheckpointError
from llm.pretrained.checkpoint import read_checkpoint, write_checkpoint
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.tasks import LanguageModel

TEXT = "the cat sat on the mat, and the dog sat by the door; " * 6


def fit(folder: Path, ckpt: Path | None = None, steps: int = 2, optim=None, text: str = TEXT, callbacks=(), **data):
    corpus = folder / "corpus.txt"
    corpus.write_text(text)
    data = {"tokenizer": TokenizerConfig("char"), "validation_fraction": 0.2, **data}
    datamodule = TextDataModule(str(corpus), context_length=8, batch_size=6, cache_dir=str(folder / "cache"), **data)
    module = LanguageModel(GPTConfig(datamodule.vocab_size, 8, n_layer=1, n_head=2, n_embd=8), optim or OptimConfig())
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        default_root_dir=folder,
        callbacks=[BestAndLast(), *callbacks],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule, ckpt_path=ckpt, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fit(folder)
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def without(*path):
    def change(checkpoint):
        *outer, last = path
        for key in outer:
            checkpoint = checkpoint[key]
        del checkpoint[last]

    return change


def with_value(value, *path):
    def change(checkpoint):
        *outer, last = path
        for key in outer:
            checkpoint = checkpoint[key]
        checkpoint[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("loops"), "loops is missing"),
        (with_value([1], "loops"), "loops is list"),
        (without("loops", "fit_loop", "epoch_progress"), "loops.fit_loop has no 'epoch_progress'"),
        (
            with_value("3", "loops", "fit_loop", "epoch_loop.batch_progress", "total", "ready"),
            "total.ready is '3', expected a count",
        ),
        (with_value(7, "global_step"), "count 2 optimizer steps, its global_step is 7"),
        (without("optimizer_states"), "optimizer_states is not a list"),
        (with_value([], "optimizer_states"), "optimizer_states is not a list of one optimizer"),
        (without("optimizer_states", 0, "param_groups"), r"optimizer_states\[0\] has no 'param_groups'"),
        (without("optimizer_states", 0, "param_groups", 0), "holds 1 groups, expected 2"),
        (without("optimizer_states", 0, "state", 1), r"state\[1\] is missing"),
        (without("optimizer_states", 0, "state", 1, "exp_avg"), r"state\[1\].exp_avg is missing"),
        (with_value(torch.zeros(3), "optimizer_states", 0, "state", 0, "exp_avg"), r"exp_avg is \(3,\) where"),
        (without("lr_schedulers"), "lr_schedulers is not a list"),
        (without("lr_schedulers", 0, "last_epoch"), "has no 'last_epoch'"),
        (with_value(5, "lr_schedulers", 0, "last_epoch"), "its schedule is at step 5, not at 2"),
        (without("callbacks"), "callbacks is missing"),
        (without("callbacks", "BestAndLast"), "callbacks.BestAndLast is missing"),
        (without("callbacks", "BestAndLast", "best_loss"), "has no 'best_loss'"),
        (without("TextDataModule"), "TextDataModule is missing"),
        (without("state_dict", "network.embeddings.token.weight"), "embeddings.token.weight is missing"),
        (with_value(torch.zeros(2), "state_dict", "network.embeddings.token.weight"), r"is \(2,\) where"),
        (with_value({"optim": {"learning_rate": "fast"}}, "llm", "settings"), "settings can't be used"),
    ],
)  # fmt: skip
def test_what_is_missing_or_damaged_is_named(trained, tmp_path, change, message):
    content = copy.deepcopy(trained)
    change(content)
    write_checkpoint(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=message):
        fit(tmp_path, tmp_path / "x.ckpt", steps=4)


@pytest.fixture
def checkpoint(trained, tmp_path):
    write_checkpoint(trained, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def test_other_settings_of_the_optimizer_are_refused(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"learning_rate \(0.001 in the checkpoint, 0.01 now\)"):
        fit(tmp_path, checkpoint, optim=OptimConfig(learning_rate=0.01))


def test_another_length_of_the_run_is_said(checkpoint, tmp_path, caplog):
    with caplog.at_level("WARNING", "llm"):
        assert fit(tmp_path, checkpoint, steps=4).global_step == 4
    assert "max_steps (2 in the checkpoint, 4 now)" in caplog.text


def test_another_tokenizer_is_refused_whatever_else_is_allowed(checkpoint, tmp_path):
    swapped = TEXT.replace("t", "z")  # as many characters, but others
    with pytest.raises(
        CheckpointError, match=r"'char' of 18 tokens with the fingerprint \w+ in the checkpoint, 'char'"
    ):
        fit(tmp_path, checkpoint, text=swapped, allow_changed_data=True)


def test_a_callback_that_the_checkpoint_does_not_know_is_said(checkpoint, tmp_path, caplog):
    stop = L.pytorch.callbacks.EarlyStopping("validation/loss", strict=False)
    with caplog.at_level("WARNING", "llm"):
        fit(tmp_path, checkpoint, steps=4, callbacks=[stop])
    assert "nothing of the callback EarlyStopping" in caplog.text
