"""One block: attention gathers from other positions, the perceptron works on each position alone."""

from __future__ import annotations

from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model.attention import build_attention
from llm.model.functions import rms_norm, squared_relu


def build_norm(config: GPTConfig) -> nn.Module:
    """The normalisation that `config.norm` names, over vectors of size C."""
    if config.norm == "none":
        return nn.Identity()
    if config.norm == "rms_norm":
        return RMSNorm(config.n_embd, eps=config.norm_epsilon)
    return nn.LayerNorm(config.n_embd, eps=config.norm_epsilon, bias=config.bias)


def build_activation(config: GPTConfig) -> nn.Module:
    """The function between the two layers of the perceptron that `config.activation` names.

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
    """The square of what is above zero (So et al. 2021, section 4)."""

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        return squared_relu(x)


class RMSNorm(nn.RMSNorm):
    """Divides each vector by its root mean square, and multiplies by a trained gain."""

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        return rms_norm(x, self.weight, self.eps)


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


class Block(nn.Module):
    """Attention, then MLP, each reading a normalised input and adding to the residual stream (pre-norm, as GPT-2).

    Args:
        config: `norm` and `mlp` may be `none`, and with `residual` off each part replaces its input instead of
            adding to it; all three off leave the bare attention.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.attention_norm = build_norm(config)
        self.attention = build_attention(config)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.mlp: MLP | None = None
        if config.mlp != "none":
            self.mlp_norm = build_norm(config)
            self.mlp = MLP(config)
            self.mlp_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` -> `(B, T, C)`."""
        return self.after_attention(x, self.attention(self.attention_norm(x)))

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows once the input and its attention are there: twice `(B, T, C)` -> `(B, T, C)`."""
        x = self._join(x, self.attention_dropout(attended))
        if self.mlp is not None:
            x = self._join(x, self.mlp_dropout(self.mlp(self.mlp_norm(x))))
        return x

    def _join(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update if self.residual else update
