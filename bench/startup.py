"""How long commands take before they do anything, and which large packages they import for it.

Each command is a process of its own, without its output; the commands take turns. Beside ours stands what the others
import before a script of theirs can begin. Processor seconds are those of the process and of all that it started, with
one thread (`OMP_NUM_THREADS=1`): other programs on the machine lengthen them less than the wall-clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import _rivals

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "lightning", "jsonargparse", "tensorboard", "torchmetrics", "tiktoken", "numpy", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.startup", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="only what is fast: does it run?")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=7, help="times that each command runs (%(default)s)")
    _rivals.add_litgpt_python(parser)
    arguments = parser.parse_args()
    commands = list(commands_of(arguments.litgpt_python))
    if arguments.tiny:
        commands, arguments.rounds = commands[:3], 1
    seconds: dict[str, list[float]] = {name: [] for name, _ in commands}
    processor: dict[str, list[float]] = {name: [] for name, _ in commands}
    for _ in range(arguments.rounds):
        for name, command in commands:
            start, used = time.perf_counter(), processor_seconds()
            run(command)
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(processor_seconds() - used)
    rows = [
        {
            "command": name,
            "seconds": statistics.median(seconds[name]),
            "fastest": min(seconds[name]),
            "processor": min(processor[name]),
            "imports": imports_of(command),
        }
        for name, command in commands
    ]
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))


def commands_of(litgpt_python: str | None) -> list[tuple[str, list[str]]]:
    """What is shown of each command, and what is run."""
    python = sys.executable
    ours = [
        ("train.py --help", ["train.py", "--help"]),
        ("python -m llm --help", ["-m", "llm", "--help"]),
        ("python -m llm generate --help", ["-m", "llm", "generate", "--help"]),
        ("python -m llm tokenize --help", ["-m", "llm", "tokenize", "--help"]),
        ("python -c 'import llm'", ["-c", "import llm"]),
        ("train.py fit --help", ["train.py", "fit", "--help"]),
        ("train.py fit --preflight", ["train.py", "fit", "--preflight"]),
        ("python -c 'import torch'", ["-c", "import torch"]),
        ("python -c 'import lightning'", ["-c", "import lightning"]),
    ]
    commands = [(name, [python, *words]) for name, words in ours]
    if find_spec("transformers") and find_spec("accelerate"):
        code = "from transformers import GPT2LMHeadModel, Trainer, TrainingArguments"
        commands.append((f"python -c '{code}'", [python, "-c", code]))
    if litgpt_python:
        commands.append(("litgpt --help", [litgpt_python, "-m", "litgpt", "--help"]))
    return commands


def run(command: list[str]) -> str:
    """Run it; gives its standard error.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=quiet())
    if done.returncode:
        raise SystemExit(f"{done.stderr}error: {' '.join(command)} ended with {done.returncode}")
    return done.stderr


def quiet() -> dict[str, str]:
    return {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}


def processor_seconds() -> float:
    """Of all processes that have been started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def imports_of(command: list[str]) -> list[str]:
    """Which of the large packages a command imports."""
    python, *words = command
    errors = run([python, "-X", "importtime", *words])
    imported = set(re.findall(r"^import time:.*\| +(\w+)(?:\.|$)", errors, re.MULTILINE))
    return [package for package in PACKAGES if package in imported]


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| command | seconds | fastest | processor seconds | imports |", "|---|---|---|---|---|"]
    for row in rows:
        imports = ", ".join(row["imports"]) or "none of them"
        lines.append(
            f"| `{row['command']}` | {row['seconds']:.2f} | {row['fastest']:.2f} | {row['processor']:.2f} | {imports} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
