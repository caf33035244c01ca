"""The loss from hidden states in one pass, without ever holding all logits in float32.

A batch of N tokens has N x V logits: at N = 1,024 and GPT-2's vocabulary 206 MB in float32, and the plain way holds
them several times over, as logits, their log-softmax and the gradients of both. `FusedHeadLoss` takes the tokens
a block at a time. A block's logits are held once, in the precision of the products; a few rows at a time they are
cast to float32, normalized, and overwritten by their gradient (`cross_entropy_with_grad_`), from which the gradients
of hidden states and weights follow at once. The backward pass only returns them. The result is that of `plain_loss`,
softmax in float32 included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model.functions import soft_cap

BLOCK_BYTES = {"cpu": 1 << 26}
BLOCK_BYTES_ELSEWHERE = 1 << 29
"""Memory for the logits of one block in bytes, by kind of device. Larger products are faster on a GPU."""

COLUMNS = 4096
"""Rows of the head's weight whose gradient a CPU computes at once."""

_ALIGNMENT = 64
"""A GPU's fast kernels need rows of a multiple of this many logits; rows of 50,257 take up to four times as long."""

FLOAT16_SCALE = 2.0**-4
"""Of the logits' gradients in float16: sums over a block's tokens stay below 65,504, probabilities above 6e-8."""

CrossEntropyWithGrad = Callable[[Tensor, Tensor, float | None, int | None, float], Tensor]
"""`cross_entropy_with_grad_` of `llm.training.loss`, or the same compiled."""


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
        softcap: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Loss and correct predictions of the targets; saves the gradients.

        Args:
            hidden_states: (N, C).
            weight: (padded V, C).
            bias: (padded V), or None.
            softcap: bound of the logits (`logit_softcap`), or None.
        """
        device, N = hidden_states.device.type, len(hidden_states)
        wants_states, wants_weight, wants_bias = (needed and with_gradients for needed in ctx.needs_input_grad[:3])
        wants_any = wants_states or wants_weight or wants_bias
        ctx.dtypes = hidden_states.dtype, weight.dtype, None if bias is None else bias.dtype
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
        states, rows_of_weight = hidden_states.to(precision), _aligned(weight, vocab_size, precision)
        each_bias = None if bias is None else _aligned(bias, vocab_size, precision)
        block = rows_of_a_block(states, len(rows_of_weight))
        # Float16 has few exponents: neither a small scale nor a sum over thousands of tokens may go through it.
        ctx.later = scale / FLOAT16_SCALE if precision == torch.float16 else 1.0
        at_once = (FLOAT16_SCALE if precision == torch.float16 else scale) if wants_any else None
        losses, n_correct = states.new_empty(N, dtype=torch.float32), targets.new_zeros(())
        grad_states = torch.empty_like(states) if wants_states else None
        # A sum over several blocks needs more precision than a 16-bit type has.
        summed = weight.dtype if block >= N else torch.promote_types(weight.dtype, torch.float32)
        grad_weight = None
        if wants_weight:
            rows = max(len(weight), len(rows_of_weight))
            grad_weight = torch.empty(rows, weight.shape[1], dtype=summed, device=weight.device)
            grad_weight[vocab_size if N else 0 :] = 0
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        with torch.autocast(device, enabled=False):
            for first in range(0, N, block):
                some, wanted = states[first : first + block], targets[first : first + block]  # (R, C), (R)
                logits = F.linear(some, rows_of_weight, each_bias)  # (R, C) -> (R, aligned V)
                slope = None
                if softcap is not None:
                    logits = soft_cap(logits, softcap)
                    slope = 1 - (logits / softcap) ** 2 if at_once is not None else None  # of the tanh
                if with_accuracy:
                    n_correct += (logits[:, :vocab_size].argmax(-1) == wanted).sum()
                losses[first : first + block] = cross_entropy(logits, wanted, at_once, vocab_size, smoothing)
                if slope is not None:
                    logits *= slope  # the gradients, of what was capped
                if grad_bias is not None:
                    grad_bias[:vocab_size] += logits[:, :vocab_size].sum(0, dtype=torch.float32)  # (R, V) -> (V)
                if grad_states is not None:
                    torch.mm(logits, rows_of_weight, out=grad_states[first : first + block])  # (R, V) x (V, C)
                if grad_weight is not None and device == "cuda" and summed != logits.dtype:
                    target = grad_weight[: logits.shape[1]]  # the sum in the product's own precision, float32
                    torch.addmm(target, logits.T, some, out_dtype=summed, beta=float(first > 0), out=target)
                elif grad_weight is not None:
                    columns = COLUMNS if device == "cpu" else logits.shape[1]
                    for start in range(0, vocab_size, columns):
                        target = grad_weight[start : min(vocab_size, start + columns)]
                        part = (logits[:, start : start + columns].T @ some)[: len(target)]  # (V', R) x (R, C)
                        target.copy_(part) if first == 0 else target.add_(part)
        if grad_weight is not None and len(grad_weight) > len(weight):  # a view, to which autograd can't add in place
            grad_weight = grad_weight[: len(weight)]
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
        return *found, None, None, None, None, None, None, None, None


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


def rows_of_a_block(states: Tensor, vocab_size: int) -> int:
    """How many tokens' logits are held at once: as few blocks as fit, all of about the same size."""
    most = max(1, block_bytes(states.device.type) // (vocab_size * states.element_size()))
    return math.ceil(len(states) / math.ceil(len(states) / most)) if len(states) else 1
