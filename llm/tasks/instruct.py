"""Instructions and chat: a GPT that learns to answer."""

from __future__ import annotations

from typing import Any

from llm.config.tasks import INSTRUCT
from llm.data.modules.instruct import InstructDataModule
from llm.pretrained.checkpoint import ENTRY
from llm.tasks.base import TaskModule
from llm.tasks.language import LanguageModel


class InstructModel(LanguageModel):
    """Trains a GPT on the answers of instructions and conversations, from new or from trained weights.

    The loss is that of the tokens that are supervised, usually those of the answers. The special tokens of the chat
    template are new rows of the token embedding and of the head, where the weights do not have them yet. The template
    is part of the checkpoint.
    """

    task = INSTRUCT
    grows_vocabulary = True
    predict_step = TaskModule.predict_step  # `python -m llm chat` answers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the chat template to what every checkpoint has."""
        super().on_save_checkpoint(checkpoint)
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, InstructDataModule):
            checkpoint[ENTRY]["template"] = {**data.template.to_dict(), "end": data.template.end_text(data.tokenizer)}
