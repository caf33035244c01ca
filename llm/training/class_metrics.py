"""How well labels are predicted: accuracy, balanced accuracy, F1, AUROC, and the confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)


class ClassMetrics:
    """The metrics of a split, over all its texts and processes. No module, so that no cast of the model changes them.

    Args:
        n_labels: N, the number of labels.
    """

    def __init__(self, n_labels: int) -> None:
        self.n_labels = n_labels
        checked = {"num_classes": n_labels, "validate_args": False}
        self._of_classes = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(average="micro", **checked),  # type: ignore[arg-type]
                "balanced_accuracy": MulticlassAccuracy(average="macro", **checked),  # type: ignore[arg-type]
                "f1_macro": MulticlassF1Score(average="macro", **checked),  # type: ignore[arg-type]
                "confusion": MulticlassConfusionMatrix(**checked),  # type: ignore[arg-type]
            }
        )
        self._ranking = BinaryAUROC(validate_args=False) if n_labels == 2 else None
        self.confusion = torch.zeros(n_labels, n_labels, dtype=torch.int64)
        """(N, N) how often a text of the label of the row was given the label of the column; by the last `values`."""

    def begin(self, device: torch.device) -> None:
        """Reset; the batches to come are on this device."""
        self._of_classes.to(device)
        self._of_classes.reset()
        if self._ranking is not None:
            self._ranking.to(device)
            self._ranking.reset()

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add one batch.

        Args:
            logits: (B, N).
            targets: (B) classes.
        """
        probabilities = logits.detach().float().softmax(-1)
        self._of_classes.update(probabilities.argmax(-1), targets)
        if self._ranking is not None:
            self._ranking.update(probabilities[:, 1], targets)

    def values(self) -> dict[str, float]:
        """By name, of all batches: `accuracy`, `balanced_accuracy` (the mean recall of the labels), `f1_macro` (the
        mean of their F1), and where there are two labels, both of which occur, `auroc`."""
        found = self._of_classes.compute()
        self.confusion = found.pop("confusion").cpu()
        values = {name: float(value) for name, value in found.items()}
        if self._ranking is not None and bool((self.confusion.sum(1) > 0).all()):
            values["auroc"] = float(self._ranking.compute())
        return values
