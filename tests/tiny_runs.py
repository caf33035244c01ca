"""Small runs in this process, whose curves and weights are compared bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from bench._trainer import QUIET as QUIET
from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.runs.stopping import StopSafely
from llm.runtime.process import Interrupted
from llm.tasks import LanguageModel

STEPS = 9
TEXT = "the cat sat on the mat, and the dog sat by the door; " * 6


class Curve(Logger):
    """Keeps every value that is logged, by name and step, as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[str, int], str] = {}
        self.twice: list[tuple[str, int]] = []

    @property
    def name(self) -> str:
        return "curve"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for key, value in metrics.items():
            if key != "epoch":
                if (key, int(step or 0)) in self.values:
                    self.twice.append((key, int(step or 0)))
                self.values[key, int(step or 0)] = float(value).hex()


class KeepEvery(BestAndLast):
    """Keeps a copy of the checkpoint of every step."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        copy = Path(trainer.default_root_dir, "checkpoints", f"step{trainer.global_step}.ckpt")
        if self.last_model_path and not copy.exists():
            shutil.copy(self.last_model_path, copy)


class Kill(L.Callback):
    """Ends a run, as a kill would, where its nth step begins."""

    def __init__(self, count: int) -> None:
        self.count = count

    def on_train_batch_start(self, *_: Any) -> None:
        self.count -= 1
        if self.count == 0:
            raise RuntimeError("killed")


def fit(
    folder: Path, *callbacks: L.Callback, ckpt: Path | None = None, curve: Curve | None = None, **options: Any
) -> tuple[dict[str, torch.Tensor], L.Trainer]:
    """Train for `STEPS`, with a validation of several batches every three; gives the weights."""
    corpus = folder / "corpus.txt"
    corpus.write_text(TEXT)
    datamodule = TextDataModule(
        str(corpus),
        TokenizerConfig("char"),
        context_length=8,
        batch_size=4,
        evaluation_batch_size=4,
        stride=8,
        validation_fraction=0.3,
        cache_dir=str(folder / "cache"),
        num_workers=options.pop("num_workers", 0),
    )
    torch.manual_seed(1 if ckpt is None else 2)
    config = GPTConfig(datamodule.vocab_size, 8, n_layer=1, n_head=2, n_embd=8, dropout=0.3)
    module = LanguageModel(
        config, OptimConfig(**{"warmup_steps": 3, **options.pop("optim", {})}), **options.pop("module", {})
    )
    trainer = L.Trainer(
        accelerator="cpu",
        logger=curve or Curve(),
        log_every_n_steps=1,
        default_root_dir=folder,
        callbacks=[*callbacks, BestAndLast(str(folder / "checkpoints"))],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        gradient_clip_val=0.5,
        **{
            "max_steps": STEPS,
            "val_check_interval": 3,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            **options,
        },
    )
    trainer.callbacks.append(StopSafely())
    trainer.fit(module, datamodule, ckpt_path=ckpt, weights_only=True)
    return module.state_dict(), trainer


def fit_until_stopped(folder: Path, *callbacks: L.Callback, **options: Any) -> Path:
    """Train until something ends it with a signal; gives the checkpoint to go on from."""
    try:
        fit(folder, *callbacks, **options)
    except Interrupted:
        return folder / "checkpoints" / "last.ckpt"
    raise AssertionError("nothing stopped it")
