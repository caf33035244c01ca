"""What comes with the code: the sample story, the configurations, and the name of the training command.

In a clone they are the top-level `data`, `configs` and `train.py`. A wheel holds the first two inside the package, in
`llm/shipped` (see `setup.py`), and installs the command `llm-train`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = (_PACKAGE / "shipped").is_dir()
_ROOT = _PACKAGE / "shipped" if _INSTALLED else _PACKAGE.parent

DATA = _ROOT / "data"
"""The folder of the sample story."""

DEFAULT_CONFIG = _ROOT / "configs" / "default.yaml"
"""The configuration of a run that names none."""


def train_command() -> str:
    """What a user types to train: `llm-train` where it is installed or was typed, else `python train.py`."""
    return "llm-train" if _INSTALLED or Path(sys.argv[0]).stem == "llm-train" else "python train.py"


def find_configs(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Let `--config configs/char.yaml` name the shipped file where the working folder has none of that name.

    Args:
        words: of the command line.

    Returns:
        The words with the full paths of the shipped files in place of such names, and these paths.
    """
    found, shipped = list(words), []
    for index, word in enumerate(words):
        before, equals, name = word.rpartition("=")
        option = before if equals else "".join(words[max(index - 1, 0) : index])
        if option in ("-c", "--config") and (path := _shipped_config(name)) is not None:
            found[index] = f"{before}{equals}{path}"
            shipped.append(path)
    return found, shipped


def _shipped_config(name: str) -> Path | None:
    path = Path(name)
    if path.exists() or path.parts[:1] != ("configs",) or ".." in path.parts:
        return None
    return _ROOT / path if (_ROOT / path).is_file() else None
