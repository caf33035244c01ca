"""The loss of the last vectors against the tokens that came, without ever holding all scores in float32.

A batch of N tokens has N x V scores: at N = 1,024 and GPT-2's vocabulary 206 MB in float32, and the plain way holds
them several times over, as scores, their log-softmax and the gradients of both. `HeadLoss` goes through the tokens a
block at a time. A block's scores are held once, in the precision of the products; a few rows at a time they are
brought to float32, normalised, and overwritten by their gradient (`to_gradient`), from which the gradients of vectors
and weights follow at once. The backward pass only hands those on. The result is that of `plain_loss`, softmax in
float32 included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model import Head

LARGE_VOCABULARY = 4096
"""From this many tokens on blocks pay; below, all scores at once are small. See bench/README.md."""

_BLOCK_BYTES = {"cpu": 1 << 26}
_BLOCK_BYTES_ELSEWHERE = 1 << 29
"""What the scores of one block may take, by kind of device. A GPU wants larger products, and has the memory."""

_ROWS = 8
"""Rows for each thread that a processor brings to float32 at once: few enough to stay in its cache."""

FLOAT32_BYTES_ELSEWHERE = 1 << 28
"""What the rows may take that are brought to float32 at once on other devices, which have no use for small pieces."""

_COLUMNS = 4096
"""Rows of the head's weight whose gradient is computed at once."""


class Prediction(NamedTuple):
    """How well tokens were predicted.

    Args:
        loss: mean cross-entropy in nats.
        accuracy: share of tokens that got the highest score; None where nobody asked.
    """

    loss: Tensor
    accuracy: Tensor | None


def to_gradient(scores: Tensor, targets: Tensor, share: float | None) -> Tensor:
    """The losses `(R)` of scores `(R, V)` against targets `(R)`; the scores become the gradient of `share` times their
    sum, softmax minus one-hot, or stay as they are where there is no share.
    """
    losses = scores.new_empty(len(scores), dtype=torch.float32)
    at_once = _rows_at_once(scores)
    for start in range(0, len(scores), at_once):
        some, wanted = scores[start : start + at_once], targets[start : start + at_once, None]
        logs = torch.log_softmax(some, -1, dtype=torch.float32)
        losses[start : start + at_once] = -logs.gather(1, wanted)[:, 0]
        if share is not None:
            logs.exp_().scatter_add_(1, wanted, logs.new_full(wanted.shape, -1.0))
            some.copy_(logs.mul_(share))
    return losses


def to_gradient_in_one(scores: Tensor, targets: Tensor, share: float | None) -> Tensor:
    """As `to_gradient`, all rows at once and without a scatter: for a compiler, which makes two passes of it."""
    logs = torch.log_softmax(scores.float(), -1)
    losses = -logs.gather(1, targets[:, None])[:, 0]
    if share is not None:
        is_target = torch.arange(scores.shape[1], device=scores.device) == targets[:, None]
        scores.copy_((logs.exp() - is_target.float()) * share)
    return losses


ToGradient = Callable[[Tensor, Tensor, float | None], Tensor]


def head_loss(
    head: Head, x: Tensor, targets: Tensor, with_accuracy: bool = False, to_gradient: ToGradient = to_gradient
) -> Prediction:
    """The loss, the quicker way for the size of the vocabulary.

    Args:
        head: from vectors to scores.
        x: (B, T, C) what the head reads.
        targets: (B, T) the tokens that really came.
        with_accuracy: count the tokens that were predicted, too.
        to_gradient: what turns the scores of a large vocabulary into losses and gradients.
    """
    if head.out_features >= LARGE_VOCABULARY:
        return fused_loss(head, x, targets, with_accuracy, to_gradient)
    return plain_loss(head, x, targets, with_accuracy)


def plain_loss(head: Head, x: Tensor, targets: Tensor, with_accuracy: bool = False) -> Prediction:
    """As `head_loss`, from all scores at once."""
    scores = head(x).flatten(0, 1)  # (B, T, V) -> (B T, V)
    loss = F.cross_entropy(scores.float(), targets.flatten())
    accuracy = (scores.detach().argmax(-1) == targets.flatten()).float().mean() if with_accuracy else None
    return Prediction(loss, accuracy)


def fused_loss(
    head: Head, x: Tensor, targets: Tensor, with_accuracy: bool = False, to_gradient: ToGradient = to_gradient
) -> Prediction:
    """As `head_loss`, a block at a time; gradients can be taken once, not twice (no second derivative)."""
    options = head.out_features, with_accuracy, torch.is_grad_enabled(), to_gradient
    loss, accuracy = HeadLoss.apply(x.flatten(0, 1), head.weight, targets.flatten(), *options)
    return Prediction(loss, accuracy if with_accuracy else None)


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of `x @ weight.T` and its gradients in one pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        n_tokens: int,
        with_accuracy: bool,
        with_gradients: bool,
        to_gradient: ToGradient,
    ) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of `x (N, C)` and `weight (padded V, C)` against `targets (N)`; the gradients are kept."""
        device, N = x.device.type, len(x)
        wants_x, wants_weight = (needed and with_gradients for needed in ctx.needs_input_grad[:2])
        ctx.dtypes = x.dtype, weight.dtype
        if torch.is_autocast_enabled(device):
            precision = torch.get_autocast_dtype(device)
            x, scorers = x.to(precision), weight[:n_tokens].to(precision)
        else:
            scorers = weight[:n_tokens]
        block = _rows_of_a_block(x, n_tokens)
        # A share of 1 / N may be too small for float16, whose scores' gradients are divided afterwards.
        ctx.later = N if scorers.dtype == torch.float16 else 1
        share = ctx.later / N if wants_x or wants_weight else None
        losses, hits = x.new_empty(N, dtype=torch.float32), x.new_zeros((), dtype=torch.float32)
        grad_x = torch.empty_like(x) if wants_x else None
        # A sum over several blocks wants more digits than a short type has.
        summed = weight.dtype if block >= N else torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.empty_like(weight, dtype=summed) if wants_weight else None
        if grad_weight is not None:
            grad_weight[n_tokens:] = 0
        with torch.autocast(device, enabled=False):
            for first in range(0, N, block):
                rows, wanted = x[first : first + block], targets[first : first + block]  # (R, C), (R)
                scores = F.linear(rows, scorers)  # (R, C) -> (R, V)
                if with_accuracy:
                    hits += (scores.argmax(-1) == wanted).sum()
                losses[first : first + block] = to_gradient(scores, wanted, share)
                if grad_x is not None:
                    torch.mm(scores, scorers, out=grad_x[first : first + block])  # (R, V) x (V, C)
                if grad_weight is not None:
                    for start in range(0, n_tokens, _COLUMNS):
                        columns = scores[:, start : start + _COLUMNS]
                        part, target = columns.T @ rows, grad_weight[start : min(n_tokens, start + _COLUMNS)]
                        target.copy_(part) if first == 0 else target.add_(part)  # (V', R) x (R, C)
        ctx.gradients = grad_x, grad_weight
        accuracy = hits / N
        ctx.mark_non_differentiable(accuracy)
        return losses.mean(), accuracy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradients on.

        Raises:
            RuntimeError: they were handed on before.
        """
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of a fused loss can be taken once only")
        grad = grad / ctx.later
        is_one = grad.device.type == "cpu" and float(grad) == 1.0  # elsewhere, to find out would mean to wait
        # The type comes first: a scale against underflow is too large for float16.
        found = [None if part is None else part.to(dtype) for part, dtype in zip(gradients, ctx.dtypes, strict=True)]
        if not is_one:
            found = [None if part is None else part.mul_(grad) for part in found]
        return *found, None, None, None, None, None


def block_bytes(device: str) -> int:
    """What the scores of one block may take on this kind of device."""
    return _BLOCK_BYTES.get(device, _BLOCK_BYTES_ELSEWHERE)


def _rows_of_a_block(x: Tensor, n_tokens: int) -> int:
    """How many tokens' scores are held at once: as few blocks as fit, all of much the same size."""
    most = max(1, block_bytes(x.device.type) // (n_tokens * x.element_size()))
    return math.ceil(len(x) / math.ceil(len(x) / most)) if len(x) else 1


def _rows_at_once(scores: Tensor) -> int:
    """How many rows are brought to float32 at once."""
    if scores.device.type == "cpu":
        return _ROWS * torch.get_num_threads()
    return max(1, FLOAT32_BYTES_ELSEWHERE // (4 * scores.shape[1]))
