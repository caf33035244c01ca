"""A run that shares its cores: alone, two at once, and beside a busy loop, for settings of the environment.

    python -m bench.crowded --settings "as it comes" "OMP_WAIT_POLICY=PASSIVE" "GOMP_SPINCOUNT=5000 OMP_NUM_THREADS=2"

Threads of OpenMP that wait for each other in a loop hold the core that the one they wait for needs, once there are more
threads than cores. `ours` is `train.py fit --config configs/char.yaml` as a user starts it, without its validations;
`loop` is a bare loop over a GPT of the same size that imports nothing of ours. Each run is a process of its own.

Tokens/s are those of training, start-up apart: over all steps that a run logs, for two at once both together. Seconds
are those of the processes, from the start of the first to the end of the last; `at once` is how many times as soon two
at once are done as one after the other, and `tokens/s at once` the same of tokens/s: 1 is no loss, 0.5 is twice the
time. Settings take turns, so that whatever else the machine does slows all alike; ratios are medians over rounds of the
quotient within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
AS_IT_COMES = "as it comes"
LIBGOMP = "GOMP_SPINCOUNT=300000"
"""What libgomp does by itself; `import llm` sets another."""
PROGRAMS = ("ours", "loop")
SHAPE = {"V": 70, "T": 64, "L": 4, "H": 4, "C": 128, "B": 12}
"""Of the bare loop: that of configs/char.yaml."""
BUSY = "while True: pass"
_LOGGED = "train/tokens_per_second"


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
    parser.add_argument("--steps", type=int, default=200, help="of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each setting (%(default)s)")
    parser.add_argument("--busy", type=int, default=1, help="busy loops beside a run (%(default)s)")
    parser.add_argument(
        "--words", nargs="*", default=[], help="more settings of our run, as --trainer.precision=32-true"
    )
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        print(json.dumps({"tokens_per_second": loop(arguments.steps)}))
        return
    if arguments.tiny:
        arguments.steps, arguments.rounds = 20, 1
    settings = {text: variables(text) for text in arguments.settings}
    turns: dict[tuple[str, str], list[dict[str, float]]] = {}
    load = os.getloadavg()[0]
    for _ in range(arguments.rounds):
        for text, environment in settings.items():
            for program in arguments.programs:
                print(f"{program}, {text} ...", file=sys.stderr, flush=True)
                turn = measure(program, {**os.environ, **environment}, arguments)
                turns.setdefault((program, text), []).append(turn)
    rows = [
        {"program": program, "setting": text, **{name: statistics.median(turn[name] for turn in of) for name in of[0]}}
        for (program, text), of in turns.items()
    ]
    rows.sort(key=lambda row: arguments.programs.index(str(row["program"])))
    if arguments.json:
        machine = {"cores": os.cpu_count(), "load_before": load}
        print(json.dumps({"settings": vars(arguments), **machine, "rows": rows}, indent=1))
        return
    print(f"{arguments.steps} steps, {os.cpu_count()} cores, {arguments.rounds} rounds, load before {load:.1f}")
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


def measure(program: str, environment: dict[str, str], arguments: argparse.Namespace) -> dict[str, float]:
    """One turn: a run alone, two at once, one beside busy loops."""

    def run(n: int) -> tuple[float, float]:
        return run_at_once(program, n, environment, arguments.steps, arguments.words)

    alone, alone_rate = run(1)
    two, two_rate = run(2)
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(arguments.busy)]
    try:
        beside, beside_rate = run(1)
    finally:
        for each in loops:
            each.kill()
            each.wait()
    return {
        "tokens_per_second": alone_rate,
        "seconds": alone,
        "two_at_once_seconds": two,
        "at_once": 2 * alone / two,
        "two_at_once_tokens_per_second": two_rate,
        "at_once_tokens_per_second": two_rate / alone_rate,
        "beside_seconds": beside,
        "beside_tokens_per_second": beside_rate,
    }


def run_at_once(program: str, n: int, environment: dict[str, str], steps: int, more: list[str]) -> tuple[float, float]:
    """Seconds until the last of some runs at once has ended, and tokens/s of all together.

    Raises:
        SystemExit: one failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(number)) for number in range(n)]
        processes = []
        start = time.perf_counter()
        for folder in folders:
            folder.mkdir()
            with (folder / "errors.txt").open("w") as errors, (folder / "output.txt").open("w") as output:
                command = command_of(program, folder, steps, more)
                processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=errors))
        for process in processes:
            process.wait()
        seconds = time.perf_counter() - start
        for process, folder in zip(processes, folders, strict=True):
            if process.returncode:
                errors_of = (folder / "errors.txt").read_text(errors="replace")
                sys.exit(f"{errors_of}error: {' '.join(map(str, process.args))} ended with {process.returncode}")  # type: ignore[arg-type]
        return seconds, sum(rate_of(program, folder) for folder in folders)


def command_of(program: str, folder: Path, steps: int, more: list[str]) -> list[str]:
    if program == "loop":
        return [sys.executable, "-m", "bench.crowded", "--loop", "--steps", str(steps)]
    words = {
        "trainer.max_steps": steps,
        "trainer.limit_val_batches": 0,
        "trainer.logger.init_args.save_dir": folder / "runs",
        "data.cache_dir": folder / "cache",
    }
    flags = [f"--{name}={value}" for name, value in words.items()]
    return [sys.executable, "train.py", "fit", "--config", "configs/char.yaml", *flags, *more]


def rate_of(program: str, folder: Path) -> float:
    """Tokens/s of a run, from what it left behind."""
    if program == "loop":
        return float(json.loads((folder / "output.txt").read_text())["tokens_per_second"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (folder / "runs").rglob("events.out.*")
    scalars = EventAccumulator(str(events), {"scalars": 0}).Reload().Scalars(_LOGGED)
    return statistics.harmonic_mean([event.value for event in scalars])  # all over as many tokens


def loop(steps: int) -> float:
    """A bare loop as a person writes it, with torch as it comes; its tokens/s."""
    import torch

    from bench._nanogpt import NanoGPT

    torch.manual_seed(0)
    B, T = SHAPE["B"], SHAPE["T"]
    model = NanoGPT(SHAPE["V"], T, SHAPE["L"], SHAPE["H"], SHAPE["C"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    start = 0.0
    for step in range(steps + 1):
        if step == 1:  # the first one is slower
            start = time.perf_counter()
        ids = torch.randint(SHAPE["V"], (B, T + 1))
        loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return steps * B * T / (time.perf_counter() - start)


def table(rows: list[dict[str, Any]]) -> str:
    names = ["program", "setting", "tokens/s alone", "s alone", "s, two at once", "at once", "tokens/s at once"]
    lines = [f"| {' | '.join([*names, 'tokens/s beside a busy loop'])} |", f"|{'---|' * (len(names) + 1)}"]
    for row in rows:
        cells = [row["program"], f"`{row['setting']}`", f"{row['tokens_per_second']:,.0f}", f"{row['seconds']:.1f}"]
        cells += [f"{row['two_at_once_seconds']:.1f}", f"{row['at_once']:.2f}"]
        cells += [f"{row['at_once_tokens_per_second']:.2f}", f"{row['beside_tokens_per_second']:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
