"""How soon a loss is reached: the modern preset against GPT-2 with a tuned AdamW.

    python -m bench.path --corpus 'texts/*.txt'

Both are four layers 128 wide with a context of 64 characters, and every step of both sees 12 x 64 tokens, in float32,
in the same loop. GPT-2 runs for 2,000 steps; the modern preset, which is `configs/modern.yaml`, for 400. The loss that
GPT-2 ends with is the goal; the ratio is the fraction of GPT-2's time in which the modern preset's validation loss gets
there. Validation is not counted. The modern preset's head has weights of its own, 12 thousand more than GPT-2's tied
one with a hundred characters.

The two take turns, a few steps each, so that whatever else the machine does slows both alike. Three clocks are shown:
the wall, this process's CPU time, and steps times the median time of a step, which no interruption moves.

Both were tuned on training and validation text alone. For GPT-2 were tried the rates 0.003, 0.006, 0.008, 0.01, 0.012,
0.015 and 0.02, and 0.99 in place of 0.95 for AdamW's beta2, with a cosine to zero and no dropout, which costs in a
single pass over the text. For the modern preset: Muon 0.015 to 0.04 with momentum 0.8 to 0.95, AdamW 0.005 to 0.05,
falling over 40, 70 and 100 % of the run, no warm-up, the head tied and not, and 8 windows a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from matplotlib.figure import Figure
from torch import Tensor

from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.model import GPT
from llm.training.optimizer import build_optimizer, build_schedule

STORY = Path(__file__).parents[1] / "data" / "story.txt"
MODERN = Path(__file__).parents[1] / "configs" / "modern.yaml"

GPT2 = {
    "gpt": {"n_layer": 4, "n_head": 4, "n_embd": 128, "dropout": 0.0},
    "optim": {
        "learning_rate": 1e-2,
        "beta2": 0.99,
        "warmup_steps": 100,
        "final_learning_rate_ratio": 0.0,
        "weight_decay": 0.1,
    },
}

CLOCKS = ("wall", "cpu", "median")


class Run:
    """A model on its way, with its clocks and its curve.

    Args:
        name: shown.
        settings: `gpt` and `optim`, as in a configuration file.
        datamodule: whose windows are learned and validated on.
        steps: of the whole run.
        every: steps between two points of the curve.
        seed: of weights and order.
    """

    def __init__(
        self, name: str, settings: dict[str, Any], datamodule: TextDataModule, steps: int, every: int, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.name, self.steps, self.every = name, steps, every
        config = GPTConfig(datamodule.vocab_size, datamodule.context_length, **settings["gpt"])
        optim = OptimConfig(**settings["optim"])
        self.model = GPT(config)
        self.optimizer = build_optimizer(self.model, optim)
        self.schedule = build_schedule(self.optimizer, optim, steps)
        self.datamodule = datamodule
        tokens = datamodule.train_tokens
        self.tokens = torch.from_numpy(tokens.astype("int64"))
        self.random = torch.Generator().manual_seed(seed)
        self.step = 0
        self.seconds: dict[str, list[float]] = {"wall": [], "cpu": []}
        self.curve: list[dict[str, float]] = []

    @property
    def is_done(self) -> bool:
        """Whether all steps are made."""
        return self.step == self.steps

    def advance(self, n_steps: int) -> None:
        """Make some steps, with a point of the curve before the first step, when it is time to, and after the last."""
        for _ in range(min(n_steps, self.steps - self.step)):
            if self.step % self.every == 0:
                self._validate()
            starts = time.perf_counter(), time.process_time()
            self._train()
            self.seconds["wall"].append(time.perf_counter() - starts[0])
            self.seconds["cpu"].append(time.process_time() - starts[1])
            self.step += 1
            if self.is_done:
                self._validate()

    def elapsed(self, step: int, clock: str) -> float:
        """Seconds of training up to a step."""
        if clock == "median":
            return step * statistics.median(self.seconds["cpu"])
        return sum(self.seconds[clock][:step])

    def _train(self) -> None:
        B, T = self.datamodule.batch_size, self.datamodule.context_length
        starts = torch.randint(len(self.tokens) - T, (B,), generator=self.random)
        windows = self.tokens[starts[:, None] + torch.arange(T + 1)]  # (B) -> (B, T + 1)
        loss = cross_entropy(self.model, windows[:, :-1], windows[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()

    @torch.no_grad()
    def _validate(self) -> None:
        self.model.eval()
        total, n_tokens = 0.0, 0
        for inputs, targets, *_ in self.datamodule.val_dataloader():
            total += float(cross_entropy(self.model, inputs, targets)) * targets.numel()
            n_tokens += targets.numel()
        self.model.train()
        self.curve.append({"step": self.step, "validation_loss": total / n_tokens})

    def first_step_at(self, loss: float) -> float | None:
        """The step at which the curve, straight between its points, reaches a loss; None if it does not."""
        for before, after in zip(self.curve, self.curve[1:], strict=False):
            if after["validation_loss"] <= loss:
                fall = before["validation_loss"] - after["validation_loss"]
                fraction = (before["validation_loss"] - loss) / fall if fall > 0 else 1.0
                return before["step"] + max(0.0, fraction) * (after["step"] - before["step"])
        return None


def cross_entropy(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())  # (B, T, V) -> (B T, V)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.path", description=__doc__, formatter_class=raw)
    parser.add_argument("--corpus", default=str(STORY), help="a text file, a folder or a pattern (%(default)s)")
    parser.add_argument("--gpt2_steps", type=int, default=2000, help="of GPT-2 (%(default)s)")
    parser.add_argument("--modern_steps", type=int, default=400, help="of the modern preset (%(default)s)")
    parser.add_argument("--every", type=int, default=100, help="GPT-2's steps between validations (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="for both (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a few steps of a tiny model, to see that it runs")
    parser.add_argument("--picture", type=Path, help="also draw both curves into this PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the tables")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    file = yaml.safe_load(MODERN.read_text(encoding="utf-8"))
    modern, data = file["model"], dict[str, Any](context_length=64, batch_size=12)
    modern_steps = arguments.modern_steps
    every = arguments.every
    gpt2 = GPT2
    if arguments.tiny:
        tiny = {"n_layer": 1, "n_head": 2, "n_embd": 16}
        gpt2, modern = ({**run, "gpt": {**run["gpt"], **tiny}} for run in (gpt2, modern))
        data, every, modern_steps, arguments.gpt2_steps = {"context_length": 8, "batch_size": 4}, 5, 5, 20
    with tempfile.TemporaryDirectory() as cache:
        datamodule = TextDataModule(arguments.corpus, TokenizerConfig("char"), cache_dir=cache, **data)
        datamodule.prepare_data()
        datamodule.setup("fit")
        runs = [
            Run("gpt2", gpt2, datamodule, arguments.gpt2_steps, every, arguments.seed),
            Run("modern", modern, datamodule, modern_steps, max(1, every // 4), arguments.seed),
        ]
        turns = max(1, min(run.steps for run in runs) // 5)
        while not all(run.is_done for run in runs):
            for run in runs:
                run.advance(-(-run.steps // turns))
    report(runs, arguments)
    if arguments.picture:
        draw(runs, arguments.picture)


def draw(runs: list[Run], picture: Path) -> None:
    """Both curves over the seconds of training, as steps times the median time of one."""
    figure = Figure(figsize=(7, 3.4), dpi=110, layout="constrained")
    axis = figure.subplots()
    goal = runs[0].curve[-1]["validation_loss"]
    axis.axhline(goal, color="#9aa5b1", linewidth=0.8, linestyle=":")
    for run, colour in zip(runs, ("#9aa5b1", "#0b6e99"), strict=True):
        points = run.curve[1:]  # from nothing to the first is not worth the height
        seconds = [run.elapsed(int(point["step"]), "median") for point in points]
        losses = [point["validation_loss"] for point in points]
        axis.plot(seconds, losses, label=f"{run.name}, {run.steps:,} steps", color=colour)
    axis.set_ylim(top=goal + 1.0)
    axis.set_xlim(left=0)
    axis.set_xlabel("seconds of training, one thread")
    axis.set_ylabel("validation loss (nats a character)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(picture, metadata={"Software": None})


def report(runs: list[Run], arguments: argparse.Namespace) -> None:
    gpt2, modern = runs
    goal = gpt2.curve[-1]["validation_loss"]
    reached = modern.first_step_at(goal)
    ratios = {
        clock: None if reached is None else modern.elapsed(round(reached), clock) / gpt2.elapsed(gpt2.steps, clock)
        for clock in CLOCKS
    }
    for run in runs:
        for point in run.curve:
            point |= {f"{clock}_seconds": run.elapsed(int(point["step"]), clock) for clock in CLOCKS}
    if arguments.json:
        document = {
            "settings": {
                name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()
            },
            "goal": goal,
            "modern_steps_to_goal": reached,
            "time_ratios": ratios,
            "runs": {run.name: {"curve": run.curve, "gpt": asdict(run.model.config)} for run in runs},
        }
        print(json.dumps(document, indent=1))
        return
    for run in runs:
        print(f"{run.name}: {run.model.n_parameters:,} parameters, {run.steps} steps")
        print(f"{'step':>6} {'wall (s)':>9} {'CPU (s)':>9} {'median (s)':>10} {'validation loss':>15}")
        for point in run.curve:
            times = [point[f"{clock}_seconds"] for clock in CLOCKS]
            print(f"{point['step']:>6} {times[0]:>9.1f} {times[1]:>9.1f} {times[2]:>10.1f} ", end="")
            print(f"{point['validation_loss']:>15.4f}")
    if reached is None:
        print(f"modern does not reach gpt2's loss of {goal:.4f} in {modern.steps} steps")
        return
    shares = ", ".join(f"{ratio:.1%} by {clock}" for clock, ratio in ratios.items())
    print(f"modern reaches gpt2's loss of {goal:.4f} after {reached:.0f} steps: of gpt2's time {shares}")


if __name__ == "__main__":
    main()
