"""One block: attention gathers from other positions, the perceptron works on each position alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model.attention import SelfAttention, build_attention
from llm.model.functions import squared_relu
from llm.model.norm import build_norm
from llm.model.stages import AttentionHook, Hook


def build_activation(config: GPTConfig) -> nn.Module:
    """The activation function of the perceptron that `config.activation` names.

    GPT-2 has GELU in its tanh form (Hendrycks & Gimpel 2016, section 2).
    """
    activations = {
        "gelu": nn.GELU("tanh"),
        "gelu_exact": nn.GELU(),
        "relu": nn.ReLU(),
        "silu": nn.SiLU(),
        "squared_relu": SquaredReLU(),
    }
    return activations[config.activation]


class SquaredReLU(nn.Module):
    """The square of ReLU (So et al. 2021, section 4)."""

    def forward(self, x: Tensor) -> Tensor:
        """Element-wise or along C: the shape does not change."""
        return squared_relu(x)


class MLP(nn.Module):
    """A perceptron with one hidden layer, four times as wide as its input unless configured otherwise."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.n_embd, config.hidden_size, bias=config.bias)
        self.activation = build_activation(config)
        self.projection = nn.Linear(config.hidden_size, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` -> `(B, T, C)`."""
        return self.projection(self.activation(self.expand(x)))  # (B, T, C) -> (B, T, 4C) -> (B, T, C)


class GatedMLP(MLP):
    """A perceptron whose hidden layer is multiplied by a second one, which went through the activation.

    With `silu` it is SwiGLU, with `gelu` GeGLU (Shazeer 2020, eq. 6).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.gate = nn.Linear(config.n_embd, config.hidden_size, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` -> `(B, T, C)`."""
        return self.projection(self.activation(self.gate(x)) * self.expand(x))  # (B, T, C) -> (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """Attention, then MLP, each adding to the residual stream.

    Each reads a normalized input (pre-norm, as GPT-2), or what it adds up to is normalized (post-norm, as Vaswani et
    al. 2017). With `parallel_residual` the MLP reads the block's input too, and not what the attention added to it.

    Args:
        config: `norm` and `mlp` may be `none`, and with `residual` off each part replaces its input instead of
            adding to it; all three off leave the bare attention.
        layer: its number, counted from 0: a sliding window may be on some layers only.
    """

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.residual = config.residual
        self.norm_first = config.norm_first
        self.is_parallel = config.parallel_residual
        self.attention_norm = build_norm(config)
        self.attention = build_attention(config, layer)
        self.attention_out_norm = build_norm(config) if config.sandwich_norm else None
        self.attention_dropout = nn.Dropout(config.dropout)
        self.mlp: MLP | None = None
        if config.mlp != "none":
            self.mlp_norm = build_norm(config)
            self.mlp = GatedMLP(config) if config.mlp == "gated" else MLP(config)
            self.mlp_out_norm = build_norm(config) if config.sandwich_norm else None
            self.mlp_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(B, T, C)` -> `(B, T, C)`; a mask takes the place of the attention's own."""
        return self.after_attention(x, self.attention(self.before_attention(x), mask))

    def before_attention(self, x: Tensor) -> Tensor:
        """What the attention reads: `(B, T, C)` -> `(B, T, C)`."""
        return self.attention_norm(x) if self.norm_first else x

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows once the input and its attention are there: twice `(B, T, C)` -> `(B, T, C)`."""
        joined = self.join_attention(x, attended)
        return joined + self._mlp_update(x) if self.is_parallel else self.after_mlp(joined)

    def join_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The attention joined to its input: twice `(B, T, C)` -> `(B, T, C)`."""
        if self.attention_out_norm is not None:
            attended = self.attention_out_norm(attended)
        return self._join(x, self.attention_dropout(attended), self.attention_norm)

    def after_mlp(self, x: Tensor) -> Tensor:
        """The MLP, if there is one, joined to its input: `(B, T, C)` -> `(B, T, C)`."""
        return x if self.mlp is None else self._join(x, self._mlp_update(x), self.mlp_norm)

    def _mlp_update(self, x: Tensor) -> Tensor:
        assert self.mlp is not None
        update = self.mlp(self.mlp_norm(x) if self.norm_first else x)
        return self.mlp_dropout(update if self.mlp_out_norm is None else self.mlp_out_norm(update))

    def _join(self, x: Tensor, update: Tensor, norm: nn.Module) -> Tensor:
        x = x + update if self.residual else update
        return x if self.norm_first else norm(x)

    def stages(self, name: str) -> Iterator[Hook | AttentionHook]:
        """What is worth a look, under the block's name."""
        yield from self.attention_stages(name)
        yield from self.mlp_stages(name)

    def attention_stages(self, name: str) -> Iterator[Hook | AttentionHook]:
        """The attention and its norm, under the block's name."""
        attention = AttentionHook(name, self.attention, is_causal=self.attention.is_causal)
        attention_norm = Hook(f"{name} / attention norm", self.attention_norm)
        yield from (attention_norm, attention) if self.norm_first else (attention, attention_norm)
        if self.attention_out_norm is not None:
            yield Hook(f"{name} / attention output norm", self.attention_out_norm)

    def mlp_stages(self, name: str) -> Iterator[Hook | AttentionHook]:
        """What comes behind the attention, under the block's name."""
        if self.mlp is not None:
            mlp_norm, mlp = Hook(f"{name} / MLP norm", self.mlp_norm), Hook(f"{name} / MLP", self.mlp)
            reads = self.mlp_norm if self.norm_first else self.mlp
            if not self.is_parallel:  # else the MLP reads the block's input, and there is nothing in between
                yield Hook(f"{name} / residual after attention", reads, of_input=True)
            yield from (mlp_norm, mlp) if self.norm_first else (mlp, mlp_norm)
            if self.mlp_out_norm is not None:
                yield Hook(f"{name} / MLP output norm", self.mlp_out_norm)
        yield Hook(f"{name} / residual", self)


def build_blocks(config: GPTConfig) -> nn.ModuleList:
    """The blocks of a network, one on top of the other; they share one table of rotary positions."""
    blocks = nn.ModuleList()
    rotary = None
    for layer in range(config.n_layer):
        block = Block(config, layer)
        if isinstance(block.attention, SelfAttention):
            block.attention.rotary = rotary = rotary or block.attention.rotary
        blocks.append(block)
    return blocks


def initialize(network: nn.Module, config: GPTConfig) -> None:
    """Start the weights as GPT-2's do: normal with a standard deviation of 0.02, biases at 0.

    What is added to the residual stream is scaled down by the number of additions, two per block, unless it is to
    start at zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    std = 0.0 if config.projection_init == "zero" else 0.02 / math.sqrt(2 * config.n_layer)
    for name, parameter in network.named_parameters():
        if name.endswith("projection.weight"):
            nn.init.normal_(parameter, std=std)
