"""The gradient of an optimizer step: summed over micro-batches, judged, divided once, and clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import nn

from llm.data.batch import TokenBatch
from llm.runs.processes import total_norm
from llm.training.judging import StepToJudge, may_be_judged_later, take_always, take_if
from llm.training.loss import Prediction
from llm.training.non_finite import NonFiniteGuard
from llm.training.step import MicroBatch, StepTotals, totals_of
from llm.training.trainer_state import has_loss_scaler, is_logging


class StepMade(NamedTuple):
    """What is known of a step whose gradient is ready for the optimizer.

    Args:
        loss: the mean over its supervised tokens, in nats.
        accuracy: the fraction of them that were predicted correctly; None if not counted.
        norm: of its gradient, before clipping.
    """

    loss: float
    accuracy: float | None
    norm: float


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
        self._to_judge: StepToJudge | None = None
        self._counts_correct = False

    def begin_run(self) -> None:
        """Forget the micro-batches of a step that was never made, and a step that was never judged."""
        self._micro_batches, self._to_judge = [], None

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
        """Divide the accumulated gradients by the supervised tokens of the step, and clip them.

        A step that is logged is judged first. Another may be judged later, where that spares waiting for the device:
        then nothing is known of it (see `llm.training.judging`).

        Args:
            trainer: the run's.
            optimizer: whose parameters have the gradients; changed in place, and removed where there is no step.
            named_parameters: to say which gradient is not finite.
            tokenizer: to say in which text; or None.
            clip_value: the largest norm, or the largest value; None or 0 for no clipping.
            clip_algorithm: `norm`, also for None, or `value`.

        Returns:
            What is known of the step; None also where there is none.

        Raises:
            TrainingError: a loss or a gradient is NaN or infinite, and the guard is to `stop`.
        """
        micro_batches, self._micro_batches = self._micro_batches, []
        scales_loss, device = has_loss_scaler(trainer), trainer.strategy.root_device
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = total_norm(gradients, trainer.strategy, device)
        by_norm = clip_algorithm in (None, "norm")
        clip = float(clip_value) if clip_value and by_norm else None
        totals = totals_of(trainer, micro_batches, norm, clip, judges_norm=not scales_loss)
        step, made = StepToJudge(trainer.global_step, totals, micro_batches), None
        if may_be_judged_later(optimizer, device) and not is_logging(trainer):
            self._to_judge = step
            totals.send()
            take_if(totals.is_counted, optimizer, gradients, totals.factor)
        else:
            take_always(optimizer)
            found = self._judge(trainer, step, named_parameters, tokenizer)
            if scales_loss:
                self.guard.note_overflow(not math.isfinite(found.norm))
            if not found.is_counted:
                optimizer.zero_grad(set_to_none=True)  # without a gradient, an optimizer skips the parameter
                return None
            if found.factor != 1.0:
                torch._foreach_mul_(gradients, totals.factor)
            accuracy = found.n_correct / found.n_tokens if self._counts_correct else None
            made = StepMade(found.loss / found.n_tokens, accuracy, found.mean_norm)
        if clip_value and not by_norm:  # not Lightning's way, which refuses a fused optimizer
            torch.nn.utils.clip_grad_value_(parameters, clip_value)
        return made

    def judge_last_step(
        self, trainer: L.Trainer, named_parameters: Iterable[tuple[str, nn.Parameter]], tokenizer: Any
    ) -> None:
        """Judge the step that the optimizer took last, if that was put off; the arguments are those of `finish`.

        Raises:
            TrainingError: its loss or its gradients are NaN or infinite, and the guard is to `stop`.
        """
        step, self._to_judge = self._to_judge, None
        if step is not None:
            self._judge(trainer, step, named_parameters, tokenizer)

    def _judge(
        self,
        trainer: L.Trainer,
        step: StepToJudge,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        tokenizer: Any,
    ) -> StepTotals:
        """The totals of a step, which the guard has seen."""
        found = step.totals.read()
        self.guard.judge(trainer, step, found, named_parameters, tokenizer)
        self.unsupervised_batches += int(found.n_unsupervised)
        return found

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
