"""Cross-entropy of hidden states against targets, without ever holding all logits in float32.

A batch of N tokens has N x V logits: at N = 1,024 and GPT-2's vocabulary 206 MB in float32, and the plain way holds
them several times over, as logits, their log-softmax and the gradients of both. `FusedHeadLoss` takes the tokens
a block at a time. A block's logits are held once, in the precision of the products; a few rows at a time they are
cast to float32, normalized, and overwritten by their gradient (`cross_entropy_with_grad_`), from which the gradients
of hidden states and weights follow at once. The backward pass only returns them. The result is that of `plain_loss`,
softmax in float32 included.

A loss is a sum over supervised tokens, those whose target is not `IGNORED`: sums of micro-batches, and of processes,
can be added and divided once; means can't.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.data.batch import IGNORED
from llm.model import Head

LARGE_VOCABULARY = 4096
"""From this vocabulary size on, blocks pay off; below it, all logits at once are small. See bench/README.md."""

BLOCK_BYTES = {"cpu": 1 << 26}
BLOCK_BYTES_ELSEWHERE = 1 << 29
"""Memory for the logits of one block in bytes, by kind of device. Larger products are faster on a GPU."""

ROWS_PER_THREAD = 8
"""Rows per thread that a CPU casts to float32 at once: few enough to stay in its cache."""

FLOAT32_BYTES_ELSEWHERE = 1 << 28
"""Memory in bytes for the rows that other devices cast to float32 at once; small pieces would be slower there."""

COLUMNS = 4096
"""Rows of the head's weight whose gradient a CPU computes at once."""

_ALIGNMENT = 64
"""A GPU's fast kernels need rows of a multiple of this many logits; rows of 50,257 take up to four times as long."""

FLOAT16_SCALE = 2.0**-4
"""Of the logits' gradients in float16: sums over a block's tokens stay below 65,504, probabilities above 6e-8."""


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


CrossEntropyWithGrad = Callable[[Tensor, Tensor, float | None, int | None, float], Tensor]


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
    options = head.out_features, with_accuracy, torch.is_grad_enabled(), scale, cross_entropy, smoothing
    loss, n_correct = FusedHeadLoss.apply(hidden_states, head.weight, head.bias, targets, *options)
    return loss, n_correct if with_accuracy else None


@torch.no_grad()
def token_losses(head: Head, hidden_states: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each token, in nats and float32.

    Args:
        head: from hidden states to logits.
        hidden_states: (N, C).
        targets: (N).
    """
    block = _rows_of_a_block(hidden_states, head.out_features)
    parts = zip(hidden_states.split(block), targets.split(block), strict=True)
    return torch.cat([cross_entropy_with_grad_(head(states), wanted, None) for states, wanted in parts])


class FusedHeadLoss(torch.autograd.Function):
    """Summed cross-entropy of `hidden_states @ weight.T + bias` and its gradients in one pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        vocab_size: int,
        with_accuracy: bool,
        with_gradients: bool,
        scale: float,
        cross_entropy: CrossEntropyWithGrad,
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        """Loss and correct predictions of the targets; saves the gradients.

        Args:
            hidden_states: (N, C).
            weight: (padded V, C).
            bias: (padded V), or None.
        """
        device, N = hidden_states.device.type, len(hidden_states)
        wants_states, wants_weight, wants_bias = (needed and with_gradients for needed in ctx.needs_input_grad[:3])
        wants_any = wants_states or wants_weight or wants_bias
        ctx.dtypes = hidden_states.dtype, weight.dtype, None if bias is None else bias.dtype
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
        states, rows_of_weight = hidden_states.to(precision), _aligned(weight, vocab_size, precision)
        each_bias = None if bias is None else _aligned(bias, vocab_size, precision)
        block = _rows_of_a_block(states, len(rows_of_weight))
        # Float16 has few exponents: neither a small scale nor a sum over thousands of tokens may go through it.
        ctx.later = scale / FLOAT16_SCALE if precision == torch.float16 else 1.0
        at_once = (FLOAT16_SCALE if precision == torch.float16 else scale) if wants_any else None
        losses, n_correct = states.new_empty(N, dtype=torch.float32), targets.new_zeros(())
        grad_states = torch.empty_like(states) if wants_states else None
        # A sum over several blocks needs more precision than a 16-bit type has.
        summed = weight.dtype if block >= N else torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.empty_like(weight, dtype=summed) if wants_weight else None
        if grad_weight is not None:
            grad_weight[vocab_size if N else 0 :] = 0
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        with torch.autocast(device, enabled=False):
            for first in range(0, N, block):
                some, wanted = states[first : first + block], targets[first : first + block]  # (R, C), (R)
                logits = F.linear(some, rows_of_weight, each_bias)  # (R, C) -> (R, aligned V)
                if with_accuracy:
                    n_correct += (logits[:, :vocab_size].argmax(-1) == wanted).sum()
                losses[first : first + block] = cross_entropy(logits, wanted, at_once, vocab_size, smoothing)
                if grad_bias is not None:
                    grad_bias[:vocab_size] += logits[:, :vocab_size].sum(0, dtype=torch.float32)  # (R, V) -> (V)
                if grad_states is not None:
                    torch.mm(logits, rows_of_weight, out=grad_states[first : first + block])  # (R, V) x (V, C)
                if grad_weight is not None:
                    columns = COLUMNS if device == "cpu" else logits.shape[1]
                    for start in range(0, vocab_size, columns):
                        target = grad_weight[start : min(vocab_size, start + columns)]
                        part = (logits[:, start : start + columns].T @ some)[: len(target)]  # (V', R) x (R, C)
                        target.copy_(part) if first == 0 else target.add_(part)
        ctx.gradients = grad_states, grad_weight, grad_bias
        ctx.mark_non_differentiable(n_correct)
        return losses.sum() * scale, n_correct

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients.

        Raises:
            RuntimeError: they were returned before.
        """
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of a fused loss can be taken once only")
        grad = grad * ctx.later
        is_one = grad.device.type == "cpu" and float(grad) == 1.0  # elsewhere, reading it would synchronize
        # Cast first: a scale against underflow is too large for float16.
        found = [None if part is None else part.to(dtype) for part, dtype in zip(gradients, ctx.dtypes, strict=True)]
        if not is_one:
            found = [None if part is None else part.mul_(grad) for part in found]
        return *found, None, None, None, None, None, None, None


def block_bytes(device: str) -> int:
    """Memory in bytes for the logits of one block on this kind of device."""
    return BLOCK_BYTES.get(device, BLOCK_BYTES_ELSEWHERE)


def _aligned(weight: Tensor, vocab_size: int, precision: torch.dtype) -> Tensor:
    """The rows of the head's weight or bias that logits are computed from: on a GPU padded to a round number."""
    wanted = vocab_size
    if weight.device.type != "cpu":
        wanted = math.ceil(vocab_size / _ALIGNMENT) * _ALIGNMENT
    if wanted <= len(weight):
        return weight[:wanted].to(precision)
    rows = weight.new_zeros(wanted, *weight.shape[1:], dtype=precision)
    rows[:vocab_size] = weight[:vocab_size]
    return rows


def _rows_of_a_block(states: Tensor, vocab_size: int) -> int:
    """How many tokens' logits are held at once: as few blocks as fit, all of about the same size."""
    most = max(1, block_bytes(states.device.type) // (vocab_size * states.element_size()))
    return math.ceil(len(states) / math.ceil(len(states) / most)) if len(states) else 1


def _rows_at_once(logits: Tensor) -> int:
    """How many rows are cast to float32 at once."""
    if logits.device.type == "cpu":
        return ROWS_PER_THREAD * torch.get_num_threads()
    return max(1, FLOAT32_BYTES_ELSEWHERE // (4 * logits.shape[1]))
