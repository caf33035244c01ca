"""From text files to batches: corpus, token store, windows, and the data module that a Trainer asks."""

from llm.data.corpus import resolve_corpus
from llm.data.datamodule import TextDataModule
from llm.data.store import TokenStore, open_or_build
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
