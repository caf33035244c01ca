"""How good the preflight's figures are: `python -m bench.preflight`.

For each size, in a process of its own: the peak of memory and the seconds of a batch, as they are estimated before a
run and as they are found when some steps are made.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from llm import GPTConfig, OptimConfig
from llm.preflight.costs import step_costs
from llm.preflight.memory import Parameters, expected_memory, process_memory
from llm.preflight.timing import estimated_seconds, measure_steps

MODERN: dict[str, Any] = {"positions": "rotary", "qk_norm": True, "norm": "rms_norm", "activation": "squared_relu"}

SIZES: list[tuple[GPTConfig, int]] = [
    (GPTConfig(62, 64, n_layer=4, n_head=4, n_embd=128, dropout=0.2), 12),
    (GPTConfig(50257, 64, n_layer=4, n_head=4, n_embd=128, dropout=0.2), 16),
    (GPTConfig(4000, 128, n_layer=4, n_head=4, n_embd=256, dropout=0.0), 16),
    (GPTConfig(50257, 256, n_layer=6, n_head=6, n_embd=384, dropout=0.0), 8),
    (GPTConfig(50257, 256, n_layer=6, n_head=6, n_embd=384, dropout=0.1), 8),
    (GPTConfig(62, 256, n_layer=6, n_head=6, n_embd=384, dropout=0.2), 32),
    (GPTConfig.gpt2("124m", context_length=512, dropout=0.0), 2),
    (GPTConfig(62, 256, n_embd=256, dropout=0.0, **MODERN), 16),
]
"""Architectures and batch sizes: of the quick start, of characters, up to GPT-2's smallest."""

HEAD = (
    f"{'V':>6} {'T':>4} {'L':>3} {'C':>4} {'B':>3} {'dropout':>7} {'precision':>10} {'parameters':>11} "
    f"{'memory: estimated':>16} {'found':>8} {'ratio':>5} {'seconds: estimated':>17} {'found':>7} {'ratio':>5}"
)

TINY = [(GPTConfig(62, 16, n_layer=2, n_head=2, n_embd=16), 4)]


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.preflight", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a model that only shows that this runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"], help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        config, batch_size, precision = json.loads(arguments.one)
        print(json.dumps(one(config, batch_size, precision, arguments.device)))
        return
    rows = []
    for config, batch_size in TINY if arguments.tiny else SIZES:
        for precision in arguments.precisions:
            rows.append(row := measure(config, batch_size, precision, arguments.device))
            if not arguments.json:
                print(*([HEAD] if len(rows) == 1 else []), line(config, row), sep="\n", flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=1))


def measure(config: GPTConfig, batch_size: int, precision: str, device: str) -> dict[str, Any]:
    """One case, in a process of its own."""
    case = json.dumps([asdict(config), batch_size, precision])
    words = [sys.executable, "-m", "bench.preflight", "--device", device, "--one", case]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"gpt": asdict(config), "batch_size": batch_size, "precision": precision, **json.loads(done.stdout)}


def line(config: GPTConfig, row: dict[str, Any]) -> str:
    memory = row["estimated_bytes"] / row["bytes"]
    estimated = row["estimated_seconds"] or float("nan")
    return (
        f"{config.vocab_size:>6} {config.context_length:>4} {config.n_layer:>3} {config.n_embd:>4} "
        f"{row['batch_size']:>3} {config.dropout:>7} {row['precision']:>10} {row['parameters']:>11,} "
        f"{row['estimated_bytes'] / 1e6:>13,.0f} MB {row['bytes'] / 1e6:>5,.0f} MB {memory:>5.2f} "
        f"{estimated:>17.3f} {row['seconds']:>7.3f} {estimated / row['seconds']:>5.2f}"
    )


def one(settings: dict[str, object], batch_size: int, precision: str, device: str) -> dict[str, float | None]:
    config, optim = GPTConfig(**settings), OptimConfig()  # type: ignore[arg-type]
    parameters = Parameters.of(config, optim)
    costs = step_costs(config, batch_size, precision, device)
    held = process_memory() if device == "cpu" else 0
    memory = expected_memory(parameters, costs, precision, device, held=held)
    seconds = estimated_seconds(config, costs, batch_size, precision, device)
    found = measure_steps(config, optim, batch_size, precision, device)
    return {
        "parameters": parameters.total,
        "estimated_bytes": memory.peak,
        "bytes": found.peak,
        "estimated_seconds": seconds,
        "seconds": found.seconds,
    }


if __name__ == "__main__":
    main()
