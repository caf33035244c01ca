"""Train a GPT from scratch, and see inside it while it learns.

The public names are imported when they are first used, so that `import llm` costs nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llm.runtime.environment import prepare
from llm.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from llm.config import (
        ClassifierConfig,
        EncoderConfig,
        GPTConfig,
        LoRAConfig,
        OptimConfig,
        SamplingConfig,
        TokenizerConfig,
        TransformerConfig,
    )
    from llm.data import ClassifyDataModule, MaskedDataModule, TextDataModule, TranslationDataModule
    from llm.errors import LLMError
    from llm.evaluation.classifying import classify_texts
    from llm.generation import continue_texts, fill_masks, generate, generate_batch, stream_text
    from llm.generation.translating import load_translator
    from llm.inspection.report import inspect
    from llm.model import GPT
    from llm.pretrained import Adapters, load
    from llm.tasks import LanguageModel, MaskedLanguageModel, TextClassifier, TranslationModel
    from llm.tokenizers import build_tokenizer

prepare(os.environ)  # before torch is imported

__all__ = [
    "GPT",
    "Adapters",
    "ClassifierConfig",
    "ClassifyDataModule",
    "EncoderConfig",
    "GPTConfig",
    "LLMError",
    "LanguageModel",
    "LoRAConfig",
    "MaskedDataModule",
    "MaskedLanguageModel",
    "OptimConfig",
    "SamplingConfig",
    "TextClassifier",
    "TextDataModule",
    "TokenizerConfig",
    "TransformerConfig",
    "TranslationDataModule",
    "TranslationModel",
    "build_tokenizer",
    "classify_texts",
    "continue_texts",
    "fill_masks",
    "generate",
    "generate_batch",
    "inspect",
    "load",
    "load_translator",
    "stream_text",
]

_MODULES = {
    "Adapters": "pretrained",
    "ClassifierConfig": "config",
    "ClassifyDataModule": "data",
    "EncoderConfig": "config",
    "GPT": "model",
    "GPTConfig": "config",
    "LLMError": "errors",
    "LanguageModel": "tasks",
    "LoRAConfig": "config",
    "MaskedDataModule": "data",
    "MaskedLanguageModel": "tasks",
    "OptimConfig": "config",
    "SamplingConfig": "config",
    "TextClassifier": "tasks",
    "TextDataModule": "data",
    "TokenizerConfig": "config",
    "TransformerConfig": "config",
    "TranslationDataModule": "data",
    "TranslationModel": "tasks",
    "build_tokenizer": "tokenizers",
    "load_translator": "generation.translating",
    "classify_texts": "evaluation.classifying",
    "continue_texts": "generation",
    "fill_masks": "generation",
    "generate": "generation",
    "generate_batch": "generation",
    "inspect": "inspection.report",
    "load": "pretrained",
    "stream_text": "generation",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
