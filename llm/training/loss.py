"""Cross-entropy of hidden states against targets: all logits at once, or a block of tokens at a time.

A loss is a sum over supervised tokens, those whose target is not `IGNORED`: sums of micro-batches, and of processes,
can be added and divided once; means can't.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.data.batch import IGNORED
from llm.model import Head
from llm.runtime.compiling import Compiled
from llm.training.fused_loss import CrossEntropyWithGrad, FusedHeadLoss, rows_of_a_block

LARGE_VOCABULARY = 4096
"""From this vocabulary size on, blocks pay off; below it, all logits at once are small. See bench/README.md."""

ROWS_PER_THREAD = 8
"""Rows per thread that a CPU casts to float32 at once: few enough to stay in its cache."""

FLOAT32_BYTES_ELSEWHERE = 1 << 28
"""Memory in bytes for the rows that other devices cast to float32 at once; small pieces would be slower there."""


KERNEL_PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


class Prediction(NamedTuple):
    """How well tokens were predicted.

    Args:
        loss: cross-entropy in nats, summed over the supervised tokens and times the `scale` that was asked for.
        n_tokens: how many supervised tokens there are.
        n_correct: how many of the targets had the highest logit; None if not asked for.
    """

    loss: Tensor
    n_tokens: Tensor
    n_correct: Tensor | None

    @property
    def mean(self) -> Tensor:
        """The mean loss of a supervised token if the scale is 1; 0 if nothing is supervised."""
        return self.loss / self.n_tokens.clamp(min=1)

    @property
    def accuracy(self) -> Tensor | None:
        """Token accuracy: the fraction of targets with the highest logit."""
        return None if self.n_correct is None else self.n_correct / self.n_tokens.clamp(min=1)


def cross_entropy_with_grad_(
    logits: Tensor, targets: Tensor, scale: float | None, vocab_size: int | None = None, smoothing: float = 0.0
) -> Tensor:
    """The cross-entropies of logits against targets; the logits become the gradient, softmax minus one-hot.

    Args:
        logits: (R, V), or wider; what is beyond V does not count, and its gradient is 0.
        targets: (R).
        scale: of whose product with the sum of the losses the gradient is. None: the logits stay as they are.
        vocab_size: V; the width of the logits unless given.
        smoothing: see `head_loss`.

    Returns:
        The losses (R), in nats and float32.
    """
    if has_kernel(logits.device) and logits.dtype in KERNEL_PRECISIONS:
        return _kernel()(logits, targets, scale, vocab_size, smoothing)
    return _with_grad_(logits, targets, scale, vocab_size, smoothing)


def has_kernel(device: torch.device) -> bool:
    """Whether `cross_entropy_with_grad_` is one kernel on this device, as fast as a compiler could make it."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def compiled_cross_entropy(device: torch.device) -> CrossEntropyWithGrad:
    """`cross_entropy_with_grad_`, compiled where there is no kernel for it."""
    if has_kernel(device):
        return cross_entropy_with_grad_
    return Compiled(compilable_cross_entropy_with_grad_, cross_entropy_with_grad_)


@functools.cache
def _kernel() -> CrossEntropyWithGrad:
    """Written in Triton, which comes with torch's builds for GPUs alone."""
    from llm.training.loss_kernel import cross_entropy_with_grad_in_a_kernel_ as kernel

    message = "loss:        the kernel for GPUs failed, continuing without it"
    return Compiled(kernel, _with_grad_, compiler=lambda function: function, message=message)


def _with_grad_(
    logits: Tensor, targets: Tensor, scale: float | None, vocab_size: int | None, smoothing: float
) -> Tensor:
    logits, beyond = logits[:, :vocab_size], logits[:, logits.shape[1] if vocab_size is None else vocab_size :]
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    at_once = _rows_at_once(logits)
    for start in range(0, len(logits), at_once):
        some, wanted = logits[start : start + at_once], targets[start : start + at_once, None]
        supervised, wanted = wanted != IGNORED, wanted.clamp(min=0)
        logs = torch.log_softmax(some, -1, dtype=torch.float32)
        found = -logs.gather(1, wanted)
        if smoothing:
            found = (1 - smoothing) * found - smoothing * logs.mean(1, keepdim=True)
        losses[start : start + at_once] = torch.where(supervised, found, 0.0)[:, 0]
        if scale is not None:
            logs.exp_().scatter_add_(1, wanted, logs.new_full(wanted.shape, smoothing - 1.0))
            if smoothing:
                logs.sub_(smoothing / logs.shape[1])
            some.copy_(logs.mul_(supervised * scale))
    if scale is not None:
        beyond.zero_()
    return losses


def compilable_cross_entropy_with_grad_(
    logits: Tensor, targets: Tensor, scale: float | None, vocab_size: int | None = None, smoothing: float = 0.0
) -> Tensor:
    """As `cross_entropy_with_grad_`, all rows at once and without a scatter: a compiler fuses it into two passes.

    It takes whole rows, and masks what is beyond the vocabulary: a part of each row would not be aligned.
    """
    supervised, wanted = targets[:, None] != IGNORED, targets[:, None].clamp(min=0)
    columns, values = torch.arange(logits.shape[1], device=logits.device), logits.float()
    if vocab_size is not None and vocab_size < logits.shape[1]:
        values = values.masked_fill(columns >= vocab_size, -math.inf)
    logs = torch.log_softmax(values, -1)
    losses, aims = -logs.gather(1, wanted), (columns == wanted).float()
    if smoothing:
        V = logits.shape[1] if vocab_size is None else vocab_size
        is_token = columns < V
        losses = (1 - smoothing) * losses - smoothing / V * logs.where(is_token, 0.0).sum(1, keepdim=True)
        aims = (1 - smoothing) * aims + smoothing / V * is_token
    losses = torch.where(supervised, losses, 0.0)[:, 0]
    if scale is not None:
        logits.copy_((logs.exp() - aims) * (supervised * scale))
    return losses


def head_loss(
    head: Head,
    hidden_states: Tensor,
    targets: Tensor,
    with_accuracy: bool = False,
    scale: float = 1.0,
    cross_entropy: CrossEntropyWithGrad = cross_entropy_with_grad_,
    transform: Callable[[Tensor], Tensor] | None = None,
    smoothing: float = 0.0,
) -> Prediction:
    """The loss, computed in the way that is faster for this vocabulary size.

    Args:
        head: from hidden states to logits.
        hidden_states: (B, T, C) what the head reads, or what `transform` reads.
        targets: (B, T) the target tokens, `IGNORED` where nothing is supervised.
        with_accuracy: also count the correct predictions.
        scale: what the sum is multiplied by.
        cross_entropy: what turns the logits of a large vocabulary into losses and gradients.
        transform: layers before the head, which only supervised tokens need: `(N, C)` -> `(N, C)`.
        smoothing: how much of each target's probability all tokens share alike, from 0 to 1 (label smoothing, Szegedy
            et al. 2015, section 7). The loss is a sum over supervised tokens, as without.
    """
    hidden_states, targets = hidden_states.flatten(0, -2), targets.flatten()  # (B, T, C) -> (N, C), (B, T) -> (N)
    n_tokens = (targets != IGNORED).sum()
    if targets.device.type == "cpu" and n_tokens < len(targets):  # elsewhere, selecting rows would synchronize
        supervised = targets != IGNORED
        hidden_states, targets = hidden_states[supervised], targets[supervised]
    if transform is not None:
        hidden_states = transform(hidden_states)  # (N, C) -> (N, C)
    if head.out_features >= LARGE_VOCABULARY:
        loss, n_correct = fused_loss(head, hidden_states, targets, with_accuracy, scale, cross_entropy, smoothing)
    else:
        loss, n_correct = plain_loss(head, hidden_states, targets, with_accuracy, scale, smoothing)
    return Prediction(loss, n_tokens, n_correct)


def plain_loss(
    head: Head,
    hidden_states: Tensor,
    targets: Tensor,
    with_accuracy: bool = False,
    scale: float = 1.0,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """The scaled sum of the losses, and the number of correct predictions, from all logits at once.

    Args:
        head: see `head_loss`.
        hidden_states: (N, C).
        targets: (N).
        with_accuracy: see `head_loss`.
        scale: see `head_loss`.
        smoothing: see `head_loss`.
    """
    logits = head(hidden_states)  # (N, C) -> (N, V)
    options: dict[str, Any] = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": smoothing}
    loss = F.cross_entropy(logits.float(), targets, **options) * scale
    return loss, (logits.detach().argmax(-1) == targets).sum() if with_accuracy else None


def fused_loss(
    head: Head,
    hidden_states: Tensor,
    targets: Tensor,
    with_accuracy: bool = False,
    scale: float = 1.0,
    cross_entropy: CrossEntropyWithGrad = cross_entropy_with_grad_,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """As `plain_loss`, a block at a time; gradients can be taken once, not twice (no second derivative)."""
    with_gradients = torch.is_grad_enabled()
    options = head.out_features, with_accuracy, with_gradients, scale, cross_entropy, smoothing, head.softcap
    loss, n_correct = FusedHeadLoss.apply(hidden_states, head.table, head.bias, targets, *options)
    return loss, n_correct if with_accuracy else None


@torch.no_grad()
def token_losses(head: Head, hidden_states: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each token, in nats and float32.

    Args:
        head: from hidden states to logits.
        hidden_states: (N, C).
        targets: (N).
    """
    block = rows_of_a_block(hidden_states, head.out_features)
    parts = zip(hidden_states.split(block), targets.split(block), strict=True)
    return torch.cat([cross_entropy_with_grad_(head(states), wanted, None) for states, wanted in parts])


def _rows_at_once(logits: Tensor) -> int:
    """How many rows are cast to float32 at once."""
    if logits.device.type == "cpu":
        return ROWS_PER_THREAD * torch.get_num_threads()
    return max(1, FLOAT32_BYTES_ELSEWHERE // (4 * logits.shape[1]))
