"""Texts from standard input."""

from __future__ import annotations

import sys

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
