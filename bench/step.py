"""One training step: `python -m bench.step`, ours through the Trainer against bare loops and `transformers`.

Every way trains the same architecture on the same random tokens in a process of its own, so that its peak memory is
its own. The processes take turns, a few steps each, and while one steps the others sleep; a round is one turn of each.
Times are medians over rounds of a turn's median step, ratios are medians over rounds of the quotient within a round.
The processor time of a step is there because other programs on the machine lengthen it less than the wall-clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "30m": {"V": 50257, "T": 256, "L": 6, "H": 6, "C": 384, "B": 4, "steps": 3},
    "small": {"V": 65, "T": 64, "L": 4, "H": 4, "C": 128, "B": 12, "steps": 30},
    "tiny": {"V": 65, "T": 8, "L": 1, "H": 2, "C": 8, "B": 2, "steps": 20},
}
"""Vocabulary, context, layers, heads, width, batch; and the steps of a turn."""

WAYS = {
    "loop": "a bare loop, eager, float32",
    "loop compiled": "a bare loop, torch.compile, bfloat16 autocast",
    "module loop": "a bare loop over our module's own training step, bfloat16",
    "trainer": "ours: Trainer, default callbacks, bfloat16",
    "trainer compiled": "ours, with --model.compile true",
    "transformers": "transformers' Trainer, its GPT-2, float32",
    "transformers bf16": "transformers' Trainer, its GPT-2, bfloat16",
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.step", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["30m", "small"], help="(%(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="(all)")
    parser.add_argument("--tiny", action="store_true", help="a size that only shows that this runs, nothing compiled")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for all (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the tables")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        turns(arguments.way, SIZES[arguments.sizes[0]], arguments.threads, Path(arguments.folder))
        return
    if find_spec("transformers") is None or find_spec("accelerate") is None:
        print("transformers' Trainer is left out: it needs transformers and accelerate", file=sys.stderr)
        arguments.ways = [way for way in arguments.ways if "transformers" not in way]
    if arguments.tiny:
        arguments.sizes, arguments.rounds = ["tiny"], 1
        arguments.ways = [way for way in arguments.ways if "compiled" not in way]
    with tempfile.TemporaryDirectory() as folder:
        results = {size: measure(size, arguments, folder) for size in arguments.sizes}
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), "load": os.getloadavg(), "sizes": results}, indent=1))
        return
    for size, rows in results.items():
        print(f"\n{size}: {SIZES[size]}, {arguments.threads} threads, {arguments.rounds} rounds", end="")
        print(f", load before and after {rows[0]['load_before']:.1f}, {os.getloadavg()[0]:.1f}")
        print(f"| {'way':<17} | ms a step | processor ms | against loop | against compiled | peak MB | of loop's |")
        print("|---|---|---|---|---|---|---|")
        for row in rows:
            print(
                f"| {row['way']:<17} | {row['ms']:.1f} | {row['cpu_ms']:.1f} | {row['to_loop']:.2f} | "
                f"{row['to_compiled']:.2f} | {row['peak_mb']:.0f} | {row['peak_mb'] / rows[0]['peak_mb']:.2f} |"
            )


def measure(size: str, arguments: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """One row for each way."""
    load = os.getloadavg()[0]
    processes: dict[str, subprocess.Popen[str]] = {}
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in arguments.ways}
    try:
        for way in arguments.ways:
            own = Path(folder, size, way)
            own.mkdir(parents=True)
            command = [sys.executable, "-m", "bench.step", "--way", way, "--sizes", size]
            command += ["--threads", str(arguments.threads), "--folder", str(own)]
            processes[way] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            answer(processes[way])  # it has warmed up, and sleeps
        for _ in range(arguments.rounds):
            for way, process in processes.items():
                rounds[way].append(answer(process, "go"))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return [
        {
            "way": way,
            "ms": statistics.median(turn["ms"] for turn in turns),
            "cpu_ms": statistics.median(turn["cpu_ms"] for turn in turns),
            "to_loop": ratio(rounds.get("loop"), turns),
            "to_compiled": ratio(rounds.get("loop compiled"), turns),
            "peak_mb": turns[-1]["peak_mb"],
            "load_before": load,
        }
        for way, turns in rounds.items()
    ]


def ratio(theirs: list[dict[str, float]] | None, ours: list[dict[str, float]]) -> float:
    """How many times as fast ours is."""
    pairs = zip(theirs, ours, strict=True) if theirs else []
    return statistics.median([a["ms"] / b["ms"] for a, b in pairs] or [float("nan")])


def answer(process: subprocess.Popen[str], word: str | None = None) -> dict[str, float]:
    """Send a word to a process, wait for its line."""
    assert process.stdin is not None
    assert process.stdout is not None
    if word is not None:
        print(word, file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        sys.exit(f"error: {' '.join(map(str, process.args))} ended")  # type: ignore[arg-type]
    return dict(json.loads(line))


class Stopwatch:
    """Called after every step; waits for its turn whenever one is over."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.left, self.steps = warmup, steps
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.before = time.perf_counter(), time.process_time()
        self.pipe, sys.stdout = sys.stdout, sys.stderr  # what others print is no answer

    def __call__(self) -> None:
        """Note the step; after the last of a turn, say how long they took and wait."""
        now = time.perf_counter(), time.process_time()
        self.wall.append(now[0] - self.before[0])
        self.cpu.append(now[1] - self.before[1])
        self.left -= 1
        if self.left == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
            wall, cpu = statistics.median(self.wall), statistics.fmean(self.cpu)
            print(json.dumps({"ms": wall * 1e3, "cpu_ms": cpu * 1e3, "peak_mb": peak}), file=self.pipe, flush=True)
            sys.stdin.readline()
            self.left, self.wall, self.cpu = self.steps, [], []
        self.before = time.perf_counter(), time.process_time()


def turns(way: str, size: dict[str, int], threads: int, folder: Path) -> None:
    """Train one way for ever: whoever asks for turns ends the process, too."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    watch = Stopwatch(warmup=3 if size["L"] > 1 else 1, steps=size["steps"])
    ids = torch.randint(size["V"], (16 * size["B"], size["T"] + 1))
    if way.startswith("loop"):
        loop(watch, size, ids, "compiled" in way)
    elif way == "module loop":
        module_loop(watch, size, ids)
    elif way.startswith("trainer"):
        trainer(watch, size, ids, "compiled" in way, folder)
    else:
        transformers(watch, size, ids, "bf16" in way, folder)


def gpt_config(size: dict[str, int]) -> Any:
    from llm import GPTConfig

    return GPTConfig(size["V"], size["T"], size["L"], size["H"], size["C"], dropout=0.0)


def loop(watch: Callable[[], None], size: dict[str, int], ids: Any, compiled: bool) -> None:
    """What a person writes who writes the loop: AdamW as torch has it, the gradient norm clipped."""
    import torch
    import torch.nn.functional as F

    from llm import GPT

    model = GPT(gpt_config(size))
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    while True:
        for batch in ids.split(size["B"]):
            with torch.autocast("cpu", torch.bfloat16, enabled=compiled):
                logits = forward(batch[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            watch()


def module_loop(watch: Callable[[], None], size: dict[str, int], ids: Any) -> None:
    """Our module without a Trainer: what the Trainer's own cost is measured against."""
    import torch

    from llm.training import LanguageModel
    from llm.training.loss import head_loss
    from llm.training.optimizer import build_optimizer

    module = LanguageModel(gpt_config(size))
    optimizer = build_optimizer(module.gpt, module.optim)
    while True:
        for batch in ids.split(size["B"]):
            with torch.autocast("cpu", torch.bfloat16):
                loss = head_loss(module.gpt.head, module.gpt.features(batch[:, :-1]), batch[:, 1:]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            watch()


def trainer(watch: Callable[[], None], size: dict[str, int], ids: Any, compiled: bool, folder: Path) -> None:
    """As a user does: `train.py fit` with all its callbacks, on a text of random tokens."""
    from bench._turns import Turns
    from llm.cli import main as train

    Turns.watch = watch
    corpus, tokenizer = folder / "corpus.txt", "gpt2"
    if size["V"] == 65:
        letters = [chr(ord("0") + token) for token in range(65)]
        corpus.write_text("".join(letters) + "".join(letters[token] for token in ids.flatten().tolist()))
        tokenizer = "char"
    else:
        from llm import TokenizerConfig
        from llm.tokenizers import build_tokenizer

        corpus.write_text(build_tokenizer(TokenizerConfig("gpt2"), []).decode(ids.flatten().tolist()))
    words = {
        "data.corpus": corpus,
        "data.tokenizer.kind": tokenizer,
        "data.context_length": size["T"],
        "data.batch_size": size["B"],
        "data.cache_dir": folder / "cache",
        "model.gpt.n_layer": size["L"],
        "model.gpt.n_head": size["H"],
        "model.gpt.n_embd": size["C"],
        "model.gpt.dropout": 0.0,
        "model.compile": str(compiled).lower(),
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 1_000_000,
        "trainer.val_check_interval": 1_000_000,
        "trainer.num_sanity_val_steps": 0,
        "trainer.logger.init_args.save_dir": folder / "runs",
        "trainer.callbacks+": "bench._turns.Turns",
    }
    if tokenizer == "char":
        words["data.tokenizer.specials"] = "[]"
    if status := train(["fit", *(f"--{name}={value}" for name, value in words.items())]):
        sys.exit(status)


def transformers(watch: Callable[[], None], size: dict[str, int], ids: Any, bf16: bool, folder: Path) -> None:
    """`transformers.Trainer` with its GPT-2 of the same shape."""
    import transformers

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            watch()

    config = transformers.GPT2Config(
        vocab_size=size["V"],
        n_positions=size["T"],
        n_embd=size["C"],
        n_layer=size["L"],
        n_head=size["H"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    # Their loss moves the labels itself, so that all T + 1 tokens would be read: one fewer, for equal work.
    rows = [{"input_ids": row[:-1], "labels": row[:-1]} for row in ids]
    settings = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=size["B"],
        max_steps=1_000_000,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=bf16,
        learning_rate=1e-3,
        disable_tqdm=True,
    )
    transformers.Trainer(
        transformers.GPT2LMHeadModel(config), settings, train_dataset=rows, callbacks=[Watch()]
    ).train()


if __name__ == "__main__":
    main()
