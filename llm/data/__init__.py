"""From text files to batches: corpus, token store, windows, and the data module that a Trainer asks.

The public names are imported when they are first used: tokenizing needs neither torch nor Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm.data.corpus import resolve_corpus
    from llm.data.datamodule import TextDataModule
    from llm.data.opening import open_or_build
    from llm.data.store import TokenStore
    from llm.data.windows import SlidingWindows, WindowLoader, WindowOrder, window_starts

__all__ = [
    "SlidingWindows",
    "TextDataModule",
    "TokenStore",
    "WindowLoader",
    "WindowOrder",
    "open_or_build",
    "resolve_corpus",
    "window_starts",
]

_MODULES = {
    "SlidingWindows": "windows",
    "TextDataModule": "datamodule",
    "TokenStore": "store",
    "WindowLoader": "windows",
    "WindowOrder": "windows",
    "open_or_build": "opening",
    "resolve_corpus": "corpus",
    "window_starts": "windows",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
