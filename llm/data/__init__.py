"""From text files to batches: corpus, token store, windows, and the data module that a Trainer uses.

The public names are imported when they are first used: tokenizing needs neither torch nor Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from llm.data.batch import TokenBatch
    from llm.data.loader import BatchLoader
    from llm.data.modules.classify import ClassifyDataModule
    from llm.data.modules.examples import ExampleDataModule
    from llm.data.modules.instruct import InstructDataModule
    from llm.data.modules.masked import MaskedDataModule
    from llm.data.modules.text import TextDataModule
    from llm.data.modules.translate import TranslationDataModule
    from llm.data.modules.word_vectors import WordVectorsDataModule
    from llm.data.order import BatchOrder, LengthOrder
    from llm.data.reading.corpus import resolve_corpus
    from llm.data.tokens.opening import open_or_build
    from llm.data.tokens.store import TokenStore
    from llm.data.windows import SlidingWindows, window_starts

__all__ = [
    "BatchLoader",
    "BatchOrder",
    "ClassifyDataModule",
    "ExampleDataModule",
    "InstructDataModule",
    "LengthOrder",
    "MaskedDataModule",
    "SlidingWindows",
    "TextDataModule",
    "TokenBatch",
    "TokenStore",
    "TranslationDataModule",
    "WordVectorsDataModule",
    "open_or_build",
    "resolve_corpus",
    "window_starts",
]

_MODULES = {
    "BatchLoader": "loader",
    "BatchOrder": "order",
    "ClassifyDataModule": "modules.classify",
    "ExampleDataModule": "modules.examples",
    "InstructDataModule": "modules.instruct",
    "LengthOrder": "order",
    "MaskedDataModule": "modules.masked",
    "SlidingWindows": "windows",
    "TextDataModule": "modules.text",
    "TokenBatch": "batch",
    "TokenStore": "tokens.store",
    "TranslationDataModule": "modules.translate",
    "WordVectorsDataModule": "modules.word_vectors",
    "open_or_build": "tokens.opening",
    "resolve_corpus": "reading.corpus",
    "window_starts": "windows",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
