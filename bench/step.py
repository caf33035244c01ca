"""One training step: ours through the Trainer against bare loops, transformers, litgpt and the book's loop.

Every way trains the same architecture on the same random tokens in a process of its own, so that its peak memory is
its own. The processes take turns, a few steps each, and while one steps the others sleep; a round is one turn of each.
Times are medians over rounds of a turn's median step, ratios are medians over rounds of the quotient within a round.
The processor time of a step is there because other programs on the machine lengthen it less than the wall-clock's.

MFU, where the GPU's peak is known, is model FLOP utilization: a token needs 6 N + 12 L H Q T operations (PaLM,
Chowdhery et al. 2022, appendix B; see `llm.training.throughput`), times tokens/s, divided by the peak in 16 bits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import _rivals
from bench._turns import Sleeper, Stopwatch

SIZES: dict[str, dict[str, int]] = {
    "30m": {"V": 50257, "T": 256, "L": 6, "H": 6, "C": 384, "B": 4, "steps": 3},
    "small": {"V": 65, "T": 64, "L": 4, "H": 4, "C": 128, "B": 12, "steps": 30},
    "3m": {"V": 65, "T": 128, "L": 4, "H": 4, "C": 256, "B": 12, "steps": 15},
    "124m": {"V": 50257, "T": 1024, "L": 12, "H": 12, "C": 768, "B": 16, "steps": 10},
    "tiny": {"V": 65, "T": 8, "L": 1, "H": 2, "C": 8, "B": 2, "steps": 20},
}
"""Vocabulary, context, layers, heads, width, batch; and the steps of a turn."""

WAYS = {
    "loop": "a bare loop, eager, float32",
    "loop compiled": "a bare loop, torch.compile, bfloat16 autocast",
    "module loop": "a bare loop over our module's own training step, bfloat16",
    "trainer": "ours: Trainer, default callbacks, bfloat16",
    "trainer compiled": "ours, with --model.compile true",
    "trainer float32": "ours, with --trainer.precision 32-true",
    "transformers": "transformers' Trainer, its GPT-2, float32",
    "transformers bf16": "transformers' Trainer, its GPT-2, bfloat16",
    "litgpt": "what litgpt pretrain runs, its GPT with rotary positions, compiled, float32",
    "litgpt bf16": "the same, bfloat16, which is its default",
    "book": "LLMs from scratch: its GPTModel and its train_model_simple, float32",
}
IN_32_BITS = ("loop", "trainer float32", "transformers", "litgpt", "book")


def main() -> None:
    ways = "".join(f"\n  {way:<17} {what}" for way, what in WAYS.items())
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.step", description=f"{__doc__}\nWays:{ways}", formatter_class=raw)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="(30m small; on a GPU 124m)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="(all)")
    parser.add_argument("--batch", type=int, help="windows in a batch (the size's own)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="(cuda where there is one)")
    parser.add_argument("--tiny", action="store_true", help="a size that only shows that this runs, nothing compiled")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for all (%(default)s)")
    _rivals.add_litgpt_python(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the tables")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        take_turns(arguments.way, size_of(arguments.sizes[0], arguments), arguments.threads, Path(arguments.folder))
        return
    device = device_name(arguments)
    arguments.sizes = arguments.sizes or (["30m", "small"] if arguments.device == "cpu" else ["124m"])
    programs = {way.split()[0] for way in arguments.ways}
    there = {program for program in sorted(programs) if is_there(program, arguments)}
    arguments.ways = [way for way in arguments.ways if way.split()[0] in there]
    if arguments.tiny:
        arguments.sizes, arguments.rounds = ["tiny"], 1
        arguments.ways = [way for way in arguments.ways if "compiled" not in way]
    with tempfile.TemporaryDirectory() as folder:
        results = {size: measure(size, arguments, folder) for size in arguments.sizes}
    if arguments.json:
        sizes = {"device": device, "load": os.getloadavg(), "sizes": results}
        print(json.dumps({"settings": vars(arguments), **sizes}, indent=1))
        return
    for size, rows in results.items():
        print(f"\n{size}: {size_of(size, arguments)}, {device}, {arguments.threads} threads", end="")
        print(f", {arguments.rounds} rounds, load before and after {rows[0]['load_before']:.1f}", end="")
        print(f", {os.getloadavg()[0]:.1f}")
        print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    names = [
        "ms a step",
        "processor ms",
        "tokens/s",
        "MFU",
        "against loop",
        "against compiled",
        "peak MB",
        "of first's",
    ]
    with_mfu = any(row["mfu"] is not None for row in rows)
    lines = [f"| {'way':<17} | {' | '.join(name for name in names if with_mfu or name != 'MFU')} |"]
    lines += [f"|---{'|---' * (len(names) - (not with_mfu))}|"]
    for row in rows:
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
        cells = [f"{row['way']:<17}", f"{row['ms']:.1f}", f"{row['cpu_ms']:.1f}", f"{row['tokens_per_second']:,.0f}"]
        cells += [mfu] * with_mfu
        cells += [f"{row['to_loop']:.2f}", f"{row['to_compiled']:.2f}"]
        cells += [f"{row['peak_mb']:.0f}", f"{row['peak_mb'] / rows[0]['peak_mb']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def size_of(name: str, arguments: argparse.Namespace) -> dict[str, int]:
    return SIZES[name] | ({"B": arguments.batch} if arguments.batch else {})


def device_name(arguments: argparse.Namespace) -> str:
    """What all run on, in words; settles `--device`."""
    import torch

    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        sys.exit("error: --device cuda: torch finds no CUDA device")
    from llm.runtime.hardware import peak_flops

    peak = peak_flops(torch.device("cuda"), "bf16-mixed")
    known = f"peak {peak / 1e12:.0f} TFLOP/s in 16 bits, dense" if peak else "peak not known, so no MFU"
    return f"{torch.cuda.get_device_name()} ({known})"


def is_there(program: str, arguments: argparse.Namespace) -> bool:
    """Whether what a way needs is installed; if not, says how to get it."""
    missing = {
        "transformers": [name for name in ("transformers", "accelerate") if find_spec(name) is None],
        "litgpt": [] if arguments.litgpt_python else ["--litgpt_python, see bench/README.md"],
        "book": [] if find_spec("llms_from_scratch") else ["pip install --no-deps llms-from-scratch"],
    }.get(program)
    if missing:
        print(f"{program} is skipped: it needs {' and '.join(missing)}", file=sys.stderr)
    return not missing


def measure(size: str, arguments: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """One row for each way."""
    load = os.getloadavg()[0]
    environment = dict(os.environ)
    if arguments.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if arguments.tiny:
        environment["TORCHDYNAMO_DISABLE"] = "1"  # litgpt always compiles
    sleepers: dict[str, Sleeper] = {}
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in arguments.ways}
    try:
        for way in arguments.ways:
            own = Path(folder, size, way)
            own.mkdir(parents=True)
            python = arguments.litgpt_python if way.startswith("litgpt") else sys.executable
            command = [python, "-m", "bench.step", "--way", way, "--sizes", size, "--threads", str(arguments.threads)]
            command += ["--folder", str(own), *(["--batch", str(arguments.batch)] if arguments.batch else [])]
            sleepers[way] = Sleeper(command, own / "errors.txt", environment)
            sleepers[way].answer()  # it has warmed up, and sleeps
        for _ in range(arguments.rounds):
            for way, sleeper in sleepers.items():
                rounds[way].append(sleeper.answer("go"))
    finally:
        for sleeper in sleepers.values():
            sleeper.end()
    n_tokens = size_of(size, arguments)["B"] * size_of(size, arguments)["T"]
    rows = []
    for way, turns in rounds.items():
        ms = statistics.median(turn["ms"] for turn in turns)
        tokens_per_second = n_tokens / ms * 1e3
        rows.append(
            {
                "way": way,
                "ms": ms,
                "cpu_ms": statistics.median(turn["cpu_ms"] for turn in turns),
                "tokens_per_second": tokens_per_second,
                "mfu": utilization(way, size_of(size, arguments), tokens_per_second, arguments.device),
                "to_loop": ratio(rounds.get("loop"), turns),
                "to_compiled": ratio(rounds.get("loop compiled"), turns),
                "peak_mb": turns[-1]["peak_mb"],
                "load_before": load,
            }
        )
    return rows


def ratio(theirs: list[dict[str, float]] | None, ours: list[dict[str, float]]) -> float:
    """How many times as fast ours is."""
    pairs = zip(theirs, ours, strict=True) if theirs else []
    return statistics.median([a["ms"] / b["ms"] for a, b in pairs] or [float("nan")])


def utilization(way: str, size: dict[str, int], tokens_per_second: float, device: str) -> float | None:
    """MFU of a way that computes in 16 bits, where the peak is known."""
    if way in IN_32_BITS or device == "cpu":
        return None
    import torch

    from llm import GPT, GPTConfig
    from llm.runtime.hardware import peak_flops
    from llm.training.flops import flops_per_token

    config = GPTConfig(size["V"], size["T"], size["L"], size["H"], size["C"], dropout=0.0)
    with torch.device("meta"):
        n_parameters = GPT(config).n_parameters
    peak = peak_flops(torch.device(device), "bf16-mixed")
    return peak and tokens_per_second * flops_per_token(config, n_parameters) / peak


def take_turns(way: str, size: dict[str, int], threads: int, folder: Path) -> None:
    """Train one way for ever: whoever asks for turns ends the process, too."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    Stopwatch(warmup=3 if size["L"] > 1 else 1, steps=size["steps"]).follow_optimizers()
    ids = torch.randint(size["V"], (16 * size["B"], size["T"] + 1))
    if way.startswith("transformers"):
        _rivals.transformers(size, ids, "bf16" in way, folder)
    elif way.startswith("litgpt"):
        _rivals.litgpt(size, ids, "bf16-mixed" if "bf16" in way else "32-true", folder)
    elif way == "book":
        _rivals.book(size, ids)
    else:
        from bench import _ways

        if way.startswith("loop"):
            _ways.loop(size, ids, "compiled" in way)
        elif way == "module loop":
            _ways.module_loop(size, ids)
        else:
            flags = {"trainer compiled": ["--model.compile=true"], "trainer float32": ["--trainer.precision=32-true"]}
            _ways.trainer(size, ids, folder, *flags.get(way, []))


if __name__ == "__main__":
    main()
