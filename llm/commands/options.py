"""Options that several commands have."""

from __future__ import annotations

import argparse


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print each result as a line of JSON")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, a name for `llm.commands.devices`."""
    parser.add_argument("--device", default="cpu", help="such as cpu, cuda or mps (%(default)s)")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add `--precision`."""
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="data type of the weights (as they are)")
