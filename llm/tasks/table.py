"""Which LightningModule a task trains, and on which LightningDataModule: one row a task.

Nothing large is imported here: `python train.py --help` lists the tasks at once.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import lightning as L


class Task(NamedTuple):
    """What `--task WORD` stands for.

    Args:
        module: import path of the LightningModule, such as `llm.tasks:LanguageModel`.
        datamodule: import path of the LightningDataModule.
        summary: one line for --help.
        links: settings of the module that follow from the data, source to target, or to several. A source is an
            attribute of the data module as it is after `__init__`.
        callbacks: import paths of the callbacks that every run of this task has, each by the group of its options.
        config: the YAML file that a run takes where none is named, a path below `configs/`. Default: `WORD.yaml`.
        usage: words behind `python -m llm` with which a trained model is used, but for its `--ckpt`; in them `{text}`
            is what the data module gives as `sample_text`: some words of the training text, or a source to translate.
    """

    module: str
    datamodule: str
    summary: str
    links: Mapping[str, str | tuple[str, ...]] = MappingProxyType({})
    callbacks: Mapping[str, str] = MappingProxyType({})
    config: str | None = None
    usage: tuple[str, ...] = ()

    def module_class(self) -> type[L.LightningModule]:
        """The LightningModule, imported."""
        return resolve(self.module)

    def datamodule_class(self) -> type[L.LightningDataModule]:
        """The LightningDataModule, imported."""
        return resolve(self.datamodule)

    @property
    def sources(self) -> dict[str, str]:
        """What each setting that follows from the data follows from: target to source."""
        each = {source: (found,) if isinstance(found, str) else found for source, found in self.links.items()}
        return {target: source for source, targets in each.items() for target in targets}

    @property
    def network_group(self) -> str:
        """Where the settings have the architecture: in the first argument of the module, such as `model.gpt`."""
        return f"model.{next(iter(inspect.signature(self.module_class()).parameters))}"

    def callback_classes(self) -> dict[str, type[L.Callback]]:
        """The callbacks, imported, each by the group of its options."""
        return {group: resolve(path) for group, path in self.callbacks.items()}


def resolve(path: str) -> type:
    """The class at an import path `package.module:Class`."""
    module, _, name = path.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type), path
    return found


TASKS: dict[str, Task] = {
    "language": Task(
        module="llm.tasks:LanguageModel",
        datamodule="llm.data:TextDataModule",
        summary="a GPT that predicts the next token of a text",
        links={"data.context_length": "model.gpt.context_length", "data.vocab_size": "model.gpt.vocab_size"},
        callbacks={
            "inspect": "llm.inspection:Inspection",
            "samples": "llm.inspection:TextSamples",
            "predictions": "llm.tasks.predictions:PredictionWriter",
        },
        config="default.yaml",
        usage=("generate", "--prompt", "{text}"),
    ),
    "masked": Task(
        module="llm.tasks:MaskedLanguageModel",
        datamodule="llm.data:MaskedDataModule",
        summary="an encoder that predicts masked words from both sides, as BERT",
        links={"data.context_length": "model.encoder.context_length", "data.vocab_size": "model.encoder.vocab_size"},
        callbacks={"inspect": "llm.inspection:Inspection"},
        config="contrasts/masked.yaml",
        usage=("fill", "--text", "{text}"),
    ),
    "classify": Task(
        module="llm.tasks:TextClassifier",
        datamodule="llm.data:ClassifyDataModule",
        summary="a GPT that says which label a text has",
        links={
            "data.context_length": "model.gpt.context_length",
            "data.vocab_size": "model.gpt.vocab_size",
            "data.labels": "model.gpt.labels",
        },
        callbacks={"inspect": "llm.inspection:Inspection"},
        config="finetune/classify.yaml",
        usage=("classify", "--text", "{text}"),
    ),
    "instruct": Task(
        module="llm.tasks:InstructModel",
        datamodule="llm.data:InstructDataModule",
        summary="a GPT that learns to answer: instructions and conversations",
        links={"data.context_length": "model.gpt.context_length", "data.vocab_size": "model.gpt.vocab_size"},
        callbacks={"inspect": "llm.inspection:Inspection", "answers": "llm.tasks.answers:Answers"},
        config="finetune/instruct.yaml",
        usage=("chat",),
    ),
    "translate": Task(
        module="llm.tasks:TranslationModel",
        datamodule="llm.data:TranslationDataModule",
        summary="an encoder and a decoder that translate sentences",
        links={
            f"data.{name}": (f"model.transformer.{name}", f"model.rnn.{name}")
            for name in ("context_length", "vocab_size", "source_vocab_size")
        },
        callbacks={"inspect": "llm.inspection:TranslationInspection"},
        config="contrasts/translate.yaml",
        usage=("translate", "--text", "{text}"),
    ),
    "word_vectors": Task(
        module="llm.tasks:WordVectorsModule",
        datamodule="llm.data:WordVectorsDataModule",
        summary="vectors of words, learned from the words around them, as word2vec",
        links={"data.vocab_size": "model.words.vocab_size"},
        callbacks={"inspect": "llm.inspection.word_vectors:WordVectorsInspection"},
        config="contrasts/word_vectors.yaml",
        usage=("neighbours", "{text}"),
    ),
}
"""Each task by its word."""
