"""Runs of tasks with samples, or masks, of their own: killed anywhere, they are resumed to the same bits."""

from __future__ import annotations

import json

import lightning as L
import pytest
import torch
from tiny_runs import QUIET, Kill

from llm.config import ClassifierConfig, EncoderConfig, GPTConfig, OptimConfig, TokenizerConfig
from llm.data import ClassifyDataModule, InstructDataModule, MaskedDataModule
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.tasks import InstructModel, MaskedLanguageModel, TextClassifier
from llm.tasks.answers import Answers

CHARS = TokenizerConfig("char", specials=("<|endoftext|>", "<|unk|>"))
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.2}
OPTIM = OptimConfig(learning_rate=1e-2, warmup_steps=2)


def masked(folder, cache):
    (folder / "text.txt").write_text("the cat sat on the mat, and the dog sat by the door; " * 4)
    data = MaskedDataModule(corpus=str(folder / "text.txt"), tokenizer=CHARS, context_length=16, batch_size=4, **cache)
    return MaskedLanguageModel(EncoderConfig(data.vocab_size, 16, **SHAPE), OPTIM), data


def classify(folder, cache):
    rows = [(f"text {'ab'[n % 3 == 0]} {n}", "ab"[n % 3 == 0]) for n in range(24)]
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    options = {"balance": "oversample", "tokenizer": CHARS, "context_length": 16}
    data = ClassifyDataModule(str(folder / "rows.csv"), batch_size=4, **options, **cache)
    return TextClassifier(ClassifierConfig(data.vocab_size, 16, labels=data.labels, **SHAPE), OPTIM), data


def instruct(folder, cache, packing=False):
    records = [{"prompt": "abc"[: 1 + n % 3] + str(n), "completion": "xyz"[: 1 + n % 2]} for n in range(24)]
    (folder / "records.json").write_text(json.dumps(records))
    options = {"template": "plain", "tokenizer": CHARS, "context_length": 24, "packing": packing}
    data = InstructDataModule(str(folder / "records.json"), batch_size=2 if packing else 4, **options, **cache)
    return InstructModel(GPTConfig(data.vocab_size, 24, **SHAPE), OPTIM), data


def packed(folder, cache):
    return instruct(folder, cache, packing=True)


@pytest.mark.parametrize("make", [masked, classify, instruct, packed])
def test_a_killed_run_is_resumed_to_the_same_bits(tmp_path, make):
    def fit(name, *callbacks, ckpt=None):
        torch.manual_seed(0)
        module, data = make(tmp_path, {"cache_dir": str(tmp_path / "cache")})
        folder = tmp_path / name
        others = [Answers(validation=2, max_new_tokens=2)] if isinstance(module, InstructModel) else []
        callbacks = [*callbacks, *others, BestAndLast(str(folder / "checkpoints"))]
        options = {**QUIET, "enable_checkpointing": True, "callbacks": callbacks, "default_root_dir": folder}
        options |= {"val_check_interval": 1, "check_val_every_n_epoch": None}
        trainer = L.Trainer(max_steps=9, plugins=[AtomicCheckpointIO()], **options)
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
        assert trainer.current_epoch > 1, "an end of an epoch is between"
        return module.state_dict()

    whole = fit("whole")
    for killed_at in (3, 7):
        name = f"killed at {killed_at}"
        with pytest.raises(RuntimeError, match="killed"):
            fit(name, Kill(killed_at))
        resumed = fit(name, ckpt=tmp_path / name / "checkpoints" / "last.ckpt")
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
