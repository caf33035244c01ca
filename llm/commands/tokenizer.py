"""`python -m llm tokenizer train` and `tokenizer show`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm.tokenizers import Tokenizer

_SHOWN = 2000
"""Characters of a text whose tokens are shown; the counts are of all of it."""

_BACKGROUNDS = (153, 223, 151, 217, 189)
"""Of 256 colours, light ones that black text is read on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="learn a byte-pair encoding from texts of any size")
    train.add_argument("--input", required=True, nargs="+", help="files, folders or glob patterns, as for tokenize")
    train.add_argument("--output", required=True, help="the .json file to write; --data.tokenizer.checkpoint reads it")
    train.add_argument("--vocab_size", type=int, help="with 256 bytes and the special tokens (2,000 or fewer)")
    train.add_argument("--pattern", default="gpt2", help="how a text is split first: gpt2 or gpt4 (%(default)s)")
    train.add_argument("--min_frequency", type=int, default=2, help="least count of a pair to be joined (%(default)s)")
    train.add_argument("--specials", nargs="*", help="special tokens (<|endoftext|>)")
    train.add_argument("--field", default="text", help="field or column of a record that holds the text (%(default)s)")
    train.add_argument("--overwrite", action="store_true", help="replace what is there")
    show = actions.add_parser("show", help="show the tokens of a text, and compare tokenizers on it")
    text = show.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", help="the text")
    text.add_argument("--file", help="a UTF-8 file with the text")
    show.add_argument(
        "--tokenizer",
        default="gpt2",
        help="a tokenizer's .json, vocabulary or folder, a checkpoint, or gpt2 (%(default)s)",
    )
    show.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="colours (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Learn a tokenizer, or show one.

    Raises:
        LLMError: a file can't be read or written, or there is no such tokenizer.
    """
    _train(arguments) if arguments.action == "train" else _show(arguments)


def _train(arguments: argparse.Namespace) -> None:
    from llm.config import TokenizerConfig
    from llm.data.reading.corpus import resolve_corpus
    from llm.data.tokens.opening import learn_tokenizer
    from llm.errors import ConfigError
    from llm.runtime.shell import train_command_line
    from llm.tokenizers.files import write_tokenizer_file

    output = Path(arguments.output)
    if output.suffix != ".json":
        raise ConfigError(f"--output must be a file that ends in .json, got {arguments.output!r}")
    if output.exists() and not arguments.overwrite:
        raise ConfigError(f"{str(output)!r} is there already: choose another name, or replace it with --overwrite")
    specials = None if arguments.specials is None else tuple(arguments.specials)
    config = TokenizerConfig("bpe", arguments.vocab_size, arguments.min_frequency, arguments.pattern, specials)
    tokenizer = learn_tokenizer(config, resolve_corpus(arguments.input), arguments.field)
    write_tokenizer_file(tokenizer, output)
    print(f"{output}: {tokenizer.vocab_size:,} tokens")
    corpus = arguments.input[0] if len(arguments.input) == 1 else f"[{', '.join(arguments.input)}]"
    print(
        "train with it: "
        + train_command_line("fit", "--data.corpus", corpus, "--data.tokenizer.checkpoint", arguments.output)
    )


def _show(arguments: argparse.Namespace) -> None:
    import sys

    from llm.data.reading.sources import read_document

    text = arguments.text if arguments.file is None else read_document(arguments.file)
    tokenizer = named_tokenizer(arguments.tokenizer)
    in_color = arguments.color == "always" or (arguments.color == "auto" and sys.stdout.isatty())
    print(_in_pieces(tokenizer.split(text[:_SHOWN]), in_color))
    if len(text) > _SHOWN:
        print(f"... and {len(text) - _SHOWN:,} more characters")
    print()
    print(_table(text, arguments.tokenizer, tokenizer))


def named_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by the name of its encoding, or from a file that has one.

    Raises:
        LLMError: there is no such tokenizer.
    """
    from llm.config import TokenizerConfig
    from llm.tokenizers import build_tokenizer

    path = Path(name).expanduser()
    if path.suffix or path.exists():
        from llm.pretrained import read_tokenizer  # loads torch

        return read_tokenizer(path)
    return build_tokenizer(TokenizerConfig(name))


def _in_pieces(pieces: list[bytes], in_color: bool) -> str:
    """Tokens with their white space made visible; each with a background of its own, or a bar between two."""
    from llm.inspection.ticks import visible

    shown = [visible(piece, longest=max(len(piece) * 4, 1)) for piece in pieces]
    if in_color:
        shown = [
            f"\x1b[30;48;5;{_BACKGROUNDS[number % len(_BACKGROUNDS)]}m{piece}\x1b[0m"
            for number, piece in enumerate(shown)
        ]
    ends = ["\n" if piece.endswith(b"\n") else "" if in_color else "|" for piece in pieces]
    return "".join(piece + end for piece, end in zip(shown, ends, strict=True)).removesuffix("|")


def _table(text: str, name: str, tokenizer: Tokenizer) -> str:
    """Tokens and bytes per token of a text: this tokenizer's, GPT's encodings that are on this machine, characters."""
    from llm.tokenizers import BPETokenizer, is_local

    others = {other: BPETokenizer(other) for other in ("gpt2", "cl100k_base", "o200k_base") if is_local(other)}
    counts = {shown: (t.vocab_size, len(t.encode_array(text))) for shown, t in ({name: tokenizer} | others).items()}
    counts["characters"] = len(set(text)), len(text)
    n_bytes, width = len(text.encode()), max(map(len, counts))
    lines = [f"{'tokenizer':{width}}  {'vocabulary':>10}  {'tokens':>10}  {'bytes per token':>15}"]
    for shown, (vocab_size, n_tokens) in counts.items():
        lines.append(f"{shown:{width}}  {vocab_size:10,}  {n_tokens:10,}  {n_bytes / max(n_tokens, 1):15.2f}")
    return "\n".join(lines)
