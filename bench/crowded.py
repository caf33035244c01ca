"""A run that shares its cores: alone, two at once, and beside a busy loop, for settings of the environment.

    python -m bench.crowded --settings "as it comes" "OMP_WAIT_POLICY=PASSIVE" "GOMP_SPINCOUNT=5000 OMP_NUM_THREADS=2"

Threads of OpenMP that wait for each other in a loop hold the core that the one they wait for needs, once there are
more threads than cores. `ours` is `train.py fit --config configs/char.yaml` without its validations; `loop` is a bare
loop over a GPT of the same size that imports nothing of ours.

All runs of a program are started first and take turns, in which the others sleep, so that whatever else the machine
does slows all alike. Tokens/s are those of all steps of a turn, for two at once both together. `at once` is how many
times as much two get done as one alone in the same time: 1 is no loss, 0.5 is twice the time. `of the first` compares
a setting, alone, with the first one. Ratios are of turns of one round; all figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench._turns import Sleeper, Stopwatch

AS_IT_COMES = "as it comes"
LIBGOMP = "GOMP_SPINCOUNT=300000"
"""What libgomp does by itself."""
PROGRAMS = ("ours", "loop")
SHAPE = {"V": 70, "T": 64, "L": 4, "H": 4, "C": 128, "B": 12}
"""Of both: that of configs/char.yaml."""
BUSY = "while True: pass"


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.crowded", description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--settings",
        nargs="+",
        metavar="NAME=VALUE",
        default=[AS_IT_COMES, LIBGOMP, "OMP_WAIT_POLICY=PASSIVE"],
        help=f"variables of the environment, several in one word apart by spaces; {AS_IT_COMES!r} for none",
    )
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="(all)")
    parser.add_argument("--steps", type=int, default=100, help="of each turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each setting (%(default)s)")
    parser.add_argument("--busy", type=int, default=1, help="busy loops beside a run (%(default)s)")
    parser.add_argument("--alone", action="store_true", help="only turns of runs that are alone")
    parser.add_argument(
        "--words", default="", help="more settings of our run, apart by spaces: --words=--trainer.precision=32-true"
    )
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--take_turns", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.steps, arguments.rounds = 5, 1
    if arguments.take_turns == "ours":
        ours(arguments.steps, arguments.folder, arguments.words.split())
    if arguments.take_turns == "loop":
        loop(arguments.steps)
    settings = {text: variables(text) for text in arguments.settings}
    load = os.getloadavg()[0]
    rows = [row for program in arguments.programs for row in measure(program, settings, arguments)]
    if arguments.json:
        machine = {"cores": os.cpu_count(), "load_before": load}
        print(json.dumps({"settings": vars(arguments), **machine, "rows": rows}, indent=1))
        return
    print(f"{arguments.steps} steps a turn, {os.cpu_count()} cores, {arguments.rounds} rounds, load before {load:.1f}")
    print(table(rows))


def variables(text: str) -> dict[str, str]:
    """The variables of a setting.

    Raises:
        SystemExit: a word is no `NAME=VALUE`.
    """
    if text == AS_IT_COMES:
        return {}
    pairs = [word.partition("=") for word in text.split()]
    if not pairs or not all(name and equals for name, equals, _ in pairs):
        sys.exit(f"error: --settings takes NAME=VALUE, or {AS_IT_COMES!r}; got {text!r}")
    return {name: value for name, _, value in pairs}


def measure(program: str, settings: dict[str, dict[str, str]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each setting of a program."""
    turns: dict[str, list[dict[str, float]]] = {text: [] for text in settings}
    with contextlib.ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        runs: dict[str, list[Sleeper]] = {}
        for text, environment in settings.items():
            print(f"{program}, {text} ...", file=sys.stderr, flush=True)
            for _ in range(1 if arguments.alone else 2):
                own = Path(tempfile.mkdtemp(dir=folder))
                words = ["--take_turns", program, "--steps", str(arguments.steps), "--folder", str(own)]
                command = [sys.executable, "-m", "bench.crowded", *words, f"--words={arguments.words}"]
                run = Sleeper(command, own / "errors.txt", {**os.environ, **environment})
                ends.callback(run.end)
                run.answer()  # it has warmed up, and sleeps
                runs.setdefault(text, []).append(run)
        for number in range(arguments.rounds):
            print(f"{program}, round {number + 1} ...", file=sys.stderr, flush=True)
            for text, own_turns in turns.items():
                own_turns.append({"tokens_per_second": rate(runs[text][:1])})
            for text, own_turns in turns.items():
                if not arguments.alone:
                    own_turns[-1]["two_at_once_tokens_per_second"] = rate(runs[text])
                    with busy_loops(arguments.busy):
                        own_turns[-1]["beside_tokens_per_second"] = rate(runs[text][:1])
    return rows_of(program, turns)


def rate(runs: list[Sleeper]) -> float:
    """Tokens/s of some runs at once, all together."""
    for run in runs:
        run.begin("go")
    return sum(SHAPE["B"] * SHAPE["T"] / run.answer()["mean_ms"] * 1e3 for run in runs)


@contextlib.contextmanager
def busy_loops(n: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.wait()


def rows_of(program: str, turns: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    alone = "tokens_per_second"
    first = next(iter(turns.values()))
    rows = []
    for text, own in turns.items():
        row = {name: statistics.median(turn[name] for turn in own) for name in own[0]}
        row["of_first"] = statistics.median(a[alone] / b[alone] for a, b in zip(own, first, strict=True))
        if (both := "two_at_once_tokens_per_second") in own[0]:
            row["at_once"] = statistics.median(turn[both] / turn[alone] for turn in own)
        rows.append({"program": program, "setting": text, **row})
    return rows


def ours(steps: int, folder: Path, more: list[str]) -> None:
    """A run as a user starts it, which takes turns for ever."""
    from llm.cli.main import main as train  # before torch is imported

    words = {
        "trainer.max_steps": 1_000_000,
        "trainer.limit_val_batches": 0,
        "trainer.logger.init_args.save_dir": folder / "runs",
        "data.cache_dir": folder / "cache",
    }
    flags = [f"--{name}={value}" for name, value in words.items()]
    Stopwatch(warmup=10, steps=steps).follow_optimizers()
    sys.exit(train(["fit", "--config", "configs/char.yaml", *flags, *more]))


def loop(steps: int) -> None:
    """A bare loop as a person writes it, with torch as it comes, which takes turns for ever."""
    import torch

    from bench._nanogpt import NanoGPT

    torch.manual_seed(0)
    Stopwatch(warmup=10, steps=steps).follow_optimizers()
    B, T = SHAPE["B"], SHAPE["T"]
    model = NanoGPT(SHAPE["V"], T, SHAPE["L"], SHAPE["H"], SHAPE["C"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    while True:
        ids = torch.randint(SHAPE["V"], (B, T + 1))
        loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def table(rows: list[dict[str, Any]]) -> str:
    names = {
        "tokens/s alone": ("tokens_per_second", ",.0f"),
        "of the first": ("of_first", ".2f"),
        "two at once": ("two_at_once_tokens_per_second", ",.0f"),
        "at once": ("at_once", ".2f"),
        "beside a busy loop": ("beside_tokens_per_second", ",.0f"),
    }
    names = {name: of for name, of in names.items() if of[0] in rows[0]}
    lines = [f"| {' | '.join(['program', 'setting', *names])} |", f"|{'---|' * (len(names) + 2)}"]
    for row in rows:
        cells = [format(row[key], style) for key, style in names.values()]
        lines.append(f"| {row['program']} | `{row['setting']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
