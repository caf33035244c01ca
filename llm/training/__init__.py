"""Training: the LightningModule, its optimizer, and the callbacks that go with every run."""

from llm.training.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.training.ending import EndPoint
from llm.training.module import LanguageModel
from llm.training.predictions import PredictionWriter
from llm.training.progress import RunProgress, StartingPoint, Throughput
from llm.training.ranks import EndTogether
from llm.training.run_folder import OneCurve, newest_checkpoint
from llm.training.samples import TextSamples
from llm.training.stopping import StopSafely

__all__ = [
    "AtomicCheckpointIO",
    "BestAndLast",
    "EndPoint",
    "EndTogether",
    "LanguageModel",
    "OneCurve",
    "PredictionWriter",
    "RunProgress",
    "StartingPoint",
    "StopSafely",
    "TextSamples",
    "Throughput",
    "newest_checkpoint",
]
