"""What validation and test measure of a split: over all its tokens, however they come in batches."""

from __future__ import annotations

import math

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from llm.data.windows import Batch
from llm.model import GPT
from llm.training.loss import head_loss
from llm.training.trainer_state import is_amid_step


class SplitMetrics(Metric):
    """Loss and token accuracy, summed up batch by batch, and over all processes when they are computed.

    The sums stay on the device, so that no batch waits for the one before it, and are in float32 even where the model
    is in 16 bits, in which they would stop growing after some hundred batches: whoever holds this does not register it
    as a part of the model, which would be brought to the model's precision.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Of the losses, of the tokens predicted right, of all tokens.
        self.add_state("sums", default=torch.zeros(3), dist_reduce_fx="sum")

    def begin(self, device: torch.device) -> None:
        """Forget all batches; those to come are on this device."""
        self.to(device)
        self.reset()

    def update(self, loss: Tensor, accuracy: Tensor, n_tokens: int) -> None:
        """Add the means over one batch."""
        means = torch.stack([loss.float(), accuracy.float(), loss.new_ones((), dtype=torch.float32)])  # (3)
        self.sums = self.sums + n_tokens * means

    def compute(self) -> tuple[float, float]:
        """Loss in nats, and token accuracy."""
        loss, accuracy = (self.sums[:2] / self.sums[2]).tolist()
        # Infinite, a loss shows in a curve and is never the lowest.
        return math.inf if math.isnan(loss) else loss, accuracy

    def values(self, bytes_per_token: float | None) -> dict[str, float]:
        """By name: loss in nats, perplexity, token accuracy, and bits per byte where the bytes are known.

        Args:
            bytes_per_token: mean size of a token in UTF-8 bytes, if anybody knows.
        """
        loss, accuracy = self.compute()
        values = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "token_accuracy": accuracy}
        if bytes_per_token is not None:
            values["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        return values


class EvaluatedModule(L.LightningModule):
    """The part of a `LanguageModel` that validation and test call."""

    gpt: GPT

    def __init__(self) -> None:
        super().__init__()
        self._split_metrics = {split: SplitMetrics() for split in ("validation", "test")}

    def on_validation_epoch_start(self) -> None:
        """Forget the validation before."""
        self._split_metrics["validation"].begin(self.device)

    def on_test_epoch_start(self) -> None:
        """Forget the test before."""
        self._split_metrics["test"].begin(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the validation metrics."""
        del batch_idx
        self._add(batch, "validation")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the test metrics."""
        del batch_idx
        self._add(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all validation tokens."""
        self._log_split("validation")

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all test tokens."""
        self._log_split("test")

    def _add(self, batch: Batch, split: str) -> None:
        inputs, targets = batch
        loss, accuracy = head_loss(self.gpt.head, self.gpt.hidden_states(inputs), targets, with_accuracy=True)
        assert accuracy is not None
        self._split_metrics[split].update(loss, accuracy, targets.numel())

    def _log_split(self, split: str) -> None:
        bytes_of = getattr(getattr(self.trainer, "datamodule", None), "bytes_per_token", None)
        values = self._split_metrics[split].values(None if bytes_of is None else bytes_of(split))
        found = {f"{split}/{name}": value for name, value in values.items()}
        if self.trainer.state.fn == "fit":
            # A validation while gradients are being accumulated counts to the step to come, as the last checkpoint is
            # that of the step made: a run that goes on from there makes it again.
            found["step"] = float(self.trainer.global_step + is_amid_step(self.trainer))
        self.log_dict(found, sync_dist=True)  # all processes have the same values; without it Lightning would warn
