"""`python -m llm chat`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from llm.commands.options import add_device, add_precision
from llm.config import SamplingConfig
from llm.config.tasks import INSTRUCT
from llm.errors import CheckpointError, ConfigError, LLMError
from llm.runtime.words import counted

if TYPE_CHECKING:
    from llm.data.chat.templates import ChatTemplate
    from llm.generation.chat import Chat
    from llm.pretrained import Pretrained
    from llm.tokenizers import Tokenizer

_DEFAULT = SamplingConfig()
_HELP = "/reset begins again, /system TEXT sets the system message and begins again, /quit ends"


TASK = INSTRUCT
"""Of the checkpoints that it is for."""
WITH_TEMPLATE = True
"""A published assistant has a chat template, too, whatever it was tuned on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("--ckpt", required=True, help="the checkpoint, best, last, or anything that import reads")
    add("--prompt", help="answer this one message and end; `-` reads it from standard input")
    add("--system", help="the system message")
    add("--template", help="alpaca, phi3, chatml, plain or a file of Jinja; default: the checkpoint's own")
    add("--max_new_tokens", type=int, default=512, help="the longest answer, at most half the context (%(default)s)")
    add("--temperature", type=float, default=0.0, help="divides the logits; 0: the most likely answer (%(default)s)")
    add("--top_k", type=int, default=_DEFAULT.top_k, help="only the k most likely tokens; 0: all (%(default)s)")
    add("--top_p", type=float, help="only the most likely tokens that together reach this probability (all)")
    add("--seed", type=int, default=_DEFAULT.seed, help="the same seed, the same answers (%(default)s)")
    add_device(parser)
    add_precision(parser)


def run(arguments: argparse.Namespace) -> None:
    """Answer messages, one a line, until the input ends; or one message.

    Raises:
        LLMError: the checkpoint, the template, an option or the one message can't be used.
    """
    import torch

    from llm.commands.devices import find_device
    from llm.generation.chat import Chat
    from llm.model import GPT
    from llm.pretrained import build, read_pretrained

    sampling = SamplingConfig(
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.top_k or None,
        arguments.top_p,
        seed=arguments.seed,
        compile="never",
    )
    device = find_device(arguments.device)
    pretrained = read_pretrained(arguments.ckpt)
    if (tokenizer := pretrained.tokenizer) is None:
        reason = f" ({pretrained.no_tokenizer})" if pretrained.no_tokenizer else ""
        raise CheckpointError(f"{arguments.ckpt!r} has no tokenizer{reason}, so it can't read or write text")
    template = _find_template(arguments, pretrained, tokenizer)
    model = build(pretrained).to(device).eval()
    assert isinstance(model, GPT)
    if arguments.precision is not None:
        model.to(getattr(torch, arguments.precision))
    chat = Chat(model, tokenizer, template, sampling, arguments.system)
    if arguments.prompt is not None:
        text = (sys.stdin.read() if arguments.prompt == "-" else arguments.prompt).strip()
        if not text:
            raise ConfigError("the prompt is empty; give a message to answer")
        _answer(chat, text)
    else:
        _talk(chat)


def _find_template(arguments: argparse.Namespace, pretrained: Pretrained, tokenizer: Tokenizer) -> ChatTemplate:
    """The template that was asked for, that of the checkpoint, or that of the tokenizer."""
    from llm.data.chat.templates import ChatTemplate

    own = getattr(tokenizer, "chat_template", None)
    if arguments.template is not None:
        template = ChatTemplate.find(arguments.template, tokenizer=tokenizer)
    elif pretrained.template is not None:
        template = ChatTemplate.from_dict(pretrained.template)
    elif own is not None:
        template = ChatTemplate.find(own, tokenizer=tokenizer)
    else:
        raise ConfigError(
            f"{arguments.ckpt!r} has no chat template: it was not trained to answer (train.py fit --task instruct); "
            "for another's model give its own with --template, or use python -m llm generate"
        )
    if missing := [name for name in template.special_tokens if name not in tokenizer.special_ids]:
        raise ConfigError(
            f"the template needs the token(s) {', '.join(missing)}, which the model's vocabulary does not have: choose "
            "the template that it was trained with"
        )
    return template


def _talk(chat: Chat) -> None:
    """Read messages and answer them, until the input ends."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (input() edits lines with it)
        print(_HELP)
    while True:
        try:
            text = input("> " if is_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            if is_terminal:
                print()
            return
        if not text:
            continue
        command, _, rest = text.partition(" ")
        if command in _COMMANDS:
            if command == "/quit":
                return
            print(_COMMANDS[command](chat, rest.strip()))
            continue
        if command.startswith("/") and command[1:].isalpha():
            print(f"there is no {command}: {_HELP}")
            continue
        try:
            _answer(chat, text)
        except KeyboardInterrupt:  # this answer is enough; the conversation goes on without it
            continue
        except LLMError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)


def _answer(chat: Chat, text: str) -> None:
    """Print an answer as it comes."""
    try:
        for piece in chat.ask(text):
            print(piece, end="", flush=True)
    finally:
        print(flush=True)
    if chat.is_cut:
        print("(the message did not fit into the context: its end was not read)", file=sys.stderr, flush=True)
    if chat.n_forgotten:
        print(
            f"({counted(chat.n_forgotten, 'earlier turn')} did not fit into the context)", file=sys.stderr, flush=True
        )


def _reset(chat: Chat, _: str) -> str:
    chat.reset(chat.system)
    return "(a new conversation)"


def _system(chat: Chat, text: str) -> str:
    if not text:
        return f"(system: {chat.system or 'none'})"
    chat.reset(text)
    return "(a new conversation, with this system message)"


_COMMANDS: dict[str, Callable[[Chat, str], str]] = {"/reset": _reset, "/system": _system, "/quit": _reset}
