"""Commands that are printed for a user to copy."""

from __future__ import annotations

import os
import shlex


def command_line(*words: str | os.PathLike[str]) -> str:
    """The words as one line, quoted so that a shell splits it into the same words again."""
    return shlex.join(map(str, words))
