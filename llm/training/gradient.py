"""The gradient of an optimizer step: summed over micro-batches, judged, divided once, and clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from llm.data.batch import TokenBatch
from llm.runs.processes import total_norm
from llm.training.loss import Prediction
from llm.training.non_finite import NonFiniteGuard
from llm.training.step import MicroBatch, correction, totals_of
from llm.training.trainer_state import has_loss_scaler, is_logging


class StepMade(NamedTuple):
    """A step whose gradient is ready for the optimizer.

    Args:
        loss: the mean over its supervised tokens, in nats.
        accuracy: the fraction of them that were predicted correctly; None if not counted.
        norm: of its gradient, before clipping.
    """

    loss: float
    accuracy: float | None
    norm: Tensor


class StepGradient:
    """Adds up micro-batches, and makes of their gradients that of the mean over the step's supervised tokens.

    See `llm.training.step` for the arithmetic.

    Args:
        non_finite: what to do at a step whose loss or gradient is NaN or infinite: `stop` or `skip`.
    """

    def __init__(self, non_finite: Literal["stop", "skip"]) -> None:
        self.guard = NonFiniteGuard(non_finite)
        self.unsupervised_batches = 0
        """Micro-batches of the run, of all processes, in which nothing was supervised."""
        self._micro_batches: list[MicroBatch] = []
        self._counts_correct = False

    def begin_run(self) -> None:
        """Forget the micro-batches of a step that was never made."""
        self._micro_batches = []

    def counts_correct(self, trainer: L.Trainer) -> bool:
        """Whether the accuracy of this step is to be counted: in all of its micro-batches, or in none."""
        if not self._micro_batches:  # whether a step is logged may change within it, when the run is about to stop
            self._counts_correct = is_logging(trainer)
        return self._counts_correct

    def add(self, trainer: L.Trainer, batch: TokenBatch, prediction: Prediction, scale: float) -> None:
        """Add a micro-batch.

        Args:
            trainer: the run's.
            batch: its tokens.
            prediction: with its summed loss, times `scale`.
            scale: see `loss_scale`.
        """
        loss = prediction.loss.detach() / scale
        position = trainer.fit_loop.total_batch_idx
        self._micro_batches.append(MicroBatch(position, batch, loss, prediction.n_tokens, prediction.n_correct))

    def finish(
        self,
        trainer: L.Trainer,
        optimizer: torch.optim.Optimizer,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        tokenizer: Any,
        clip_value: float | None,
        clip_algorithm: str | None,
    ) -> StepMade | None:
        """Divide the accumulated gradients by the supervised tokens of the step, and clip them; None for no step.

        Args:
            trainer: the run's.
            optimizer: whose parameters have the gradients; changed in place, and removed where there is no step.
            named_parameters: to say which gradient is not finite.
            tokenizer: to say in which text; or None.
            clip_value: the largest norm, or the largest value; None or 0 for no clipping.
            clip_algorithm: `norm`, also for None, or `value`.

        Raises:
            TrainingError: a loss or a gradient is NaN or infinite, and the guard is to `stop`.
        """
        micro_batches, self._micro_batches = self._micro_batches, []
        scales_loss = has_loss_scaler(trainer)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = total_norm(gradients, trainer.strategy, trainer.strategy.root_device)
        totals = totals_of(trainer, micro_batches, norm, judges_norm=not scales_loss)
        is_finite = self.guard.admits(trainer, totals, micro_batches, named_parameters, tokenizer)
        if scales_loss:
            self.guard.note_overflow(not math.isfinite(totals.norm))
        self.unsupervised_batches += int(totals.n_unsupervised)
        factor = correction(trainer, totals)
        if not is_finite or factor == 0.0:
            optimizer.zero_grad(set_to_none=True)  # without a gradient, an optimizer skips the parameter
            return None
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)
            norm = norm * factor
        if clip_value and clip_algorithm in (None, "norm"):
            if not totals.norm * factor <= clip_value:  # else each gradient would be multiplied by one
                torch.nn.utils.clip_grads_with_norm_(parameters, float(clip_value), norm)
        elif clip_value:  # not Lightning's way, which refuses a fused optimizer whatever it does
            torch.nn.utils.clip_grad_value_(parameters, clip_value)
        accuracy = totals.n_correct / totals.n_tokens if self._counts_correct else None
        return StepMade(totals.loss / totals.n_tokens, accuracy, norm)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the steps so far: those that were skipped, and batches without a target."""
        return {"skipped_steps": self.guard.state(), "unsupervised_batches": self.unsupervised_batches}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state.

        Raises:
            CheckpointError: it is damaged.
        """
        self.guard.restore(state.get("skipped_steps"))
        count = state.get("unsupervised_batches", 0)
        self.unsupervised_batches = count if isinstance(count, int) else 0
