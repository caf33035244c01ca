"""The guard against NaN/Inf in losses and gradients: no weight changes, and the batch is named and saved."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from llm.data.batch import TokenBatch
from llm.errors import CheckpointError, LLMError, TrainingError
from llm.runs.loggers import folder_of
from llm.runtime.files import write_whole
from llm.training.judging import StepToJudge
from llm.training.step import MicroBatch, StepTotals

log = logging.getLogger("llm")

FOLDER = "non_finite"
"""In the folder of a run: a file for each step that was stopped or skipped."""

MOST_IN_A_ROW = 10
"""After so many skipped steps in a row the run ends: no weight changes any more."""

MOST_OVERFLOWS = 40
"""With a loss scaler, this many steps in a row whose gradients are not finite: the scale is then 2^-24 at most, so that
it is not the scale that makes them overflow."""

_MOST_FILES = 100
_SHOWN = 4


class NonFiniteGuard:
    """Looks at every step before the optimizer takes it.

    Args:
        action: `stop` ends the run at a step whose loss or gradient is NaN or infinite; `skip` skips the step: neither
            weights nor the optimizer's moments change.
    """

    def __init__(self, action: Literal["stop", "skip"]) -> None:
        self.action = action
        self.skipped = 0
        self._in_a_row = 0
        self._overflows = 0

    def note_overflow(self, overflows: bool) -> None:
        """Count the steps in a row whose gradients overflow under a loss scaler, which skips them and scales down.

        Raises:
            TrainingError: no scale helps.
        """
        self._overflows = self._overflows + 1 if overflows else 0
        if self._overflows >= MOST_OVERFLOWS:
            raise TrainingError(
                f"the gradients of {self._overflows} steps in a row were NaN or infinite, whatever the loss scale: the "
                "weights are those from before. Try a lower learning_rate, or --trainer.precision 32-true"
            )

    def judge(
        self,
        trainer: L.Trainer,
        step: StepToJudge,
        totals: StepTotals,
        parameters: Iterable[tuple[str, nn.Parameter]],
        tokenizer: Any = None,
    ) -> None:
        """Count a step whose losses or gradients are not finite as skipped, and say which it is.

        All processes decide alike: what one of them met, all of them act on.

        Args:
            trainer: the run's.
            step: which one.
            totals: of it.
            parameters: that are trained, by name.
            tokenizer: turns the ids of a bad batch into text, for its file.

        Raises:
            TrainingError: they are not finite, and `action` is `stop`, or too many steps in a row were skipped.
        """
        worst = max(totals.faults)
        if worst == 0:
            self._in_a_row = 0
            return
        at_fault = len(totals.faults) - 1 - totals.faults[::-1].index(worst)
        folder = _folder(trainer)  # asks the other processes, so all of them have to
        found = ""
        if trainer.global_rank == at_fault:
            is_bad = [worst == 1 or not math.isfinite(loss) for loss in totals.losses]
            bad = [micro for micro, wrong in zip(step.micro_batches, is_bad, strict=True) if wrong]
            bad_step = _Step(trainer, step.number, totals, bad, tokenizer)
            found = f"step {step.number}: {_describe(bad_step, worst)}"
            if folder is not None and self.skipped < _MOST_FILES:
                found += _keep(bad_step, folder, parameters)
        found = trainer.strategy.broadcast(found, src=at_fault)  # the first error seen names all
        if self.action == "stop":
            raise TrainingError(
                f"{found}. The weights are still those of the step before. Try a lower learning_rate, a longer "
                "warmup_steps or a higher precision; --model.non_finite skip skips such steps"
            )
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            raise TrainingError(
                f"{found}. That is {self._in_a_row} steps in a row skipped, so the run makes no progress; the weights "
                "are unchanged. Try a lower learning_rate, a longer warmup_steps or a higher precision"
            )
        if trainer.is_global_zero:
            log.warning("%s. Skipped; so far %d", found, self.skipped)

    # What a checkpoint needs to know.

    def state(self) -> list[int]:
        """How many steps were skipped, and how many of them were the last ones."""
        return [self.skipped, self._in_a_row]

    def restore(self, state: Any) -> None:
        """Go on counting from `state()`; from nothing, if a checkpoint has none.

        Raises:
            CheckpointError: it is something else.
        """
        state = [0, 0] if state is None else state
        if not (isinstance(state, list) and len(state) == 2 and all(type(count) is int for count in state)):
            raise CheckpointError(f"the checkpoint is damaged: skipped_steps is {str(state)[:80]}")
        self.skipped, self._in_a_row = state


class _Step(NamedTuple):
    """A step that is not finite, as the process at fault sees it."""

    trainer: L.Trainer
    number: int
    totals: StepTotals
    bad: Sequence[MicroBatch]
    tokenizer: Any

    def place(self, micro: MicroBatch) -> tuple[int, int]:
        """The epoch of a batch, and its number in it."""
        batches = self.trainer.num_training_batches
        if not math.isfinite(batches):
            return 0, micro.position
        position_of = getattr(getattr(self.trainer, "datamodule", None), "position_of", None)
        epoch, batch = divmod(micro.position, int(batches)) if position_of is None else position_of(micro.position)
        return epoch, batch

    def starts(self, micro: MicroBatch) -> list[int]:
        """Where in the training tokens the rows of a batch begin; nothing, if its loader doesn't say."""
        starts_of = getattr(self.trainer.train_dataloader, "starts_of", None)
        return [] if starts_of is None else list(starts_of(*self.place(micro)))


def _folder(trainer: L.Trainer) -> Path | None:
    folder = folder_of(trainer) or trainer.log_dir
    return None if folder is None or trainer.fast_dev_run else Path(folder, FOLDER)  # type: ignore[attr-defined]


def _describe(step: _Step, fault: int) -> str:
    """What is NaN or infinite, and in which batches."""
    means = [loss / max(count, 1) for loss, count in zip(step.totals.losses, step.totals.counts, strict=True)]
    wrong = next((loss for loss in means if not math.isfinite(loss)), step.totals.norm)
    what = f"the loss is {wrong}" if fault == 2 else f"the gradient norm is {step.totals.norm}"
    return f"{what}, in {', '.join(_name(step, micro) for micro in step.bad[:_SHOWN])}"


def _name(step: _Step, micro: MicroBatch) -> str:
    epoch, batch = step.place(micro)
    rank = f", process {step.trainer.global_rank}" if step.trainer.world_size > 1 else ""
    starts = step.starts(micro)
    windows = ""
    if starts:
        more = ", ..." if len(starts) > _SHOWN else ""
        windows = f" (windows that begin at token {', '.join(f'{start:,}' for start in starts[:_SHOWN])}{more})"
    return f"batch {batch} of epoch {epoch}{rank}{windows}"


def _keep(step: _Step, folder: Path, parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    """Write down the batches; says where, or why not."""
    counts = {name: int((~p.grad.isfinite()).sum()) for name, p in parameters if p.grad is not None}
    number, rank = step.number, step.trainer.global_rank
    content = {
        "step": number,
        "process": rank,
        "gradient_norm": str(step.totals.norm),
        "non_finite_gradients": {name: count for name, count in counts.items() if count},
        "batches": [_content(step, micro) for micro in step.bad],
    }
    file = folder / f"step-{number}-process-{rank}.json"
    try:
        write_whole(file, json.dumps(content, indent=1).encode())
    except OSError as error:
        return f"; its text could not be written to {str(file)!r} ({error.strerror})"
    return f"; its token ids and text are in {str(file)!r}"


def _content(step: _Step, micro: MicroBatch) -> dict[str, Any]:
    epoch, batch = step.place(micro)
    rows = _rows(micro.batch)
    starts: list[int] | list[None] = step.starts(micro) or [None] * len(rows)
    windows = [
        {"begins_at_token": start, "text": _text(step.tokenizer, row["ids"]), **row}
        for start, row in zip(starts, rows, strict=True)
    ]
    return {"epoch": epoch, "batch": batch, "loss": str(_mean(micro.loss, micro.n_tokens)), "windows": windows}


def _rows(batch: TokenBatch) -> list[dict[str, list[int]]]:
    """The ids of each row, without padding: with the last target where the targets are the next tokens, and else the
    targets beside them; and those of its source, if it has one."""
    inputs, targets, lengths = batch.inputs, batch.targets, batch.lengths
    if (source := getattr(batch, "source", None)) is not None:
        source_lengths = batch.source_lengths
        n_sources = [source.shape[1]] * len(source) if source_lengths is None else source_lengths.tolist()
        sources = [ids[:end] for ids, end in zip(source.tolist(), n_sources, strict=True)]
        rows = _rows(batch._replace(source=None))
        return [{**row, "source_ids": ids} for row, ids in zip(rows, sources, strict=True)]
    if lengths is None and torch.equal(targets[:, :-1], inputs[:, 1:]) and bool((targets[:, -1] >= 0).all()):
        return [{"ids": row} for row in torch.cat([inputs, targets[:, -1:]], dim=1).tolist()]  # (B, T + 1)
    ends = [inputs.shape[1]] * len(inputs) if lengths is None else lengths.tolist()
    pairs = zip(inputs.tolist(), targets.tolist(), ends, strict=True)
    return [{"ids": ids[:end], "targets": row[:end]} for ids, row, end in pairs]


def _mean(loss: Tensor, n_tokens: Tensor) -> float:
    return float(loss) / max(int(n_tokens), 1)


def _text(tokenizer: Any, ids: list[int]) -> str | None:
    try:
        return None if tokenizer is None else tokenizer.decode(ids)
    except LLMError:  # ids outside the vocabulary have to be shown too
        return None
