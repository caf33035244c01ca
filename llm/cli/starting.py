"""The first moments of `train.py`: something to read at once, before torch and Lightning are imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llm.cli.help import overview


def main(default_config: Path | None = None) -> int:
    """Run `train.py` and give its exit status.

    Args:
        default_config: see `llm.cli.main.main`.
    """
    words = sys.argv[1:]
    if not words or words in (["-h"], ["--help"]):
        print(overview(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if sys.stderr.isatty() and not any(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK")):
        print("starting: importing torch and Lightning takes some seconds", file=sys.stderr, flush=True)
    from llm.cli.main import main as run

    return run(words, default_config)
