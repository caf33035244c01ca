"""How fast a run is, and what does not count as training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import lightning as L
from torch import Tensor

from llm.data.batch import TokenBatch
from llm.runtime.hardware import peak_flops, synchronize
from llm.training.trainer_state import is_logging, log_now

_seconds: WeakKeyDictionary[L.Trainer, float] = WeakKeyDictionary()


class Throughput(L.Callback):
    """Logs `train/tokens_per_second` over the steps since it was last logged, and the utilization of the device.

    `train/model_flops_utilization` is the operations that the tokens need (`flops_per_token`) divided by those that
    the device could have done (`PEAK_FLOPS`; it is not logged for devices that are not in that table). Padding is no
    token; the other processes are taken to have as many tokens as this one.

    Validation, inspection, samples and checkpoints are not counted; waiting for data is. The device is
    synchronized before a clock is read.
    """

    def __init__(self) -> None:
        self._tokens: int | Tensor = 0  # of padded batches on the device, so that no step waits for it
        self._side_work = 0.0
        self._start: float | None = None
        self._validation_start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset."""
        del trainer, pl_module
        self._start = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: TokenBatch, batch_idx: int
    ) -> None:
        """Count the tokens of a batch, without its padding."""
        del outputs, batch_idx
        if self._start is None:  # the first batch is slower: kernels are chosen, memory is allocated
            self._restart(trainer)
            return
        batch = TokenBatch.of(batch)
        self._tokens = self._tokens + (batch.inputs.numel() if batch.lengths is None else batch.lengths.sum())
        if is_logging(trainer):
            synchronize(pl_module.device)
            seconds = time.perf_counter() - self._start - (side_work_seconds(trainer) - self._side_work)
            n_tokens = int(self._tokens)
            values = {"train/tokens_per_second": n_tokens * trainer.world_size / seconds}
            if peak := peak_flops(pl_module.device, str(trainer.precision)):
                flops = getattr(pl_module, "flops_per_token", None)
                if flops is not None:
                    values["train/model_flops_utilization"] = n_tokens * flops / seconds / peak
            pl_module.log_dict(values, logger=False)
            log_now(trainer, values, trainer.global_step)
            self._restart(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation is not training time."""
        del trainer
        synchronize(pl_module.device)
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training time continues."""
        del pl_module
        _seconds[trainer] = side_work_seconds(trainer) + time.perf_counter() - self._validation_start

    def _restart(self, trainer: L.Trainer) -> None:
        synchronize(trainer.strategy.root_device)
        self._tokens, self._side_work, self._start = 0, side_work_seconds(trainer), time.perf_counter()


@contextlib.contextmanager
def side_work(trainer: L.Trainer) -> Iterator[None]:
    """Time spent here (inspection, samples, checkpoints) does not count as training time in tokens/s."""
    device = trainer.strategy.root_device
    synchronize(device)  # work still queued there is training time
    start = time.perf_counter()
    try:
        yield
    finally:
        synchronize(device)
        _seconds[trainer] = side_work_seconds(trainer) + time.perf_counter() - start


def side_work_seconds(trainer: L.Trainer) -> float:
    """How long this trainer has done something other than train, validations within training included."""
    return _seconds.get(trainer, 0.0)
