"""Train, validate, test, or predict with a GPT: `python train.py fit`. Every option: `python train.py fit --help`."""

import sys
from pathlib import Path

from llm.starting import main

if __name__ == "__main__":
    sys.exit(main(default_config=Path(__file__).parent / "configs" / "default.yaml"))
