"""The token before: a bigram model, which knows one token and nothing else of the text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import OptimConfig
from llm.config.checks import checks
from llm.data.batch import IGNORED, TokenBatch
from llm.tasks.base import TaskModule
from llm.training.loss import Prediction


@dataclass(frozen=True)
class BigramConfig:
    """The architecture of a bigram model.

    Args:
        vocab_size: V. On the command line it comes from the tokenizer.
        n_embd: C, size of the embedding vectors.
    """

    vocab_size: int = 50257
    n_embd: int = 32

    def __post_init__(self) -> None:
        with checks(self) as check:
            check(self.n_embd > 0, f"n_embd must be at least 1, got {self.n_embd}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as primitives, as checkpoints store them."""
        return dataclasses.asdict(self)


class BigramNetwork(nn.Module):
    """An embedding and a head.

    Args:
        config: the architecture.
    """

    def __init__(self, config: BigramConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)


_BIGRAM = BigramConfig()
_OPTIM = OptimConfig()


class Bigram(TaskModule):
    """Trains a bigram model.

    Args:
        bigram: the architecture.
        optim: optimizer and learning rate.
    """

    task = "bigram"
    network_config = BigramConfig
    network: BigramNetwork

    def __init__(self, bigram: BigramConfig = _BIGRAM, optim: OptimConfig = _OPTIM) -> None:
        super().__init__(BigramNetwork(bigram), optim)

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """The embeddings of the inputs, (B, T, C)."""
        return self.network.embedding(batch.inputs)  # (B, T) -> (B, T, C)

    def loss_of(
        self, hidden_states: Tensor, batch: TokenBatch, with_accuracy: bool = False, scale: float = 1.0
    ) -> Prediction:
        """The summed cross-entropy of the targets."""
        logits = self.network.head(hidden_states).flatten(0, 1)  # (B, T, C) -> (B T, V)
        targets = batch.targets.flatten()  # (B, T) -> (B T)
        loss = F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=IGNORED) * scale
        n_correct = (logits.argmax(-1) == targets).sum() if with_accuracy else None
        return Prediction(loss, (targets != IGNORED).sum(), n_correct)
