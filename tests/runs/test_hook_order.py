"""A callback given on the command line sees the hooks that it would see with Lightning alone, in the same order."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import spy

from llm.cli.main import main
from llm.config import GPTConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.tasks import LanguageModel

CORPUS = "the cat sat on the mat, and the dog sat by the door; " * 6
DATA = {"context_length": 8, "batch_size": 4, "evaluation_batch_size": 4, "stride": 8, "validation_fraction": 0.3}
GPT = {"n_layer": 1, "n_head": 2, "n_embd": 8}
LIGHTNINGS = {"num_sanity_val_steps": 0, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}
"""Defaults of Lightning's that are others here, and no sanity check."""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text(CORPUS)


def through_the_command_line(*words: str, **trainer: Any) -> list[str]:
    flags = [f"--data.{name}={value}" for name, value in DATA.items()]
    flags += [f"--model.gpt.{name}={value}" for name, value in GPT.items()]
    flags += [f"--trainer.{name}={'null' if value is None else value}" for name, value in trainer.items()]
    own = [
        "--data.corpus=corpus.txt",
        "--data.tokenizer.kind=char",
        "--trainer.accelerator=cpu",
        "--inspect.every=0",
        "--samples.every=0",
    ]
    spying = ["--allow_classes", "spy", "--trainer.callbacks+=spy.Spy"]
    assert main(["fit", *own, *flags, *spying, *words]) == 0
    return list(spy.CALLS)


def with_lightning_alone(ckpt_path: Path | None = None, **trainer: Any) -> list[str]:
    data = TextDataModule("corpus.txt", TokenizerConfig("char"), **DATA, num_workers=0)
    module = LanguageModel(GPTConfig(data.vocab_size, DATA["context_length"], **GPT))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "use_distributed_sampler": False}
    made = L.Trainer(accelerator="cpu", callbacks=[spy.Spy()], **quiet, **trainer)
    made.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return list(spy.CALLS)


def order(calls: list[str]) -> list[str]:
    """Without the writing of checkpoints, of which every run here has its own."""
    return [call for call in calls if not call.startswith("on_save_checkpoint")]


RUNS = {
    "one epoch": {"max_epochs": 1},
    "validation in mid-epoch": {"max_epochs": 1, "val_check_interval": 3},
    "gradient accumulation": {"max_epochs": 1, "accumulate_grad_batches": 3, "val_check_interval": 2},
    "accumulation over the end of an epoch": {"max_epochs": 2, "accumulate_grad_batches": 4},
    "the same batches": {"max_epochs": 3, "overfit_batches": 2},
    "several epochs": {"max_epochs": 3},
    "every second epoch": {"max_epochs": 4, "check_val_every_n_epoch": 2},
    "the last step in mid-epoch": {"max_steps": 9, "val_check_interval": 3, "check_val_every_n_epoch": None},
    "validation over epochs": {"max_steps": 20, "val_check_interval": 10, "check_val_every_n_epoch": None},
    "with a sanity check": {"max_steps": 4, "num_sanity_val_steps": 2, "val_check_interval": 2},
    "without validation": {"max_steps": 4, "limit_val_batches": 0},
}


@pytest.mark.parametrize("trainer", RUNS.values(), ids=RUNS)
def test_the_order_is_that_of_lightning_alone(trainer):
    trainer = LIGHTNINGS | trainer
    assert order(through_the_command_line(**trainer)) == order(with_lightning_alone(**trainer))


@pytest.mark.parametrize("stopped_at", [3, 6, 7])
def test_a_resumed_run_has_the_order_of_lightning_alone(stopped_at):
    trainer = LIGHTNINGS | {"val_check_interval": 3, "check_val_every_n_epoch": None}
    through_the_command_line(**trainer, max_steps=stopped_at)
    last = shutil.copy(next(Path("runs").rglob("last.ckpt")), "last.ckpt")
    alone = with_lightning_alone(Path(last), **trainer, max_steps=16)
    assert order(through_the_command_line("--ckpt_path=last", **trainer, max_steps=16)) == order(alone)


@pytest.mark.parametrize("step", [4, 6, 8])
def test_a_run_that_was_cut_short_has_the_order_of_lightning_alone(step):
    trainer = LIGHTNINGS | {"max_epochs": 3, "val_check_interval": 2}
    keep = ["ModelCheckpoint", f"every_n_train_steps={step}", "save_top_k=-1", "dirpath=kept", "filename={step}"]
    through_the_command_line(*(f"--trainer.callbacks{'.' if '=' in w else '+='}{w}" for w in keep), **trainer)
    kept = Path(f"kept/step={step}.ckpt")
    alone = with_lightning_alone(kept, **trainer)
    assert alone
    assert order(through_the_command_line(f"--ckpt_path={kept}", **trainer)) == order(alone)
