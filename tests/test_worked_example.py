"""The worked example of docs/adding.md: three files and one row are a task."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from llm.cli.main import main
from llm.data.batch import TokenBatch
from llm.pretrained import read_tokenizer
from llm.pretrained.checkpoint import read_checkpoint
from llm.tasks import TASKS, Task

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docs" / "bigram"
CONFIG = str(FOLDER / "bigram.yaml")
TEXT = "abc" * 1000


@pytest.fixture(autouse=True)
def bigram(monkeypatch, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.syspath_prepend(str(FOLDER))
    row = Task(
        module="bigram_module:Bigram",
        datamodule="bigram_data:BackwardDataModule",
        summary="a bigram model that predicts the token before",
        links={"data.vocab_size": "model.bigram.vocab_size"},
    )
    monkeypatch.setitem(TASKS, "bigram", row)


def fit(*words: str) -> Path:
    """Train; gives the folder of checkpoints."""
    assert main(["fit", "--config", CONFIG, "--data.corpus=text.txt", "--trainer.val_check_interval=5", *words]) == 0
    return next(Path("runs").rglob("last.ckpt")).parent


def test_it_learns_which_token_stands_before():
    path = fit("--trainer.max_steps=60") / "last.ckpt"
    model, tokenizer = TASKS["bigram"].module_class().load_from_checkpoint(path), read_tokenizer(path)
    ids = torch.tensor([tokenizer.encode("bca")])
    logits = model.network.head(model.hidden_states(TokenBatch(ids, ids)))  # (1, 3, V)
    assert tokenizer.decode(logits[0].argmax(-1).tolist()) == "abc"


def test_its_checkpoint_alone_is_validated(capsys):
    fit("--trainer.max_steps=20")
    capsys.readouterr()
    assert main(["validate", "--ckpt_path=best"]) == 0
    output = capsys.readouterr().out
    assert "validation/loss" in output
    assert "validation/bits_per_byte" in output


def test_a_resumed_run_is_the_same_run():
    """The base modules give it to every task: exact order of the data, checkpoints, refusals."""
    folder = fit("--trainer.max_steps=20")
    whole = read_checkpoint(folder / "last.ckpt")["state_dict"]
    before = shutil.copy(folder / "previous.ckpt", "before.ckpt")
    assert read_checkpoint(before)["global_step"] < 20
    fit("--trainer.max_steps=20", f"--ckpt_path={before}")
    resumed = read_checkpoint(max(Path("runs").rglob("last.ckpt")))["state_dict"]
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())
    assert len(list(Path("runs").rglob("last.ckpt"))) == 2


def test_a_wrong_setting_is_one_line(capsys):
    assert main(["fit", "--config", CONFIG, "--model.bigram.n_embd=0"]) == 1
    assert "n_embd must be at least 1, got 0" in capsys.readouterr().err
