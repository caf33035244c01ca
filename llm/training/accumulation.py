"""Gradients that are gathered over several batches before a step is made with them."""

from __future__ import annotations

import lightning as L


def is_amid_step(trainer: L.Trainer) -> bool:
    """Whether the batch before was not the last of its optimizer step: its gradients wait; no checkpoint holds them."""
    return trainer.fit_loop.epoch_loop._should_accumulate()
