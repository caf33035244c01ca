"""Where a command writes to."""

from __future__ import annotations

from pathlib import Path

from llm.errors import ConfigError


def refuse_source(source: str, target: str) -> None:
    """Keep what a command reads from being replaced by what it writes.

    Raises:
        ConfigError: both are the same file or folder.
    """
    if Path(source).exists() and Path(target).exists() and Path(source).samefile(target):
        raise ConfigError(f"--out {target!r} is what is read; give another name")
