"""LoRA against full fine-tuning: trained parameters, memory of the optimizer, checkpoint, time of a step, and loss.

A small GPT is pre-trained on one text, then fine-tuned on another in every way, each with several learning rates, of
which the best on the validation part of the second text counts. The loss on the first text's validation part says what
was forgotten. Steps are timed in processor seconds on one thread.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from llm import GPTConfig, LanguageModel, LoRAConfig, OptimConfig, TextDataModule, TokenizerConfig
from llm.runs.checkpointing import AtomicCheckpointIO

REPOSITORY = Path(__file__).parents[1]
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
EVERYWHERE = ("qkv", "projection", "expand")


@dataclass(frozen=True)
class Way:
    """One way to fine-tune: what is trained, and the adapters."""

    train: str
    rank: int = 0
    modules: tuple[str, ...] = EVERYWHERE

    @property
    def lora(self) -> LoRAConfig:
        """The adapters, alpha twice the rank; without the base in checkpoints."""
        if not self.rank:
            return LoRAConfig()
        return LoRAConfig(self.rank, 2.0 * self.rank, self.modules, adapter_only=True)


WAYS = {
    "all": Way("all"),
    "last block": Way("last_block"),
    "LoRA, r = 1": Way("lora", 1),
    "LoRA, r = 4": Way("lora", 4),
    "LoRA, r = 16": Way("lora", 16),
    "LoRA, r = 4, qkv": Way("lora", 4, ("qkv",)),
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.lora", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--base", default=str(REPOSITORY / "data" / "story.txt"), help="pre-trained on (%(default)s)")
    parser.add_argument("--corpus", default=str(REPOSITORY / "README.md"), help="fine-tuned on (%(default)s)")
    parser.add_argument("--base_steps", type=int, default=600, help="of pre-training (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning (%(default)s)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 4e-3], help="learning rates (%(default)s)")
    options = parser.parse_args()
    if options.tiny:
        options.base_steps, options.steps, options.rates = 2, 2, [1e-3]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        found = measure(options, Path(name))
    print(json.dumps(found, indent=1) if options.json else table(found))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Pre-train, fine-tune in every way, and give what each took and gave."""
    base = folder / "base.ckpt"
    before = text(options.base, TokenizerConfig("bpe", 300 if options.tiny else 1000), folder)
    sizes: dict[str, Any] = {"n_layer": 2, "n_embd": 32} if options.tiny else {"n_layer": 4, "n_embd": 128}
    gpt = GPTConfig(before.vocab_size, before.context_length, n_head=4, dropout=0.0, **sizes)
    L.seed_everything(1, verbose=False)
    module = LanguageModel(gpt, OptimConfig(learning_rate=2e-3))
    trainer = trainer_for(options.base_steps)
    trainer.fit(module, before)
    trainer.save_checkpoint(base)
    after = text(options.corpus, TokenizerConfig(checkpoint=str(base)), folder)
    start = {"loss": loss(module, after), "loss_before": loss(module, before)}
    rows = {"no fine-tuning": start | {"trained": 0}}
    for label, way in WAYS.items():
        tried = [tune(way, rate, base, before, after, options.steps) for rate in options.rates]
        rows[label] = min(tried, key=lambda row: row["loss"])
    return {"parameters": module.gpt.n_parameters, "steps": options.steps, "ways": rows}


def tune(
    way: Way, rate: float, base: Path, before: TextDataModule, after: TextDataModule, steps: int
) -> dict[str, Any]:
    """Fine-tune in one way, with one learning rate."""
    L.seed_everything(2, verbose=False)
    gpt = GPTConfig(**torch.load(base, weights_only=True)["llm"]["network"])
    optim = OptimConfig(learning_rate=rate, warmup_steps=steps // 10)
    module = LanguageModel(gpt, optim, pretrained=str(base), train=way.train, lora=way.lora)
    clock = Clock()
    trainer = trainer_for(steps, clock)
    trainer.fit(module, after)
    path = base.with_name("tuned.ckpt")
    trainer.save_checkpoint(path)
    states = trainer.optimizers[0].state.values()
    return {
        "learning_rate": rate,
        "trained": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "optimizer_bytes": sum(value.nbytes for state in states for value in state.values()),
        "checkpoint_bytes": path.stat().st_size,
        "step_ms": 1e3 * statistics.median(clock.seconds),
        "loss": loss(module, after),
        "loss_before": loss(module, before),
    }


class Clock(L.Callback):
    """The processor seconds of every step, its data not counted."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """A step begins."""
        self._start = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """It is made."""
        self.seconds.append(time.process_time() - self._start)


def text(corpus: str, tokenizer: TokenizerConfig, folder: Path) -> TextDataModule:
    """Windows of a text."""
    datamodule = TextDataModule(
        corpus,
        tokenizer,
        context_length=64,
        batch_size=16,
        stride=16,
        cache_dir=str(folder / "cache"),
        num_workers=0,
    )
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


def trainer_for(steps: int, *callbacks: L.Callback) -> L.Trainer:
    """A trainer that writes nothing."""
    return L.Trainer(
        max_steps=steps,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        accelerator="auto",
        devices=1,
        **QUIET,
    )


@torch.no_grad()
def loss(module: LanguageModel, datamodule: TextDataModule) -> float:
    """The mean validation loss of a token, in nats."""
    trainer = L.Trainer(use_distributed_sampler=False, devices=1, **QUIET)
    (found,) = trainer.validate(module, datamodule, verbose=False)
    return float(found["validation/loss"])


def table(found: dict[str, Any]) -> str:
    """The ways below each other."""
    lines = [
        f"{found['parameters']:,} parameters, {found['steps']} steps of fine-tuning",
        "",
        "| trained | parameters | optimizer, kB | checkpoint, kB | ms a step | learning rate | loss | on 1st text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, row in found["ways"].items():
        sizes = [f"{row[name] / 1e3:,.0f}" if name in row else "" for name in ("optimizer_bytes", "checkpoint_bytes")]
        time = f"{row['step_ms']:.1f}" if "step_ms" in row else ""
        cells = [label, f"{row['trained']:,}", *sizes, time, str(row.get("learning_rate", ""))]
        lines.append("| " + " | ".join([*cells, f"{row['loss']:.3f}", f"{row['loss_before']:.3f}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
