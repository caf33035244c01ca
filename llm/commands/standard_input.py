"""Texts from the command line, from a file, or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llm.errors import TokenizerError


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


def read_texts(
    given: Sequence[str] | None, file: str | None, what: str = "texts", keep_blank: bool = False
) -> list[tuple[str, str]]:
    """Each text, and where it stands, if that has to be said.

    Args:
        given: those of the command line; None for a file.
        file: one with a text a line; None for standard input.
        what: they should be, for errors.
        keep_blank: whether a blank line between others is a text, too.

    Raises:
        TokenizerError: there is none, or standard input is no UTF-8 text.
        DataError: the file can't be read.
    """
    from llm.data.reading.sources import read_document

    if given is not None:
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
