"""What a network is trained to do: a LightningModule for each task, and the table of tasks.

The public names are imported when they are first used: the table needs neither torch nor Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from llm.tasks.classify import TextClassifier
    from llm.tasks.instruct import InstructModel
    from llm.tasks.language import LanguageModel
    from llm.tasks.masked import MaskedLanguageModel
    from llm.tasks.table import TASKS, Task
    from llm.tasks.translate import TranslationModel
    from llm.tasks.word_vectors import WordVectorsModule

__all__ = [
    "TASKS",
    "InstructModel",
    "LanguageModel",
    "MaskedLanguageModel",
    "Task",
    "TextClassifier",
    "TranslationModel",
    "WordVectorsModule",
]

_MODULES = {
    "InstructModel": "instruct",
    "LanguageModel": "language",
    "MaskedLanguageModel": "masked",
    "TASKS": "table",
    "Task": "table",
    "TextClassifier": "classify",
    "TranslationModel": "translate",
    "WordVectorsModule": "word_vectors",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
