"""`python -m llm fill`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm.commands.options import add_device, add_json
from llm.commands.standard_input import add_text_arguments, naming, texts_of
from llm.config.tasks import MASKED
from llm.errors import ConfigError

if TYPE_CHECKING:
    from llm.generation.filling import RankedWord

_TOP_K = 5

TASK = MASKED
"""Of the checkpoints that it is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("--ckpt", required=True, help="the checkpoint of a model for masked words, best or last")
    add_text_arguments(parser, "text with [MASK] in it", "texts with [MASK]")
    add(
        "--candidates",
        nargs="+",
        metavar="WORD",
        help="rank these words at the one mask of each text, instead of all tokens; a word may be several tokens",
    )
    add("--top_k", type=int, help=f"candidates for each mask; 0: all ({_TOP_K}; of --candidates all)")
    add("--batch_size", type=int, default=8, help="texts in a batch; no effect on results (%(default)s)")
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print each text filled, and for each of its masks the most probable tokens.

    Raises:
        LLMError: the checkpoint, a text or an option can't be used.
    """
    import torch

    from llm.commands.devices import find_device
    from llm.generation.filling import encode_masked, fill_masks, rank_words, refuse_longer_text
    from llm.model import Encoder
    from llm.pretrained import load_of_task

    if arguments.top_k is not None and arguments.top_k < 0:
        raise ConfigError(f"top_k must be at least 1, or 0 for all, got {arguments.top_k}")
    texts, rows = texts_of(arguments, "fill", "texts with [MASK] in them"), []
    model, tokenizer = load_of_task(arguments.ckpt, TASK, Encoder, find_device(arguments.device))
    if arguments.candidates is not None:
        for number, (where, text) in enumerate(texts):
            with naming(where):
                ranking = rank_words(model, tokenizer, text, arguments.candidates, arguments.batch_size)
            _print_ranking(text, ranking[: arguments.top_k or None], arguments.json, bool(number))
        return
    for where, text in texts:
        with naming(where):
            rows.append(torch.tensor(encode_masked(tokenizer, text)))
            refuse_longer_text(rows[-1], model)
    top_k = _TOP_K if arguments.top_k is None else arguments.top_k or None
    found = fill_masks(model, tokenizer, rows, top_k, arguments.batch_size)
    for number, ((_, text), filling) in enumerate(zip(texts, found, strict=True)):
        result = filling.to_dict(tokenizer)
        if arguments.json:
            print(json.dumps({"text": text, **result}, ensure_ascii=False), flush=True)
            continue
        print("\n" * bool(number) + result["filled"], flush=True)
        for place, candidates in enumerate(filling.masks, start=1):
            tokens = "  ".join(f"{candidate.token!r} {candidate.probability:.1%}" for candidate in candidates)
            print(f"  [MASK] {place}: {tokens}", flush=True)
        for span in filling.spans:
            last = span.first + len(span.candidates[0].ids)
            words = "  ".join(f"{joined.word!r} {joined.probability:.1%}" for joined in span.candidates)
            print(f"  [MASK] {span.first + 1} to {last} as one: {words}", flush=True)


def _print_ranking(text: str, ranking: Sequence[RankedWord], as_json: bool, is_next: bool) -> None:
    if as_json:
        words = [word._asdict() for word in ranking]
        print(json.dumps({"text": text, "candidates": words}, ensure_ascii=False), flush=True)
        return
    print("\n" * is_next + text, flush=True)
    for word in ranking:
        pieces = " ".join(repr(token) for token in word.tokens)
        print(f"  {word.word}: {word.probability:.1%} of these, {word.log_probability:.2f} nats ({pieces})", flush=True)
