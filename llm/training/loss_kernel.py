"""Losses and gradients of logits in one kernel on a GPU, a row to each of its blocks of threads.

A compiler needs two kernels for what `cross_entropy_with_grad_` does, each of which reads all logits from memory. Here
the second pass over a row comes soon enough after the first for the row to be in the cache still.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llm.data.batch import IGNORED

COLUMNS = 4096
"""Logits that a block of threads has at once. See bench/README.md."""

WARPS = 8


def cross_entropy_with_grad_in_a_kernel_(
    logits: Tensor, targets: Tensor, scale: float | None, vocab_size: int | None = None, smoothing: float = 0.0
) -> Tensor:
    """As `llm.training.loss.cross_entropy_with_grad_`, for logits `(R, V)` whose rows lie one after another."""
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    if len(logits):
        _cross_entropy[(len(logits),)](
            logits,
            targets,
            losses,
            logits.stride(0),
            logits.shape[1],
            logits.shape[1] if vocab_size is None else vocab_size,
            1.0 if scale is None else scale,
            smoothing,
            ignored=IGNORED,
            with_gradients=scale is not None,
            smooths=smoothing > 0,
            columns=min(COLUMNS, triton.next_power_of_2(logits.shape[1])),
            num_warps=WARPS,
        )
    return losses


@triton.jit
def _cross_entropy(  # type: ignore[no-untyped-def]
    logits,
    targets,
    losses,
    stride,
    width,
    vocab_size,
    scale,
    smoothing,
    ignored: tl.constexpr,
    with_gradients: tl.constexpr,
    smooths: tl.constexpr,
    columns: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    if target == ignored:
        tl.store(losses + row, 0.0)
        if with_gradients:
            for start in range(0, width, columns):
                places = start + tl.arange(0, columns)
                tl.store(logits + places, tl.zeros([columns], logits.dtype.element_ty), mask=places < width)
    else:
        aim = tl.load(logits + target).to(tl.float32)  # before the first sum, after which all threads go on together
        highest, total, summed = float("-inf"), 0.0, 0.0
        for start in range(0, vocab_size, columns):
            places = start + tl.arange(0, columns)
            is_token = places < vocab_size
            values = tl.load(logits + places, mask=is_token, other=float("-inf")).to(tl.float32)
            new = tl.maximum(highest, tl.max(values, 0))
            total = total * tl.exp(highest - new) + tl.sum(tl.exp(values - new), 0)
            highest = new
            if smooths:
                summed += tl.sum(tl.where(is_token, values, 0.0), 0)
        log_total = highest + tl.log(total)
        loss = log_total - aim
        if smooths:
            loss = (1 - smoothing) * loss + smoothing * (log_total - summed / vocab_size)
        tl.store(losses + row, loss)
        if with_gradients:
            for start in range(0, width, columns):
                places = start + tl.arange(0, columns)
                is_token = places < vocab_size
                values = tl.load(logits + places, mask=is_token, other=float("-inf")).to(tl.float32)
                aims = tl.where(places == target, 1.0, 0.0)
                if smooths:
                    aims = (1 - smoothing) * aims + tl.where(is_token, smoothing / vocab_size, 0.0)
                slopes = (tl.exp(values - log_total) - aims) * scale
                tl.store(logits + places, slopes.to(logits.dtype.element_ty), mask=places < width)
