"""Train, validate, test, or predict with a GPT: `python train.py fit`. Every option: `python train.py fit --help`."""

import sys
from pathlib import Path

from llm.runtime import process

if __name__ == "__main__":
    process.prepare()  # before the imports that take seconds

    from llm.cli.starting import main

    sys.exit(main(default_config=Path(__file__).parent / "configs" / "default.yaml"))
