"""How well a model predicts a whole split: means over all of its tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric


class SplitMetrics(nn.Module):
    """Loss and accuracy of one split, batch by batch, over all processes.

    A loss that is no number must show, as infinity: by default it would be left out of the mean. (With the strategy
    "disable", torchmetrics 1.9 leaves out the weights too.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy=math.inf)
        self.accuracy = MeanMetric(nan_strategy=math.inf)

    def reset(self) -> None:
        """Forget everything."""
        with torch.inference_mode(False):  # else a module that was evaluated could not be trained afterwards
            self.loss.reset()
            self.accuracy.reset()

    def update(self, loss: Tensor, accuracy: Tensor | None, n_tokens: int) -> None:
        """Add the means of a batch of so many tokens."""
        self.loss.update(loss, n_tokens)
        self.accuracy.update(accuracy, n_tokens)

    def values(self, bytes_per_token: float | None) -> dict[str, float]:
        """The means, and what follows from them.

        Args:
            bytes_per_token: of the split's text, if known.
        """
        loss = float(self.loss.compute())
        values = {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "token_accuracy": float(self.accuracy.compute()),
        }
        if bytes_per_token is not None:
            values["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        return values
