"""A run that is cut short and resumed ends with the very bits of one that was not."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import KeepEvery

from llm.config import EncoderConfig, GPTConfig, OptimConfig, TokenizerConfig
from llm.data import MaskedDataModule, TextDataModule
from llm.errors import CheckpointError
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.tasks import LanguageModel, MaskedLanguageModel

STEPS = 12
TEXT = "the cat sat on the mat, and the dog sat by the door; " * 6


def data(folder: Path, kind=TextDataModule, **options) -> TextDataModule:
    corpus = folder / "corpus.txt"
    corpus.write_text(TEXT)
    defaults = {
        "context_length": 8,
        "batch_size": 6,
        "evaluation_batch_size": 6,
        "stride": 8,
        "validation_fraction": 0.2,
    }
    return kind(
        corpus=str(corpus),
        tokenizer=TokenizerConfig("char"),
        cache_dir=str(folder / "cache"),
        **{**defaults, **options},
    )


MODERN = {"positions": "rotary", "norm": "rms_norm", "qk_norm": True, "activation": "squared_relu", "bias": False}
MUON = {"kind": "muon", "schedule": "warmup_stable_decay"}


def fit(
    folder: Path,
    ckpt: Path | None = None,
    steps: int = STEPS,
    callback=None,
    data_options=None,
    gpt_options=None,
    optim_options=None,
    task="language",
    **options,
):
    kinds = {"language": (GPTConfig, LanguageModel, TextDataModule)}
    kinds["masked"] = (EncoderConfig, MaskedLanguageModel, MaskedDataModule)
    config_kind, module_kind, data_kind = kinds[task]
    datamodule = data(folder, data_kind, **(data_options or {}))
    torch.manual_seed(1 if ckpt is None else 2)
    config = config_kind(datamodule.vocab_size, 8, n_layer=1, n_head=2, n_embd=8, dropout=0.3, **(gpt_options or {}))
    module = module_kind(config, OptimConfig(warmup_steps=3, **(optim_options or {})))
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        default_root_dir=folder,
        callbacks=[callback or BestAndLast()],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        **{"val_check_interval": 3, "num_sanity_val_steps": 0, **options},
    )
    trainer.fit(module, datamodule, ckpt_path=ckpt, weights_only=True)
    assert trainer.global_step == steps
    return module


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"val_check_interval": 5},
        {"optim_options": MUON},
        {"optim_options": MUON, "gpt_options": MODERN},
        {"task": "masked"},
        {"task": "masked", "data_options": {"masked_fraction": 0.4, "drop_last": False}},
    ],
    ids=str,
)
def test_resuming_at_any_step_gives_the_same_bits(tmp_path, options):
    whole = fit(tmp_path, callback=KeepEvery(every=1), **options).state_dict()
    checkpoints = sorted((tmp_path / "checkpoints").glob("step*.ckpt"))
    assert len(checkpoints) >= STEPS - 1
    for checkpoint in checkpoints:
        if checkpoint.name == f"step{STEPS}.ckpt":
            continue
        resumed = fit(tmp_path, checkpoint, **options).state_dict()
        different = [name for name, value in whole.items() if not torch.equal(value, resumed[name])]
        assert not different, checkpoint.name


def test_resuming_with_workers_gives_the_same_bits(tmp_path):
    whole = fit(tmp_path, callback=KeepEvery(every=1)).state_dict()
    checkpoint = next((tmp_path / "checkpoints").glob("step7.ckpt"))
    resumed = fit(tmp_path, checkpoint, data_options={"num_workers": 1}).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_same_seed_gives_the_same_bits(tmp_path):
    first, second = fit(tmp_path).state_dict(), fit(tmp_path).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_changed_corpus_or_order_is_refused_unless_allowed(tmp_path):
    fit(tmp_path, steps=4)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"batch_size \(6 in the checkpoint, 5 now\)"):
        fit(tmp_path, checkpoint, data_options={"batch_size": 5})
    fit(tmp_path, checkpoint, steps=6, data_options={"batch_size": 5, "allow_changed_data": True})
