"""GPT-2's vocabulary against one of the corpus's own: bits per byte and a sample after equal processor time.

    python -m bench.vocabulary --corpus story
    python -m bench.vocabulary --corpus state-of-the-union --seconds 120

Each tokenizer trains the model of `configs/default.yaml` for the same processor seconds on one thread, data, optimizer
and all; validations and samples are not counted. A few steps before tell how many the time is enough for, so that each
has the whole of its learning rate's schedule. Bits per byte, unlike the loss of a token, compare tokenizers.
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
from typing import Any

import lightning as L
import torch
import yaml

from llm import GPTConfig, LanguageModel, OptimConfig, SamplingConfig, TextDataModule, TokenizerConfig, continue_texts

DEFAULT = Path(__file__).parents[1] / "configs" / "default.yaml"
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler"), False
)
PROBE = 12
"""Steps that are made to know how long one takes."""


class Clock(L.Callback):
    """Processor seconds of training, the bits per byte at each validation, and a sample of some."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.points: list[tuple[float, float]] = []

    def on_train_start(self, *_: Any) -> None:
        """Training begins."""
        self._start = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """A step is made."""
        self.steps.append(time.process_time() - self._start)
        self._start = time.process_time()

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """A validation is, which does not count."""
        self.points.append((sum(self.steps), float(trainer.callback_metrics["validation/bits_per_byte"])))
        self._start = time.process_time()


def main() -> None:
    """Train with each tokenizer, and print what each came to."""
    parser = argparse.ArgumentParser(
        "python -m bench.vocabulary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", default="story", help="as data.corpus takes it (%(default)s)")
    add("--tokenizers", nargs="+", default=["gpt2", "2000", "1000", "500", "char"], help="kinds, or sizes of bpe")
    add("--seconds", type=float, default=120.0, help="processor time of each (%(default)s)")
    add("--points", type=int, default=6, help="validations of each (%(default)s)")
    add("--sampled_from", default="The", help="what the samples go on from (%(default)r)")
    add("--seed", type=int, default=0, help="of weights, order and samples (%(default)s)")
    add("--tiny", action="store_true", help="a second each, to see that it runs")
    add("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.seconds, arguments.points, arguments.tokenizers = 0.5, 1, ["400", "char"]
    warnings.filterwarnings("ignore")
    for name in ("llm", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in arguments.tokenizers:
            found[name] = measure(name, arguments, cache)
            if not arguments.json:
                report(name, found[name])
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), "tokenizers": found}, indent=1))


def measure(name: str, arguments: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Train with one tokenizer."""
    settings = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    tokenizer = TokenizerConfig("bpe", int(name)) if name.isdecimal() else TokenizerConfig(name)
    own = {"corpus": arguments.corpus, "tokenizer": tokenizer, "num_workers": 0, "cache_dir": cache}
    if arguments.tiny:
        settings["model"]["gpt"] |= {"n_layer": 1, "n_embd": 16}
    datamodule = TextDataModule(**settings["data"] | own)
    datamodule.prepare_data()
    datamodule.setup("fit")
    _, probed = train(settings, datamodule, PROBE, None, arguments.seed)
    steps = max(1, round(arguments.seconds / statistics.median(probed.steps[2:])))
    module, clock = train(settings, datamodule, steps, max(1, steps // arguments.points), arguments.seed)
    torch.manual_seed(arguments.seed)
    bytes_per_token = datamodule.bytes_per_token("validation") or 1.0
    tokens = round(250 / bytes_per_token)
    sampling = SamplingConfig(tokens, temperature=0.8, compile="never")
    prompt = torch.tensor(datamodule.tokenizer.encode_prompt(arguments.sampled_from))
    (sample,) = continue_texts(module.gpt.eval(), datamodule.tokenizer, [prompt], sampling)
    return {
        "vocab_size": datamodule.vocab_size,
        "parameters": module.gpt.n_parameters,
        "bytes_per_token": bytes_per_token,
        "steps": steps,
        "seconds": sum(clock.steps),
        "points": clock.points,
        "best": min(bits for _, bits in clock.points),
        "last": clock.points[-1][1],
        "sample": arguments.sampled_from + sample.text,
    }


def train(
    settings: dict[str, Any], datamodule: TextDataModule, steps: int, every: int | None, seed: int
) -> tuple[LanguageModel, Clock]:
    """Make some steps, with a validation now and then."""
    L.seed_everything(seed, verbose=False)
    gpt = GPTConfig(datamodule.vocab_size, datamodule.context_length, **settings["model"]["gpt"])
    module, clock = LanguageModel(gpt, OptimConfig(**settings["model"]["optim"])), Clock()
    limits: dict[str, Any] = {"limit_val_batches": 0} if every is None else {"val_check_interval": every}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        callbacks=[clock],
        **limits,
        **QUIET,
    )
    trainer.fit(module, datamodule)
    return module, clock


def report(name: str, found: dict[str, Any]) -> None:
    """One tokenizer's figures, curve and sample."""
    print(
        f"{name}: {found['vocab_size']:,} tokens, {found['parameters']:,} parameters, {found['bytes_per_token']:.2f} "
        f"bytes per token, {found['steps']:,} steps in {found['seconds']:.0f} s; bits per byte {found['last']:.3f}, "
        f"at best {found['best']:.3f}"
    )
    print("  " + "  ".join(f"{seconds:.0f} s {bits:.3f}" for seconds, bits in found["points"]))
    print("  " + found["sample"].replace("\n", "\n  "), flush=True)


if __name__ == "__main__":
    main()
