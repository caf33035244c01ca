"""The decoding of one token, compiled by torch.compile.

Decoding a token reads every weight once, so the speed of memory is the limit, and a library's matrix product with one
row is far from it. On a CPU the compiled step computes each linear layer as a multiply-and-sum over the rows of its
weight, which the compiler turns into one pass over memory, and attends in the same way, since torch's fused kernel is
made for many queries. Nothing else changes: it is `decode` with the same blocks and the same weights. One block is
compiled, and serves for all of them. On a GPU the whole step is compiled, and replayed as a graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from llm.config import SamplingConfig
from llm.model import GPT, KeyValueCache, decode
from llm.model.attention import Attention
from llm.model.cache import decode_block
from llm.model.functions import soft_cap
from llm.runtime.compiling import Compiled

DecodeStep = Callable[[GPT, KeyValueCache, Tensor, Tensor], Tensor]

SLOTS = 256
"""The cache of a compiled step has a multiple of this many slots, since each size is compiled anew."""

_WORTH_IT = 4e10
"""Weights read (steps times parameters) from which on compiling pays off: 320 tokens of GPT-2 124M. It takes 3 to 10
seconds, and a plain step about 0.15 nanoseconds longer for each weight."""


_MOST_ROWS = 12
"""Up to how many rows a multiply-and-sum beats a matrix product: at 16 it is as fast, and longer to compile."""


def is_worth_it(model: GPT, sampling: SamplingConfig) -> bool:
    """Whether compiling the decoding step pays off for a generation, or is asked for."""
    if sampling.compile == "auto":
        return sampling.max_new_tokens * model.n_parameters >= _WORTH_IT
    return sampling.compile == "always"


class CompiledStep(Compiled):
    """`decode`, compiled for each shape at its first call; where that fails, a log line says why, and it is `decode`.

    Args:
        model: whose weights are used, as they are at each call.
        n_rows: the most tokens that are read in one step: texts in the batch times tokens of each.
    """

    def __init__(self, model: GPT, n_rows: int) -> None:
        step = _graph_step() if model.head.weight.is_cuda else _row_step(model, n_rows)
        super().__init__(
            step,
            decode,
            compiler=lambda step: step,  # its parts are
            variant=lambda _model, _cache, ids, _positions: ids.shape,
            message="decoding is not compiled, and slower",
        )


def _row_step(model: GPT, n_rows: int) -> DecodeStep:
    twin = _for_few_rows(model) if n_rows <= _MOST_ROWS else _sharing_copy(model)
    twin.head.forward = torch.compile(twin.head.forward, fullgraph=True, dynamic=False)  # type: ignore[method-assign]
    block_step = torch.compile(decode_block, fullgraph=True, dynamic=False)

    def step(model: GPT, cache: KeyValueCache, ids: Tensor, positions: Tensor) -> Tensor:
        del model  # the copy has its weights
        return decode(twin, cache, ids, positions, block_step)

    return step


def _graph_step() -> DecodeStep:
    compiled = torch.compile(decode, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def step(model: GPT, cache: KeyValueCache, ids: Tensor, positions: Tensor) -> Tensor:
        for tensor in (*cache.keys, *cache.values):  # a graph may write to what stays where it is
            torch._dynamo.mark_static_address(tensor, guard=False)  # another cache: recorded anew, not compiled anew
        return compiled(model, cache, ids, positions)

    return step


class RowLinear(nn.Module):
    """A linear layer for a few rows, with the weights of another: fast when compiled, slow when not.

    Args:
        linear: the layer whose weights are used.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        has_padding = len(linear.weight) > linear.out_features  # rows of a head that no token has: left out
        self.weight = linear.weight.detach()[: linear.out_features] if has_padding else linear.weight
        self.bias = linear.bias
        self.softcap = getattr(linear, "softcap", None)  # of a head

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` -> `(..., out)`; sums are in float32."""
        weight = self.weight.float()
        rows = _written(x.flatten(0, -2).float())  # (..., in) -> (B, in)
        columns = [(weight * row).sum(dim=-1) for row in rows]  # (out, in) x (in) -> (out)
        y = torch.stack(columns)  # (B, out)
        if self.bias is not None:
            y = y + self.bias
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.softcap is None else soft_cap(y, self.softcap)


def row_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, scale: float) -> Tensor:
    """As `scaled_dot_product_attention`, for a few queries: fast when compiled, slow when not.

    Args:
        query: (B, H, T, D).
        key: (B, K, S, D), each for H / K query heads.
        value: (B, K, S, D).
        mask: True where a query may see a key, (B, 1, T, S).
        dropout: has no meaning here, where nothing is trained.
        scale: of the scores.
    """
    del dropout
    B, H, T, D = query.shape
    K, S = key.shape[1:3]
    query = _written(query.float().reshape(B, K, -1, 1, D) * scale)  # (B, H, T, D) -> (B, K, H / K T, 1, D)
    scores = (query * key.float().unsqueeze(2)).sum(dim=-1)  # (B, K, H / K T, S)
    scores = scores.view(B, H, T, S).masked_fill(~mask, torch.finfo(torch.float32).min)
    weights = _written(scores.softmax(dim=-1)).view(B, K, -1, S, 1)
    context = (weights * value.float().unsqueeze(2)).sum(dim=-2)  # (B, K, H / K T, D)
    return context.view(B, H, T, D).to(value.dtype)


def _written(x: Tensor) -> Tensor:
    """The tensor itself; the compiler writes it to memory.

    Else it computes what x comes from, such as a norm, anew for each of the sums that x goes into. To be viewed by its
    strides, x has to be in memory.
    """
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


def _sharing_copy(model: GPT) -> GPT:
    """The same modules anew, in eval mode, with the very same parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()}).eval()


def _for_few_rows(model: GPT) -> GPT:
    """A copy with the same parameters, each linear layer a `RowLinear`, attention by `row_attention`."""
    twin = _sharing_copy(model)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, RowLinear(child))
        if isinstance(module, Attention):
            module.fused = partial(row_attention, scale=module.scale)  # type: ignore[method-assign]
    return twin
