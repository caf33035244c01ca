"""What inspection costs: the same training with and without it.

`python -m bench.inspection quick_start`, or `... 30m`, trains twice on the sample story, with inspection at its default
frequency and without it, in the precision that `train.py fit` chooses. It prints the fraction of the time
that went into inspection, the time of a step with and without, and whether the losses are the same to the bit.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from llm import GPTConfig, LanguageModel, OptimConfig, TextDataModule, TokenizerConfig
from llm.inspection import Inspection
from llm.runtime.hardware import has_native_bfloat16
from llm.training.throughput import side_work_seconds

RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # model, data, steps: configs/default.yaml
    "quick_start": (
        {"n_layer": 4, "n_head": 4, "n_embd": 128},
        {"tokenizer": TokenizerConfig("bpe"), "context_length": 64, "stride": 16, "batch_size": 16},
        200,
    ),
    "30m": ({"n_layer": 6, "n_head": 6, "n_embd": 384}, {"context_length": 256, "stride": 64, "batch_size": 4}, 300),
    "tiny": ({"n_layer": 1, "n_head": 2, "n_embd": 16}, {"context_length": 8, "stride": 64, "batch_size": 4}, 4),
}


class Clock(L.Callback):
    """The time and the loss of every step; side work is told apart by the trainer's own count."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._before = (0.0, 0.0)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Start."""
        del pl_module
        self._before = (time.perf_counter(), side_work_seconds(trainer))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        """Stop."""
        del pl_module
        start, side_work = self._before
        self.losses.append(outputs["loss"].item())
        self.seconds.append(time.perf_counter() - start - (side_work_seconds(trainer) - side_work))


class Result(NamedTuple):
    """One run."""

    seconds: float
    inspection_seconds: float
    step_seconds: float
    losses: list[float]
    n_parameters: int


def train(name: str, steps: int, inspect: bool, folder: Path) -> Result:
    """Train one model and time it."""
    model, data, _ = RUNS[name]
    L.seed_everything(123, verbose=False)
    datamodule = TextDataModule("story", **data, cache_dir=str(folder / "cache"))
    config = GPTConfig(vocab_size=datamodule.vocab_size, context_length=data["context_length"], dropout=0.1, **model)
    module, clock = LanguageModel(config, OptimConfig()), Clock()
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        logger=TensorBoardLogger(str(folder), name="on" if inspect else "off"),
        # the clock last, so that it does not see what others do before the step
        callbacks=[*([Inspection()] if inspect else []), clock],
        precision="bf16-mixed" if has_native_bfloat16("auto") else "32-true",
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    start = time.perf_counter()
    trainer.fit(module, datamodule)
    if module.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return Result(
        seconds, side_work_seconds(trainer), statistics.median(clock.seconds), clock.losses, module.gpt.n_parameters
    )


def main() -> None:
    """Measure one kind of run."""
    parser = argparse.ArgumentParser("python -m bench.inspection", description=__doc__)
    parser.add_argument("run", choices=RUNS, nargs="?", default="quick_start")
    parser.add_argument("--steps", type=int, help="optimizer steps (as many as that run has)")
    parser.add_argument("--tiny", action="store_true", help="a run that only shows that this runs")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the lines")
    arguments = parser.parse_args()
    name = "tiny" if arguments.tiny else arguments.run
    steps = arguments.steps or RUNS[name][2]
    for logger in ("lightning.pytorch", "llm"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        on, off = (train(name, steps, inspect, Path(folder)) for inspect in (True, False))
    training = on.seconds - on.inspection_seconds
    fraction, same = on.inspection_seconds / training, on.losses == off.losses
    if arguments.json:
        found = {
            "run": name,
            "n_parameters": on.n_parameters,
            "steps": steps,
            "threads": torch.get_num_threads(),
            "inspection_seconds": on.inspection_seconds,
            "training_seconds": training,
            "fraction": fraction,
            "step_seconds": {"with": on.step_seconds, "without": off.step_seconds},
            "run_seconds": {"with": on.seconds, "without": off.seconds},
            "same_losses": same,
        }
        print(json.dumps(found, indent=1))
        return
    print(f"{name}: {on.n_parameters / 1e6:.1f} million parameters, {steps} steps, {torch.get_num_threads()} threads")
    print(f"inspection       {on.inspection_seconds:8.2f} s in {training:.1f} s of training: {fraction:.2%}")
    print(f"a step, with     {on.step_seconds * 1e3:8.1f} ms (median; a look apart)")
    print(f"a step, without  {off.step_seconds * 1e3:8.1f} ms")
    print(f"the whole run    {on.seconds:8.1f} s with, {off.seconds:.1f} s without")
    print(f"losses           {'the same to the bit' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
