"""A task of its own kind, as small as can be: a line through points."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from llm.pretrained.checkpoint import ENTRY, VERSION


@dataclass(frozen=True)
class LineConfig:
    """A line.

    Args:
        n_features: numbers of a point; follows from the data.
        bias: add a number to all.
    """

    n_features: int = 1
    bias: bool = True


_LINE = LineConfig()


class ToyModule(L.LightningModule):
    """Linear regression.

    Args:
        line: the architecture.
        learning_rate: of plain gradient descent.
    """

    def __init__(self, line: LineConfig = _LINE, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.config = line
        self.line = nn.Linear(line.n_features, 1, line.bias)
        self.learning_rate = learning_rate

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        del batch_idx
        return self._loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        del batch_idx
        self.log("validation/loss", self._loss(batch))

    def _loss(self, batch: list[Tensor]) -> Tensor:
        points, values = batch
        return nn.functional.mse_loss(self.line(points)[:, 0], values)  # (B, F) -> (B, 1) -> (B)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        network = dataclasses.asdict(self.config)
        checkpoint[ENTRY] = {"version": VERSION, "task": "toy", "network": network, "tokenizer": None}


class ToyData(L.LightningDataModule):
    """Points and what to predict of them: their sum.

    Args:
        width: numbers of a point.
        batch_size: points in a batch.
    """

    def __init__(self, width: int = 3, batch_size: int = 4) -> None:
        super().__init__()
        self.n_features = width
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        points = torch.rand(32, self.n_features, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(points, points.sum(dim=1)), self.batch_size)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self.train_dataloader()
