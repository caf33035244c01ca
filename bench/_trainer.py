"""A Trainer for measuring what is learned, or how long it takes."""

from __future__ import annotations

from typing import Any

import lightning as L

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}
"""Of a Trainer that neither logs, saves nor shows anything."""


def quiet_trainer(**settings: Any) -> L.Trainer:
    """A Trainer on the processor that trains, and neither validates, logs, saves nor shows anything.

    Args:
        **settings: more of its settings, such as its length.
    """
    return L.Trainer(gradient_clip_val=1.0, limit_val_batches=0, **QUIET, **settings)
