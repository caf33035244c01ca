"""Commands that are printed for a user to copy."""

from __future__ import annotations

import os
import shlex

from llm.runtime.shipped import train_command


def command_line(*words: str | os.PathLike[str]) -> str:
    """The words as one line, quoted so that a shell splits it into the same words again."""
    return shlex.join(map(str, words))


def train_command_line(*words: str | os.PathLike[str]) -> str:
    """A command of training, such as `python train.py fit`, quoted likewise."""
    return f"{train_command()} {command_line(*words)}"
