"""`python -m llm generate`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from llm.commands.options import add_device, add_json, add_precision
from llm.config import SamplingConfig
from llm.config.tasks import LANGUAGE
from llm.errors import ConfigError, TokenizerError

if TYPE_CHECKING:
    from llm.data.reading.prompts import Prompt
    from llm.model import GPT
    from llm.tokenizers import Tokenizer

_DEFAULT = SamplingConfig()


TASK = LANGUAGE
"""Of the checkpoints that it is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command: plain argparse, since importing jsonargparse takes longer than all of --help."""
    add = parser.add_argument
    add("--ckpt", required=True, help="the checkpoint, best, last, or anything that import reads")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", action="append", help="text to continue, several times; `-`: standard input")
    source.add_argument("--prompt_file", metavar="FILE", help="texts to continue, one a line; default: standard input")
    add("--max_new_tokens", type=int, default=200, help="maximum number of tokens to generate (%(default)s)")
    add("--temperature", type=float, default=_DEFAULT.temperature, help="divides the logits; 0: greedy (%(default)s)")
    add("--top_k", type=int, default=_DEFAULT.top_k, help="only the k most likely tokens; 0: all (%(default)s)")
    add("--top_p", type=float, help="only the most likely tokens that together reach this probability (all)")
    add("--min_p", type=float, help="only tokens at least this fraction as likely as the most likely one (all)")
    add(
        "--repetition_penalty",
        type=float,
        default=_DEFAULT.repetition_penalty,
        help="above 1: tokens already in the text become less likely (%(default)s)",
    )
    add("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times")
    add("--stop_id", dest="stop_ids", action="append", default=[], type=int, metavar="ID", help="end before this token")
    add(
        "--n",
        dest="n_samples",
        metavar="N",
        type=int,
        default=_DEFAULT.n_samples,
        help="samples of each prompt (%(default)s)",
    )
    add("--seed", type=int, default=_DEFAULT.seed, help="the same seed, the same text (%(default)s)")
    add("--batch_size", type=int, default=8, help="prompts in a batch (%(default)s)")
    add_json(parser)
    add_device(parser)
    add_precision(parser)
    add(
        "--compile",
        choices=("auto", "always", "never"),
        default=_DEFAULT.compile,
        help="compile first, which takes some seconds, then decode faster (%(default)s: where it pays off)",
    )
    add(
        "--prompt_lookup",
        type=int,
        default=_DEFAULT.prompt_lookup,
        metavar="N",
        help="tokens to guess where the text repeats itself: the same text, sooner; 0: off (%(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print each prompt and its continuation; a single one as it comes.

    Raises:
        LLMError: the checkpoint, a prompt or an option can't be used.
    """
    import torch

    from llm.commands.devices import find_device
    from llm.model import GPT
    from llm.pretrained import load_of_task

    settings = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(SamplingConfig)}
    sampling = SamplingConfig(**settings | {"top_k": arguments.top_k or None})
    if arguments.batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {arguments.batch_size}")
    if arguments.prompt is None and arguments.prompt_file is None and sys.stdin.isatty():
        raise ConfigError("nothing to continue: give --prompt TEXT, --prompt_file FILE, or a text on standard input")
    model, tokenizer = load_of_task(arguments.ckpt, TASK, GPT, find_device(arguments.device))
    if arguments.precision is not None:
        model.to(getattr(torch, arguments.precision))
    prompts = _read_prompts(arguments, tokenizer)
    _warn(model, prompts)
    if len(prompts) == 1 and sampling.n_samples == 1 and not arguments.json:
        _stream(model, tokenizer, prompts[0], sampling)
    else:
        _write_all(model, tokenizer, prompts, sampling, arguments)


def _read_prompts(arguments: argparse.Namespace, tokenizer: Tokenizer) -> list[Prompt]:
    import torch

    from llm.commands.standard_input import is_standard_input, read_lines
    from llm.data.reading.prompts import Prompt, encode_prompts, read_prompts

    if arguments.prompt_file is not None:
        return read_prompts(arguments.prompt_file, tokenizer).prompts
    if arguments.prompt is None or is_standard_input(arguments.prompt):
        prompts = encode_prompts(read_lines(), tokenizer, "standard input")
        if not prompts:
            raise TokenizerError("standard input is empty; give prompts, one a line")
        return prompts
    prompts = []
    for number, text in enumerate(arguments.prompt, start=1):
        ids = tokenizer.encode_prompt(text) or tokenizer.start_ids
        if not ids:
            raise TokenizerError("the prompt is empty, and the vocabulary has no token to begin from: give a word")
        prompts.append(Prompt(number, text, torch.tensor(ids)))
    return prompts


def _warn(model: GPT, prompts: list[Prompt]) -> None:
    length = model.config.context_length
    if not model.config.is_causal:
        print("warning: this model's attention is not causal; the text it generates is meaningless", file=sys.stderr)
    for prompt in prompts:
        if len(prompt.ids) > length:
            which = f"prompt {prompt.line}" if len(prompts) > 1 else "the prompt"
            print(f"warning: {which} has {len(prompt.ids)} tokens; the model sees the last {length}", file=sys.stderr)


def _stream(model: GPT, tokenizer: Tokenizer, prompt: Prompt, sampling: SamplingConfig) -> None:
    from llm.generation import stream_text

    print(prompt.text, end="", flush=True)
    try:
        for piece in stream_text(model, tokenizer, prompt.ids, sampling):
            print(piece, end="", flush=True)
    finally:  # an error wants a line of its own
        print()


def _write_all(
    model: GPT, tokenizer: Tokenizer, prompts: list[Prompt], sampling: SamplingConfig, arguments: argparse.Namespace
) -> None:
    from llm.generation import continue_texts

    ids = [prompt.ids for prompt in prompts]
    for number, found in enumerate(continue_texts(model, tokenizer, ids, sampling, arguments.batch_size)):
        text = prompts[found.prompt].text
        if arguments.json:
            print(json.dumps({"prompt": text, **found.to_dict()}, ensure_ascii=False), flush=True)
        else:
            print("\n---\n" if number else "", f"{text}{found.text}", sep="", flush=True)
