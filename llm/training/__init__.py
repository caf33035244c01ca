"""Training: the LightningModule, its optimizer, and the callbacks that go with every run."""

from llm.training.checkpointing import AtomicCheckpointIO, BestAndLast, Interrupted, StopSafely, newest_checkpoint
from llm.training.module import LanguageModel
from llm.training.predictions import PredictionWriter
from llm.training.progress import RunProgress, Throughput
from llm.training.samples import TextSamples

__all__ = [
    "AtomicCheckpointIO",
    "BestAndLast",
    "Interrupted",
    "LanguageModel",
    "PredictionWriter",
    "RunProgress",
    "StopSafely",
    "TextSamples",
    "Throughput",
    "newest_checkpoint",
]
