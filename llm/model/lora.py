"""Low-rank adapters (LoRA, Hu et al. 2021): beside a frozen weight W, a trained product B A of low rank."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import LoRAConfig
from llm.errors import ConfigError
from llm.model.token_rows import ROWS, EmbeddingWithRows, HeadWithRows, add_token_rows, with_token_rows

A, B = "lora_a", "lora_b"
"""The names of the matrices of an adapter."""


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank adapter: `x W^T + b + (alpha / r) x A^T B^T` (Hu et al. 2021, eq. 3).

    B starts at zero, so that at first the layer gives what it gave without. The layer's own parameters keep their
    names, `lora_a` (r, in) and `lora_b` (out, r) join them.

    Args:
        base: the layer, whose parameters are used, not copied.
        config: rank and alpha.
    """

    def __init__(self, base: nn.Linear, config: LoRAConfig) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = config.scale
        self.lora_a = nn.Parameter(base.weight.new_empty(config.rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, config.rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as the authors' code
        if config.base_precision == "bfloat16":
            self.weight = nn.Parameter(base.weight.detach().bfloat16(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` -> `(..., out)`."""
        if self.weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
            output = F.linear(x, self.weight, self.bias)
        else:
            output = _FrozenLinear.apply(x, self.weight, self.bias)
        return output + F.linear(F.linear(x, self.lora_a) * self.scale, self.lora_b)  # (..., in) -> (..., out)


class _FrozenLinear(torch.autograd.Function):
    """A linear layer whose frozen weight has fewer bits than its input: the cast copy does not outlive the product.

    Its bias, which has all its bits, may be trained.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, Tensor | None]:
        (weight,) = ctx.saved_tensors  # type: ignore[attr-defined]
        trains_bias = ctx.needs_input_grad[2]  # type: ignore[attr-defined]
        of_bias = grad.flatten(0, -2).sum(0) if trains_bias else None  # (..., out) -> (out)
        return grad @ weight.to(grad.dtype), None, of_bias  # (..., out) x (out, in)


def add_lora(network: nn.Module, config: LoRAConfig) -> None:
    """Give the linear layers that a configuration names an adapter each; rank 0 gives none.

    Raises:
        ConfigError: a name is of no linear layer; says which there are.
    """
    if config.rank == 0:
        return
    layers = {name: layer for name, layer in network.named_modules() if type(layer) is nn.Linear}
    chosen = {name: layer for word in config.modules for name, layer in _named(word, layers)}
    for name, layer in chosen.items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, LoRALinear(layer, config))
    add_token_rows(network, config.token_rows or 0)


@torch.no_grad()
def merged(weights: dict[str, Tensor], config: LoRAConfig, vocab_size: int) -> dict[str, Tensor]:
    """The weights of a network with adapters, by name, as those of one without: W + (alpha / r) B A for W.

    They have the precision of A and B.
    """
    if not config.rank:
        return weights
    weights = with_token_rows(weights, vocab_size)
    plain = {name: tensor for name, tensor in weights.items() if not is_lora(name)}
    for name in [name for name in weights if name.endswith(f".{A}")]:
        layer = name.removesuffix(A)
        weight = f"{layer}weight"
        product = weights[f"{layer}{B}"].double() @ weights[name].double()  # (out, r) x (r, in)
        plain[weight] = (plain[weight].double() + config.scale * product).to(weights[name].dtype)
    return plain


def is_lora(name: str) -> bool:
    """Whether a parameter's name is that of a matrix of an adapter."""
    return name.rpartition(".")[2] in (A, B)


def is_added(name: str) -> bool:
    """Whether a parameter has no counterpart in a network without adapters."""
    return name.rpartition(".")[2] in (A, B, ROWS)


def changed_modules(network: nn.Module) -> Iterator[str]:
    """The names of the modules that `add_lora` put in place of others."""
    kinds = (LoRALinear, EmbeddingWithRows, HeadWithRows)
    return (name for name, module in network.named_modules() if isinstance(module, kinds))


def lora_layers(network: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The layers that have an adapter, by name."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, LoRALinear))


def _named(word: str, layers: dict[str, nn.Linear]) -> list[tuple[str, nn.Linear]]:
    """The layers that a word of `modules` means."""
    found = [
        (name, layer)
        for name, layer in layers.items()
        if name.rpartition(".")[2] == word or fnmatch.fnmatchcase(name, word)
    ]
    if found:
        return found
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    near = difflib.get_close_matches(word, [*known, *layers], n=1)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    raise ConfigError(
        f"model.lora.modules: there is no linear layer {word!r}{hint} there are {', '.join(known) or 'none'} (or whole "
        f"names, such as {next(iter(layers), 'blocks.0.attention.qkv')})"
    )
