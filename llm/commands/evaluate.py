"""`python -m llm evaluate`."""

from __future__ import annotations

import argparse
import sys

from llm.commands.options import add_device
from llm.config.tasks import LANGUAGE

TASK = LANGUAGE
"""Of the checkpoints that it is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--ckpt", required=True, help="the checkpoint, best, last, or anything that import reads")
    parser.add_argument(
        "--data.corpus",
        dest="corpus",
        nargs="+",
        required=True,
        help="as for fit: text files, folders, glob patterns, names such as story; or token ids",
    )
    parser.add_argument(
        "--data.cache_dir", dest="cache_dir", default="data/cache", help="folder for token ids (%(default)s)"
    )
    parser.add_argument(
        "--data.special_tokens",
        dest="special_tokens",
        choices=("as_tokens", "as_text"),
        default="as_tokens",
        help="what a special token in a text is: itself, or ordinary text (%(default)s)",
    )
    parser.add_argument("--stride", type=int, help="tokens from one window to the next (half the context)")
    parser.add_argument(
        "--batch_size", type=int, default=8, help="windows in a batch; no effect on results (%(default)s)"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")


def run(arguments: argparse.Namespace) -> None:
    """Print the metrics.

    Raises:
        LLMError: the checkpoint, the text or an option can't be used.
    """
    import json

    from llm.commands.devices import find_device
    from llm.evaluation.perplexity import evaluate_text
    from llm.model import GPT
    from llm.pretrained import load_of_task

    model, tokenizer = load_of_task(arguments.ckpt, TASK, GPT, find_device(arguments.device))
    found = evaluate_text(
        model,
        tokenizer,
        arguments.corpus,
        arguments.cache_dir,
        arguments.stride,
        arguments.batch_size,
        show_progress=sys.stderr.isatty(),
        special_tokens=arguments.special_tokens,
    )
    if arguments.json:
        print(json.dumps(found.to_dict()))
        return
    for name, value in found.to_dict().items():
        print(f"{name:<20}{value:>14,}" if isinstance(value, int) else f"{name:<20}{value:>14.4f}")
