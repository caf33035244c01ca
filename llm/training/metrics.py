"""Metrics of a validation or test split: over all its tokens, however they are batched."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from llm.errors import DataError
from llm.training.loss import Prediction


class SplitMetrics(Metric):
    """Loss and token accuracy, accumulated batch by batch, and over all processes when they are computed.

    The sums stay on the device, so that no batch synchronizes, and are in float64 even where the model is in 16 bits:
    in float32 they would stop growing after some ten million tokens (in float32 too, where a device has nothing
    wider). So do not register this as a submodule of the model: it would be cast to the model's precision.

    Args:
        split: its name, for errors.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, split: str = "the split") -> None:
        super().__init__()
        self.split = split
        # Of the losses, of the correct predictions, of all supervised tokens.
        self.add_state("sums", default=torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def begin(self, device: torch.device) -> None:
        """Reset; the batches to come are on this device."""
        if device.type == "mps":  # it has no float64
            self.set_dtype(torch.float32)
        self.to(device)
        self.reset()

    def update(self, prediction: Prediction) -> None:
        """Add one batch."""
        assert prediction.n_correct is not None
        parts = (prediction.loss, prediction.n_correct, prediction.n_tokens)
        self.sums = self.sums + torch.stack([part.detach().to(self.sums.dtype) for part in parts])  # (3)

    @property
    def is_empty(self) -> bool:
        """Whether nothing supervised has been added by this process."""
        return float(self.sums[2]) == 0

    def compute(self) -> tuple[float, float]:
        """Loss in nats, and token accuracy.

        Raises:
            DataError: nothing in any batch was supervised.
        """
        if self.sums[2] == 0:
            raise DataError(
                f"{self.split} has no supervised token, so it has no loss; give it rows with targets, or turn it off"
            )
        loss, accuracy = (self.sums[:2] / self.sums[2]).tolist()
        # An infinite loss is visible in a curve and is never the lowest.
        return math.inf if math.isnan(loss) else loss, accuracy

    def values(self, bytes_per_token: float | None) -> dict[str, float]:
        """By name: loss in nats, perplexity, token accuracy, and bits per byte where the bytes are known.

        Args:
            bytes_per_token: mean size of a token in UTF-8 bytes, if known.

        Raises:
            DataError: nothing in any batch was supervised.
        """
        loss, accuracy = self.compute()
        values = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "token_accuracy": accuracy}
        if bytes_per_token is not None:
            values["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        return values
