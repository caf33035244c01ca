"""Commands that fail as they should."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def error(capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], int], *words: str) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert command(list(words)) != 0
    found = capsys.readouterr().err.strip().splitlines()[-1]
    assert found.startswith("error: ")
    return found
