"""Training for a budget of processor time, which other work on the machine disturbs less than it does the clock.

The learning rate follows the time that is spent: a linear warm-up, then half a cosine to zero at the end, so that each
network has a whole schedule, however many steps its time allows.
"""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from bench._trainer import quiet_trainer
from llm.data import TranslationDataModule

WARMUP = 0.05
"""The fraction of the time that the warm-up takes."""


def rate(spent: float) -> float:
    """The learning rate, divided by its peak, when this fraction of the time is spent."""
    decay = 0.5 * (1 + math.cos(math.pi * max(0.0, spent - WARMUP) / (1 - WARMUP)))
    return min(1.0, spent / WARMUP) * decay


class Budget(L.Callback):
    """Ends a run when its time is over, and lets the learning rate follow that time.

    Args:
        seconds: of processor time, of all threads together.
        learning_rate: the peak.
    """

    def __init__(self, seconds: float, learning_rate: float) -> None:
        self.seconds, self.learning_rate = seconds, learning_rate

    @property
    def spent(self) -> float:
        """The fraction of the time that is spent."""
        return min(1.0, (time.process_time() - self.begin) / self.seconds)

    def on_train_start(self, *_: Any) -> None:
        """The time begins."""
        self.begin = time.process_time()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Set the rate of the next step, over what the schedule by steps has set."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.learning_rate * rate(self.spent)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """The time may be over."""
        trainer.should_stop = self.spent >= 1


def trainer_of(budget: Budget) -> L.Trainer:
    """A Trainer that trains for this time, and does nothing else."""
    return quiet_trainer(max_steps=10**9, callbacks=[budget])


@torch.no_grad()
def validation_loss(network: nn.Module, data: TranslationDataModule) -> float:
    """The loss over all validation pairs, in nats for each target token, the end token included."""
    loss = tokens = 0.0
    for batch in data.validation_loader():
        logits = network(batch.inputs, batch.lengths, batch.source, batch.source_lengths)
        loss += float(F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="sum"))
        tokens += int((batch.targets >= 0).sum())
    return loss / tokens
