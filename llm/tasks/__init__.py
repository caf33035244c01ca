"""What a network is trained to do: a LightningModule for each task."""

from llm.tasks.language import LanguageModel

__all__ = ["LanguageModel"]
