"""The decoding of one token, compiled.

Decoding a token reads every weight once, so the speed of memory is the limit, and a library's matrix product with one
row is far from it. On a CPU the fast step computes each linear layer as a multiply-and-sum over the rows of its weight,
which the compiler turns into one pass over memory, and fuses what is around it. Nothing else changes: it is `decode`
with the same blocks and the same weights. One block is compiled, and serves for all of them. On a GPU the whole step is
compiled, and replayed as a graph.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from llm.config import SamplingConfig
from llm.model import GPT, KeyValueCache, decode
from llm.model.cache import decode_block

log = logging.getLogger(__name__)

DecodeStep = Callable[[GPT, KeyValueCache, Tensor, Tensor], Tensor]

SLOTS = 256
"""The cache of a fast step has a multiple of this many slots, since each size is compiled anew."""

_WORTH_IT = 6e10
"""Weights read (steps times parameters) from which on compiling pays off: 500 tokens of GPT-2 124M. It takes 5 to 20
seconds, and a plain step about 0.15 nanoseconds longer for each weight."""


def is_worth_it(model: GPT, sampling: SamplingConfig) -> bool:
    """Whether to prepare a fast step for a generation."""
    if sampling.fast == "auto":
        return sampling.max_new_tokens * model.n_parameters >= _WORTH_IT
    return sampling.fast == "always"


def fast_step(model: GPT, n_rows: int) -> DecodeStep:
    """A form of `decode` that is compiled at its first call; if that fails, a log line says why and it is plain.

    Args:
        model: whose weights are used, as they are then.
        n_rows: B, texts side by side.
    """
    plain: DecodeStep = decode
    compiled = _graph_step() if model.head.weight.is_cuda else _row_step(model, n_rows)
    chosen: list[DecodeStep] = []

    def step(model: GPT, cache: KeyValueCache, ids: Tensor, positions: Tensor) -> Tensor:
        if chosen:
            return chosen[0](model, cache, ids, positions)
        try:
            logits = compiled(model, cache, ids, positions)
            chosen.append(compiled)
        except Exception as error:  # whatever hinders a compiler, the text can be had without it
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            log.warning("decoding is not compiled, and slower: %s", reason.strip())
            chosen.append(plain)
            logits = plain(model, cache, ids, positions)  # writes the same slots again
        return logits

    return step


def _row_step(model: GPT, n_rows: int) -> DecodeStep:
    fast = _with_row_linears(model) if n_rows <= _most_rows(model) else _sharing_copy(model)
    fast.head.forward = torch.compile(fast.head.forward, fullgraph=True, dynamic=False)  # type: ignore[method-assign]
    block_step = torch.compile(decode_block, fullgraph=True, dynamic=False)

    def step(model: GPT, cache: KeyValueCache, ids: Tensor, positions: Tensor) -> Tensor:
        del model  # the copy has its weights
        return decode(fast, cache, ids, positions, block_step)

    return step


def _graph_step() -> DecodeStep:
    return torch.compile(decode, fullgraph=True, dynamic=False, mode="reduce-overhead")


class RowLinear(nn.Module):
    """A linear layer for a few rows, with the weights of another: fast when compiled, slow when not.

    Args:
        linear: the layer whose weights are used.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` -> `(..., out)`; sums are in float32."""
        weight = self.weight.float()
        rows = [(weight * row).sum(dim=-1) for row in x.flatten(0, -2).float()]  # (out, in) x (in) -> (out)
        y = torch.stack(rows)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def _most_rows(model: GPT) -> int:
    """Up to how many rows a multiply-and-sum beats a matrix product."""
    return 8 if model.head.weight.dtype == torch.float32 else 4


def _sharing_copy(model: GPT) -> GPT:
    """The same modules anew, in eval mode, with the very same parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()}).eval()


def _with_row_linears(model: GPT) -> GPT:
    """A copy with the same parameters, each linear layer a `RowLinear`."""
    fast = _sharing_copy(model)
    for module in list(fast.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, RowLinear(child))
    return fast
