"""A loss or a gradient that is infinite or not a number (NaN): no weight moves, and the batch is named and kept."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from llm.data.batch import TokenBatch
from llm.data.loader import BatchLoader
from llm.errors import CheckpointError, LLMError, TrainingError
from llm.runtime.files import write_whole

if TYPE_CHECKING:
    from llm.tasks.language import LanguageModel

log = logging.getLogger("llm")

FOLDER = "non_finite"
"""In the folder of a run: a file for each step that was stopped or left out."""

MOST_IN_A_ROW = 10
"""This many steps left out in a row are more than bad luck: no weight moves any more, so the run ends."""

_MOST_FILES = 100
_SHOWN = 4


class Micro(NamedTuple):
    """One of the batches whose gradients make up a step."""

    position: int
    """How many batches of the run came before it."""
    batch: TokenBatch
    loss: Tensor


class StepGuard:
    """Looks at every step before the optimizer takes it.

    Args:
        action: `stop` ends the run at a step whose loss or gradient is infinite or NaN; `skip` leaves the step out:
            neither weights nor the optimizer's means change.
    """

    def __init__(self, action: Literal["stop", "skip"]) -> None:
        self.action = action
        self.skipped = 0
        self._in_a_row = 0
        self._micros: list[Micro] = []

    def begin(self) -> None:
        """Forget the batches of a run before this one."""
        self._micros = []

    def watch(self, position: int, batch: TokenBatch, loss: Tensor) -> None:
        """Remember a batch until its step is taken."""
        self._micros.append(Micro(position, batch, loss))

    def admit(self, module: LanguageModel, optimizer: torch.optim.Optimizer, norm: Tensor) -> float | None:
        """The norm of the gradients, if losses and gradients are finite; None if the step is left out.

        All processes decide alike: what one of them met, all of them act on. This is where each step waits for a GPU.

        Args:
            module: that is trained.
            optimizer: that is about to take a step.
            norm: of all its gradients, before clipping.

        Raises:
            TrainingError: they are not finite, and `action` is `stop`, or too many steps in a row were left out.
        """
        micros, self._micros = self._micros, []
        size, *losses = torch.stack([norm.float(), *(micro.loss.float() for micro in micros)]).tolist()
        # With a loss scaler, gradients that overflow are its business: it skips the step and scales down.
        level = 1 if not module.has_loss_scaler and not math.isfinite(size) else 0
        if not all(map(math.isfinite, losses)):
            level = 2
        worst, at_fault = _worst_of_all(module, level)
        if worst == 0:
            self._in_a_row = 0
            return size
        folder = _folder(module)  # asks the other processes, so all of them have to
        found = ""
        if module.global_rank == at_fault:
            bad = [m for m, loss in zip(micros, losses, strict=True) if level == 1 or not math.isfinite(loss)]
            found = f"step {module.global_step}: {_describe(module, level, size, losses, bad)}"
            if folder is not None and self.skipped < _MOST_FILES:
                found += _keep(module, optimizer, folder, size, bad)
        found = module.trainer.strategy.broadcast(found, src=at_fault)  # whichever is heard first tells all
        if self.action == "stop":
            raise TrainingError(
                f"{found}. The weights are still those of the step before. Try a lower learning_rate, a longer "
                "warmup_steps or a higher precision; --model.non_finite skip leaves such steps out"
            )
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            raise TrainingError(
                f"{found}. That is {self._in_a_row} steps in a row left out, so the run goes nowhere; the weights are "
                "those from before. Try a lower learning_rate, a longer warmup_steps or a higher precision"
            )
        if module.trainer.is_global_zero:
            log.warning("%s. Left out; so far %d", found, self.skipped)
        optimizer.zero_grad(set_to_none=True)  # without a gradient, an optimizer leaves weight and state alone
        return None

    # What a checkpoint needs to know.

    def state(self) -> list[int]:
        """How many steps were left out, and how many of them were the last ones."""
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


def _worst_of_all(module: LanguageModel, level: int) -> tuple[int, int]:
    """The worst level of all processes (0 good, 1 a gradient, 2 a loss), and the number of a process that met it."""
    world_size, rank = module.trainer.world_size, module.global_rank
    if world_size == 1:
        return level, rank
    mine = torch.tensor(level * world_size + rank, device=module.device)
    return divmod(int(module.trainer.strategy.reduce(mine, reduce_op="max")), world_size)


def _folder(module: LanguageModel) -> Path | None:
    trainer = module.trainer
    folder = trainer.log_dir
    return None if folder is None or trainer.fast_dev_run else Path(folder, FOLDER)  # type: ignore[attr-defined]


def _describe(module: LanguageModel, level: int, size: float, losses: list[float], bad: Sequence[Micro]) -> str:
    """What is infinite or NaN, and in which batches."""
    wrong = next((loss for loss in losses if not math.isfinite(loss)), size)
    what = f"the loss is {wrong}" if level == 2 else f"the gradient norm is {size}"
    return f"{what}, in {', '.join(_name(module, micro) for micro in bad[:_SHOWN])}"


def _name(module: LanguageModel, micro: Micro) -> str:
    epoch, batch = _place(module, micro)
    rank = f", process {module.global_rank}" if module.trainer.world_size > 1 else ""
    starts = _starts(module, micro)
    windows = ""
    if starts:
        more = ", ..." if len(starts) > _SHOWN else ""
        windows = f" (windows that begin at token {', '.join(f'{start:,}' for start in starts[:_SHOWN])}{more})"
    return f"batch {batch} of epoch {epoch}{rank}{windows}"


def _place(module: LanguageModel, micro: Micro) -> tuple[int, int]:
    """The epoch of a batch, and its number in it."""
    batches = module.trainer.num_training_batches
    return divmod(micro.position, int(batches)) if math.isfinite(batches) else (0, micro.position)


def _starts(module: LanguageModel, micro: Micro) -> list[int]:
    """Where in the training tokens the windows of a batch begin; nothing, if it came from a loader of somebody else."""
    loader = module.trainer.train_dataloader
    return loader.starts_of(*_place(module, micro)) if isinstance(loader, BatchLoader) else []


def _keep(
    module: LanguageModel, optimizer: torch.optim.Optimizer, folder: Path, size: float, bad: Sequence[Micro]
) -> str:
    """Write down the batches; says where, or why not."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    gradients = {
        names.get(id(parameter), "?"): int((~parameter.grad.isfinite()).sum())
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    }
    content = {
        "step": module.global_step,
        "process": module.global_rank,
        "gradient_norm": str(size),
        "gradients_that_are_no_numbers": {name: count for name, count in gradients.items() if count},
        "batches": [_content(module, micro) for micro in bad],
    }
    file = folder / f"step-{module.global_step}-process-{module.global_rank}.json"
    try:
        write_whole(file, json.dumps(content, indent=1).encode())
    except OSError as error:
        return f"; its text could not be written to {str(file)!r} ({error.strerror})"
    return f"; its token ids and text are in {str(file)!r}"


def _content(module: LanguageModel, micro: Micro) -> dict[str, Any]:
    epoch, batch = _place(module, micro)
    inputs, targets, _ = micro.batch
    ids = torch.cat([inputs, targets[:, -1:]], dim=1).tolist()  # (B, T), (B, 1) -> (B, T + 1)
    starts: list[int] | list[None] = _starts(module, micro) or [None] * len(ids)
    windows = [
        {"begins_at_token": start, "text": _text(module, row), "ids": row}
        for start, row in zip(starts, ids, strict=True)
    ]
    return {"epoch": epoch, "batch": batch, "loss": str(float(micro.loss)), "windows": windows}


def _text(module: LanguageModel, ids: list[int]) -> str | None:
    try:
        return None if module.tokenizer is None else module.tokenizer.decode(ids)
    except LLMError:  # ids outside the vocabulary are to be looked at too
        return None
