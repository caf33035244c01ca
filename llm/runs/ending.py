"""The end of a run."""

from __future__ import annotations

from typing import Any

import lightning as L


class EndPoint(L.Callback):
    """Sees to it that a run shorter than the interval of validations is validated too, at its end."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """At the last step, ask Lightning to stop: it validates before it does."""
        del pl_module
        interval = getattr(trainer, "val_check_batch", None)
        if interval is not None and trainer.global_step == trainer.max_steps:
            trainer.should_stop = trainer.should_stop or trainer.fit_loop.total_batch_idx + 1 < interval
