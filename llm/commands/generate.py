"""`python -m llm generate`."""

from __future__ import annotations

import argparse
import itertools
import sys

from llm.config import SamplingConfig

_DEFAULT = SamplingConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--ckpt", required=True, help="the checkpoint; nothing else is needed")
    parser.add_argument("--prompt", required=True, help="the text to continue")
    parser.add_argument("--max_new_tokens", type=int, default=200, help="how many tokens to add (%(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=_DEFAULT.temperature, help="0 is greedy, 1 the model's own (%(default)s)"
    )
    parser.add_argument("--top_k", type=int, default=_DEFAULT.top_k, help="the k likeliest only; 0: all (%(default)s)")
    parser.add_argument("--top_p", type=float, help="the likeliest that reach this probability only (all)")
    parser.add_argument("--seed", type=int, default=_DEFAULT.seed, help="the same seed, the same text (%(default)s)")
    parser.add_argument("--device", default="cpu", help="such as cpu, cuda or mps (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Print the prompt and its continuation, as it comes.

    Raises:
        LLMError: the checkpoint, the prompt or an option can't be used.
    """
    import torch

    from llm.checkpoint import load
    from llm.commands.devices import find_device
    from llm.errors import TokenizerError
    from llm.generation import generate

    sampling = SamplingConfig(
        arguments.max_new_tokens, arguments.temperature, arguments.top_k or None, arguments.top_p, arguments.seed
    )
    model, tokenizer = load(arguments.ckpt, find_device(arguments.device))
    prompt = tokenizer.encode(arguments.prompt)
    if not prompt:
        raise TokenizerError("the prompt is empty; give at least one word")
    if not model.config.is_causal:
        print("warning: this model's attention is not causal; its text will make no sense", file=sys.stderr)
    if len(prompt) > (length := model.config.context_length):
        print(f"warning: the prompt has {len(prompt)} tokens; the model sees the last {length}", file=sys.stderr)

    print(arguments.prompt, end="", flush=True)
    continuation = generate(model, torch.tensor(prompt), sampling, tokenizer.end_of_text_id)
    # The tokenizer sees the prompt too, so that it knows what it joins on to; only what comes after is printed.
    pieces = tokenizer.stream(itertools.chain(prompt, continuation))
    for piece in itertools.islice(pieces, len(prompt), None):
        print(piece, end="", flush=True)
    print()
