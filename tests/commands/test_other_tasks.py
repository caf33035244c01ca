"""Checkpoints of a task that a command or a run has no use for: what to do with them is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm.__main__ import main
from llm.cli.main import main as train
from llm.config import ClassifierConfig, TransformerConfig, WordVectorsConfig
from llm.model import WordVectors, build_network
from llm.pretrained.checkpoint import ENTRY, WEIGHTS_PREFIX, describe
from llm.tokenizers import END_OF_TEXT, CharTokenizer

CHARACTERS = CharTokenizer("ab", [END_OF_TEXT])
CONFIGS = {
    "classify": ClassifierConfig(3, 4, 1, 1, 4, labels=("x", "y")),
    "translate": TransformerConfig(vocab_size=3, source_vocab_size=3, context_length=4, n_layer=1, n_head=1, n_embd=4),
    "word_vectors": WordVectorsConfig(vocab_size=3, n_embd=4),
}


@pytest.fixture(params=CONFIGS)
def checkpoint(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CONFIGS[request.param]
    network = WordVectors(config) if request.param == "word_vectors" else build_network(config)
    state = {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
    entry = {**describe(config, CHARACTERS, request.param), "source_tokenizer": CHARACTERS.to_dict()}
    content = {ENTRY: entry, "state_dict": state, "pytorch-lightning_version": "2.6.6", "epoch": 0, "global_step": 0}
    torch.save(content, f"{request.param}.ckpt")
    return f"{request.param}.ckpt"


@pytest.mark.parametrize("format", ["hf", "safetensors", "peft"])
def test_export_says_what_can_be_shared(checkpoint, capsys, format):
    assert main(["export", "--ckpt", checkpoint, "--out", "out", "--format", format]) == 1
    said = capsys.readouterr().err
    assert f"is of the task {checkpoint[:-5]!r}" in said
    assert "share the .ckpt itself" in said
    assert ("--format word2vec" in said) == (checkpoint == "word_vectors.ckpt" and format != "peft")


def test_a_run_says_what_it_can_begin_with(checkpoint, capsys):
    assert train(["fit", "--model.pretrained", checkpoint, "--data.corpus", "none.txt"]) == 1
    said = capsys.readouterr().err.strip()
    assert "a run of 'language' begins with those of language or instruct, or of other programs" in said
    assert said.endswith(f"--task {checkpoint[:-5]} --ckpt_path {checkpoint}")
    Path(checkpoint).rename("best.ckpt")  # weights alone
    assert train(["fit", "--model.pretrained", "best.ckpt", "--data.corpus", "none.txt"]) == 1
    assert capsys.readouterr().err.strip().endswith("--ckpt_path last.ckpt")


def test_generate_names_the_command_that_uses_it(checkpoint, capsys):
    used_by = {"word_vectors": "neighbours"}.get(checkpoint[:-5], checkpoint[:-5])
    assert main(["generate", "--ckpt", checkpoint, "--prompt", "a"]) == 1
    assert f"use python -m llm {used_by}" in capsys.readouterr().err
