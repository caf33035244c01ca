"""Train, validate, test, or predict: `python train.py fit`. Every option: `python train.py fit --help`."""

import sys

from llm.cli.starting import main

if __name__ == "__main__":
    sys.exit(main())
