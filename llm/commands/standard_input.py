"""Texts from the command line, from a file, or from standard input."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

from llm.errors import ConfigError, TokenizerError


def is_standard_input(given: Sequence[str]) -> bool:
    """Whether what was given in place of a text says to read standard input: `-`, as elsewhere in a shell."""
    return list(given) == ["-"]


def add_text_arguments(parser: argparse.ArgumentParser, text: str, several: str) -> None:
    """Add `--text` and `--text_file`, of which one may be given.

    Args:
        parser: of the command.
        text: what one is, such as `text with [MASK] in it`.
        several: what they are in the plural.
    """
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", action="append", help=f"{text}; may be given several times; `-`: standard input")
    source.add_argument("--text_file", metavar="FILE", help=f"{several}, one a line; default: standard input")


def texts_of(
    arguments: argparse.Namespace, verb: str, what: str = "texts", keep_blank: bool = False
) -> list[tuple[str, str]]:
    """Each text that was given to a command, and where it stands, if that has to be said.

    Args:
        arguments: with those of `add_text_arguments`.
        verb: what the command does with a text, for errors.
        what: the texts should be, for errors.
        keep_blank: whether a blank line between others is a text, too.

    Raises:
        ConfigError: there is none, and nobody can have written one to standard input.
        TokenizerError: there is none, or standard input is no UTF-8 text.
        DataError: the file can't be read.
    """
    from llm.data.reading.sources import read_document

    given, file = arguments.text, arguments.text_file
    if given is None and file is None and sys.stdin.isatty():
        raise ConfigError(f"nothing to {verb}: give --text TEXT, --text_file FILE, or a text on standard input")
    if given is not None and not is_standard_input(given):
        several = len(given) > 1
        return [(f"text {number}" if several else "", text) for number, text in enumerate(given, start=1)]
    if file is not None:
        source, lines = repr(file), read_document(file).split("\n")
    else:
        source, lines = "standard input", read_lines()
    if not any(line.strip() for line in lines):
        raise TokenizerError(f"{source} is empty; give {what}, one a line")
    lines = lines[:-1] if lines[-1] == "" else lines
    texts = enumerate(lines, start=1)
    return [(f"{source}, line {line}", text) for line, text in texts if keep_blank or text.strip()]


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Say of an error where the text stands that it is about; nothing where that is empty."""
    try:
        yield
    except (ConfigError, TokenizerError) as error:
        kind = TokenizerError if isinstance(error, TokenizerError) else ConfigError
        raise kind(f"{where}: {error}" if where else str(error)) from error


def read_lines() -> list[str]:
    """The lines of standard input.

    Raises:
        TokenizerError: it is no UTF-8 text.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"standard input is not UTF-8 text at byte {error.start}: {error.reason}") from error
    return text.replace("\r\n", "\n").split("\n")
