"""What is measured of a split: over all its tokens, however they come in batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric


class SplitMetrics(nn.Module):
    """Loss and token accuracy, summed up batch by batch, on all devices."""

    def __init__(self) -> None:
        super().__init__()
        # A loss that is no number must show, as infinity: by default it would be left out of the mean. (With the
        # strategy "disable", torchmetrics 1.9 leaves out the weights too.)
        self.loss, self.accuracy = (MeanMetric(nan_strategy=math.inf) for _ in range(2))

    def reset(self) -> None:
        """Forget all batches."""
        with torch.inference_mode(False):  # else a module that was evaluated could not be trained afterwards
            self.loss.reset()
            self.accuracy.reset()

    def update(self, loss: Tensor, accuracy: Tensor, n_tokens: int) -> None:
        """Add the means over one batch."""
        self.loss.update(loss, n_tokens)
        self.accuracy.update(accuracy, n_tokens)

    def values(self, bytes_per_token: float | None) -> dict[str, float]:
        """By name: loss in nats, perplexity, token accuracy, and bits per byte where the bytes are known."""
        loss = float(self.loss.compute())
        values = {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "token_accuracy": float(self.accuracy.compute()),
        }
        if bytes_per_token is not None:
            values["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        return values
