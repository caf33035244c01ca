"""Commands that fail as they should."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def error(
    capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], int], *words: str, alone: bool = False
) -> str:
    """The one line that a failing command prints last.

    Args:
        capsys: of the test.
        command: takes the words of a command line, gives its exit status.
        words: of the command line.
        alone: whether the command knows the options, and must print nothing else to standard error.
    """
    capsys.readouterr()
    status = command(list(words))
    assert status == 1 or (status == 2 and not alone), "2 is for words that are no options"
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 or not alone, lines
    assert lines[-1].startswith("error: ")
    return lines[-1]
