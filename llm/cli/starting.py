"""The first moments of `train.py` and `llm-train`: something to read before torch and Lightning are imported."""

from __future__ import annotations

import os
import sys

from llm.cli.help import overview
from llm.runtime import process, shipped


def main() -> int:
    """Run `train.py` or `llm-train` and give the exit status."""
    process.prepare()  # before the imports that take seconds
    words = sys.argv[1:]
    if not words or words in (["-h"], ["--help"]):
        print(overview(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if sys.stderr.isatty() and not any(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK")):
        print("starting: importing torch and Lightning takes some seconds", file=sys.stderr, flush=True)
    words, found = shipped.find_configs(words)
    for path in found if process.rank() == 0 else []:
        print(f"config:      {path}", file=sys.stderr)
    from llm.cli.main import main as run

    return run(words, shipped.DEFAULT_CONFIG)
