"""`python -m llm trace`."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from llm.config import GPTConfig, TokenizerConfig
from llm.config.tasks import LANGUAGE
from llm.runtime.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from llm.model import GPT
    from llm.tokenizers import Tokenizer

_SHOWN = 8
"""Rows and columns of a matrix that are printed."""


TASK = LANGUAGE
"""Of the checkpoints that it is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--text", default="Your journey starts with one step", help="the text (%(default)s)")
    parser.add_argument(
        "--ckpt",
        help="a checkpoint, or anything that import reads; default: a small untrained model over the text's words",
    )
    parser.add_argument("--layer", type=int, default=0, help="layer whose attention is printed, from 0 (%(default)s)")
    parser.add_argument("--head", type=int, default=0, help="attention head of that layer, from 0 (%(default)s)")
    parser.add_argument(
        "--attention", default="causal", help="without --ckpt: dot, self, causal or multi_head (%(default)s)"
    )
    parser.add_argument("--n_embd", type=int, default=4, help="without --ckpt: embedding size (%(default)s)")
    parser.add_argument("--seed", type=int, default=123, help="without --ckpt: seed of the weights (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Print every stage of one text.

    Raises:
        LLMError: the checkpoint or the text can't be used, or there is no such layer or head.
    """
    import torch

    from llm.data import SlidingWindows
    from llm.inspection import capture, shape_rows, text_labels, text_table, tick_labels
    from llm.inspection.probe import longest_window
    from llm.inspection.shapes import legend
    from llm.inspection.steps import naive_softmax, scores_of_query, sum_normalize

    model, tokenizer, ids = _what_to_trace(arguments)
    config = model.config

    def title(number: int, words: str) -> None:
        print(f"\n{number}. {words}")

    title(1, f"Text to tokens: {len(ids)} by {tokenizer!r}")
    labels = text_labels(tokenizer, ids)
    print("   " + " | ".join(labels[:40]) + (" ..." if len(ids) > 40 else ""))

    title(2, "Tokens to ids")
    print("   " + ", ".join(map(str, ids[:40])) + (" ..." if len(ids) > 40 else ""))

    if len(ids) > (shown := longest_window(config)):
        why = "the model sees" if shown == config.context_length else "memory is for the matrices of"
        print(f"   ({why} {shown} tokens at once: what follows is about the first of them)")
        ids, labels = ids[:shown], labels[:shown]

    if len(ids) > 1:
        length = min(4, len(ids) - 1)
        title(3, f"Ids to windows: context length {length}, stride 1; the target is the input shifted by one token")
        windows = SlidingWindows(torch.tensor(ids).numpy().astype("uint32"), length, 1)
        for inputs, targets in (windows[index] for index in range(min(3, len(windows)))):
            print(f"   {inputs.tolist()} -> {targets.tolist()}")
        print(f"   {counted(len(windows), 'window')}")

    unknown = -100  # not supervised: what follows the last token is unknown
    batch, targets = torch.tensor([ids]), torch.tensor([[*ids[1:], unknown]])
    found = capture(model, batch, targets if len(ids) > 1 else None)
    is_rotary = config.positions == "rotary"
    title(
        4,
        "Ids to vectors: token embedding" + (" (positions rotate Q and K)" if is_rotary else " + positional embedding"),
    )
    for name in ("token embeddings", "positional embeddings", "input embeddings"):
        if name in found:
            _print_matrix(name, found.tensor(name).view(-1, config.n_embd), labels)

    block, head = f"block {arguments.layer}", arguments.head
    title(5, f"Attention ({config.attention}), layer {arguments.layer}, head {head}: row = query, column = key")
    for name in ("Q", "K", "V"):
        heads = found.tensor(f"{block} / {name}")[0]  # one of K and V may serve several of Q
        _print_matrix(name, heads[head * len(heads) // config.heads], labels)
    scores = found.tensor(f"{block} / scores")[0, head]
    divisor = f" / sqrt({config.head_dim})" if config.scale_scores else ""
    _print_matrix(f"scores = Q K^T{divisor}", scores, labels, labels)
    _print_matrix(
        "weights: rows sum to 1; a masked key gets 0",
        found.attention(arguments.layer)[0, head],
        labels,
        labels,
    )
    _print_matrix("context vectors = weights V", found.tensor(f"{block} / context")[0, head], labels)

    query = min(1, len(labels) - 1)
    vectors = found.tensor("input embeddings")[0]
    raw = scores_of_query(vectors, query)
    title(6, f"Simplified attention, no trainable weights, no mask: the query {labels[query]!r} against every input")
    _print_row("attention scores (dot products)", raw)
    _print_row("divided by their sum", sum_normalize(raw))
    _print_row("softmax of that", torch.softmax(sum_normalize(raw), dim=-1))
    _print_row("softmax of the scores (used in practice)", torch.softmax(raw, dim=-1))
    _print_row("softmax written out: exp over sum of exp", naive_softmax(raw))

    title(7, "Hidden states to the next token: the most likely after each position")
    probabilities = torch.softmax(found.tensor("logits")[0].float(), dim=-1)
    for position, label in list(enumerate(labels))[:_SHOWN]:
        best = probabilities[position].topk(min(3, config.vocab_size))
        names = tick_labels(tokenizer, best.indices.tolist())
        guesses = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, best.values.tolist(), strict=True))
        print(f"   {label:>14} -> {guesses}")
    if "loss" in found:
        chance = math.log(config.vocab_size)
        print(f"   loss: {float(found.tensor('loss')):.4f} nats per token (uniform guess: {chance:.4f})")

    title(8, "Every stage and its shape")
    print(_indent(text_table(shape_rows(found))))
    print(_indent(legend(config, 1, len(labels))))


def _what_to_trace(arguments: argparse.Namespace) -> tuple[GPT, Tokenizer, list[int]]:
    """The model, trained or made for this text, its tokenizer, and the ids of the text."""
    import torch

    from llm.errors import ConfigError, TokenizerError
    from llm.model import GPT
    from llm.pretrained import load_of_task
    from llm.tokenizers import build_tokenizer

    text = arguments.text
    if not text.strip():
        raise TokenizerError("the text is empty; give a few words")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"the text is not valid Unicode at character {error.start}: {error.reason}") from error
    if not 0 <= arguments.seed < 2**63:
        raise ConfigError(f"seed must be from 0 to 2**63 - 1, got {arguments.seed}")
    if arguments.ckpt is not None:
        model, tokenizer = load_of_task(arguments.ckpt, TASK, GPT)
        ids = tokenizer.encode_prompt(text)
    else:
        tokenizer = build_tokenizer(TokenizerConfig(kind="word", specials=()), [text])
        ids = tokenizer.encode(text)
        torch.manual_seed(arguments.seed)
        heads = 2 if arguments.attention == "multi_head" else 1
        config = GPTConfig(
            vocab_size=tokenizer.vocab_size,
            context_length=len(ids),
            n_layer=1,
            n_head=heads,
            n_embd=arguments.n_embd,
            attention=arguments.attention,
        )
        model = GPT(config).eval()
        with torch.no_grad():  # GPT-2's small first values would make every weight nearly the same
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_()
    config = model.config
    for name, value, count in (("layer", arguments.layer, config.n_layer), ("head", arguments.head, config.heads)):
        if not 0 <= value < count:
            raise ConfigError(f"there is no {name} {value}: this model has {count}, numbered from 0")
    return model, tokenizer, ids


def _print_matrix(name: str, matrix: Tensor, rows: list[str], columns: list[str] | None = None) -> None:
    print(f"   {name} {tuple(matrix.shape)}")
    if columns is not None:
        print(" " * 18 + "".join(f"{column[:8]:>9}" for column in columns[:_SHOWN]))
    for label, row in list(zip(rows, matrix.tolist(), strict=True))[:_SHOWN]:
        more = " ..." if len(row) > _SHOWN else ""
        print(f"   {label:>14} " + "".join(f"{value:9.4f}" for value in row[:_SHOWN]) + more)
    if len(rows) > _SHOWN:
        print(f"   {'...':>14}")


def _print_row(name: str, values: Tensor) -> None:
    more = " ..." if len(values) > _SHOWN else ""
    print(f"   {name:<44}" + "".join(f"{value:9.4f}" for value in values.tolist()[:_SHOWN]) + more)


def _indent(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())
