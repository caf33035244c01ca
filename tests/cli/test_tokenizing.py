"""Which tokenizer a run has where its default configuration names one, and the user none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm.__main__ import main as command
from llm.cli.main import main
from llm.pretrained.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[2]
QUICK = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.accelerator=cpu"]
QUICK += ["--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=8"]
QUICK += ["--inspect.every=0", "--samples.every=0", "--data.stride=8", "--data.batch_size=2"]
TEXT = "to be or not to be, that is the question\n" * 20


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)


def fit(*words):
    return main(["fit", *QUICK, *words], default_config=REPOSITORY / "configs" / "default.yaml")


def tokenizer_of_run():
    return read_checkpoint(next(Path("runs").rglob("last.ckpt")))["llm"]["tokenizer"]


def test_the_quick_start_learns_the_byte_pairs_of_the_text(caplog):
    assert fit("--data.corpus=text.txt") == 0
    tokenizer = tokenizer_of_run()
    assert tokenizer["kind"] == "byte_pairs"
    assert "\u0120to" in tokenizer["vocabulary"]
    assert "no other pair" not in caplog.text, "nobody asked for a number of tokens"


def test_token_ids_keep_the_tokenizer_that_wrote_them():
    assert command(["tokenize", "--input", "text.txt", "--output", "shards", "--tokenizer", "char"]) == 0
    assert fit("--data.corpus=shards") == 0
    assert tokenizer_of_run()["kind"] == "char"


def test_token_ids_without_a_tokenizer_are_gpt2s():
    np.arange(400, dtype="<u2").tofile("train.bin")
    assert fit("--data.corpus=train.bin") == 0
    assert tokenizer_of_run()["encoding"] == "gpt2"


def test_token_ids_and_another_tokenizer_that_the_user_asks_for_are_refused(capsys):
    assert command(["tokenize", "--input", "text.txt", "--output", "shards", "--tokenizer", "char"]) == 0
    assert fit("--data.corpus=shards", "--data.tokenizer.kind=bpe") == 1
    assert "tokenized with kind 'char'" in capsys.readouterr().err
