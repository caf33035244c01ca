"""Checks of what a run needs of the machine: memory, disk, a folder, and the arithmetic of the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm.preflight.plan import Plan, existing
from llm.preflight.sizes import in_bytes
from llm.runs.newest import BEST, CHECKPOINTS, LAST, PREVIOUS
from llm.runtime.hardware import has_native_bfloat16


def too_little_memory(plan: Plan) -> Iterator[str]:
    """Weights, gradients and optimizer alone do not fit, whatever the batch."""
    if plan.memory is None or plan.free_memory is None or _is_sharded(plan):
        return
    if (needed := plan.memory.state * _on_this_memory(plan)) > plan.free_memory:
        yield (
            f"not enough memory: weights, gradients and optimizer take {in_bytes(needed)}, and {plan.device} has "
            f"{in_bytes(plan.free_memory)} free; use a smaller n_layer or n_embd"
        )


def memory_may_not_suffice(plan: Plan) -> Iterator[str]:
    """The estimated peak of memory is more than is free."""
    if plan.memory is None or plan.free_memory is None or _is_sharded(plan):
        return
    processes = _on_this_memory(plan)
    if plan.memory.state * processes <= plan.free_memory < plan.memory.to_come * processes:
        yield (
            f"memory may not suffice: about {in_bytes(plan.memory.to_come * processes)} of {in_bytes(plan.free_memory)}"
            "; a smaller batch_size needs less (with trainer.accumulate_grad_batches for the same step)"
        )


def _is_sharded(plan: Plan) -> bool:
    """Whether the processes shard one model, so that each holds a part."""
    strategy = str(plan.setting("trainer.strategy") or "auto")
    return not (strategy == "auto" or strategy.startswith(("ddp", "single")))


def _on_this_memory(plan: Plan) -> int:
    """How many processes take from the same memory: on a processor all of this machine."""
    nodes = plan.setting("trainer.num_nodes") or 1
    return max(1, plan.world_size // nodes) if plan.device == "cpu" else 1


def too_little_disk(plan: Plan) -> Iterator[str]:
    """The checkpoints do not fit: best, last, the one before it, and the one that is being written."""
    size, best = plan.checkpoint_bytes, plan.weights_bytes
    if size is None or best is None or plan.free_disk is None or plan.setting("trainer.enable_checkpointing") is False:
        return
    folder = (plan.folder or Path()) / CHECKPOINTS
    of_each = {BEST: best, LAST: size, PREVIOUS: size}
    needed = size + sum(of_it for name, of_it in of_each.items() if not (folder / name).is_file())
    if needed > plan.free_disk:
        yield (
            f"not enough disk: {BEST}, {LAST}, {PREVIOUS} and the one that is being written, as far as they are not "
            f"there, take {in_bytes(needed)}, and {in_bytes(plan.free_disk)} are free where the run will be; "
            "free some, or set checkpoint.folder"
        )


def folder_that_can_not_be_written(plan: Plan) -> Iterator[str]:
    """A run folder that can't be written to."""
    if plan.folder is not None and not plan.folder_is_writable:
        folder = str(existing(plan.folder))
        yield (
            f"the run folder can't be made: {folder!r} is not writable; choose another with "
            "--trainer.default_root_dir FOLDER"
        )


def precision(plan: Plan) -> Iterator[str]:
    """A precision that the device emulates or does not have."""
    asked = str(plan.setting("trainer.precision") or "")
    if plan.device == "cpu" and asked in ("16-mixed", "16"):
        yield f"trainer.precision {asked}: processors have no float16; bf16-mixed is taken"
    elif plan.device in ("cpu", "cuda") and asked.startswith("bf16") and not has_native_bfloat16(plan.device):
        yield f"trainer.precision {asked}: this device does not multiply bfloat16 natively, so it will be slow"
