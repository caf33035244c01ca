"""The architecture of a GPT."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from llm.config.checks import checks
from llm.config.rope import RopeScaling
from llm.errors import ConfigError

AttentionKind = Literal["dot", "self", "causal", "multi_head"]

GPT2_SIZES: dict[str, dict[str, int]] = {
    "124m": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "355m": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "774m": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "1558m": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}
"""GPT-2's published sizes (Radford et al. 2019, table 2)."""

_SIZES = (
    "vocab_size",
    "context_length",
    "n_layer",
    "n_head",
    "n_embd",
    "n_kv_head",
    "head_size",
    "mlp_hidden",
    "sliding_window",
    "vocab_multiple",
)
_AS_TRAINED = RopeScaling()
_LARGEST = 2**31 - 1
_MOST_LAYERS = 10_000
"""A larger model would take minutes to build before it turns out not to fit into memory."""


@dataclass(frozen=True)
class GPTConfig:
    """The architecture of a GPT.

    Args:
        vocab_size: V, the number of token ids. On the command line it comes from the tokenizer.
        context_length: T, the most tokens the model sees at once. On the command line it comes from
            `data.context_length`.
        n_layer: number of blocks.
        n_head: H, number of attention heads. Used by `multi_head`; the other kinds have one head.
        n_embd: C, size of the embedding vectors.
        n_kv_head: number of key and value heads in `multi_head`, each of which serves n_head / n_kv_head query heads
            (grouped-query attention, Ainslie et al. 2023). Default: n_head.
        head_size: D, size of one head's queries, keys and values in `multi_head`. Default: n_embd / n_head.
        attention: `dot` has no weights of its own, `self` has trained queries, keys and values and sees the whole
            text, `causal` sees only the past, `multi_head` is several causal heads and an output projection.
        causal: whether a position sees only itself and earlier ones. Default: as `attention` says.
        positions: how the model knows the position of a token: `learned` adds a trained vector for each position to the
            token's, `rotary` rotates queries and keys by an angle that grows with the position, so that attention
            scores depend on the distance alone (Su et al. 2021).
        rope_theta: base of those angles: the larger, the slower the slowest of them.
        rope_scaling: how they are stretched, for a longer context than the one trained on.
        partial_rotary_factor: fraction of each head that is rotated, its first values; the others know no positions
            (GPT-NeoX: Black et al. 2022, section 2.1.1).
        sliding_window: how many positions a query sees, itself the last (Mistral: Jiang et al. 2023). Default: all.
        full_attention_layers: layers, counted from 0, that see all positions though there is a sliding window.
        qk_norm: divide each head's queries and keys by their root mean square, so that no score grows without bound.
        qk_gain: what `qk_norm` multiplies them by: `shared`, one trained factor for each layer, which makes a score the
            cosine of an angle times that factor (Henry et al. 2020), or `separate`, a trained vector of size D for
            queries and one for keys (Qwen3: Yang et al. 2025).
        scale_scores: whether the attention scores, query·key, are divided by the square root of the head size.
        attention_softcap: bound of the attention scores, which go through bound * tanh(score / bound) (Gemma 2: Gemma
            Team 2024, section 2). Default: none.
        normalize_scores: how scores become attention weights: `softmax`, or each score divided by their `sum` (a
            step in the notes; it can divide by zero, so train with softmax).
        norm: before each part of a block and before the head: `layer_norm`, `rms_norm`, which divides by the root mean
            square and neither centers nor shifts (Zhang & Sennrich 2019), `zero_centered_rms_norm`, the same with
            a gain of 1 + w, whose weights w start at 0 (Gemma), or `none`.
        norm_first: whether each part of a block normalizes its input (pre-norm, as GPT-2), or the sum of its input and
            its output (post-norm, as Vaswani et al. 2017); then there is no norm before the head.
        sandwich_norm: whether pre-norm blocks normalize what each part gives, too, before it is added (Ding et al.
            2021, section 2.4; Gemma 2).
        norm_epsilon: added to the variance, or the mean square, under the norm's square root.
        mlp: what follows each attention: `plain` is a two-layer perceptron; `gated` multiplies its hidden layer by a
            second one, which alone goes through the activation (with `silu` SwiGLU, with `gelu` GeGLU: Shazeer 2020);
            or `none`.
        activation: between its two layers: `gelu` in GPT-2's tanh form, `gelu_exact`, `relu`, `silu` or
            `squared_relu` (So et al. 2021).
        mlp_hidden: size of its hidden layer. Default: 4 C.
        residual: whether each part of a block adds to its input or replaces it.
        parallel_residual: whether attention and perceptron both read the block's input, and not one after the other
            (Wang & Komatsuzaki 2021; GPT-NeoX).
        projection_init: how the last matrix of each part of a block starts: `small` and random, the smaller the more
            blocks there are, as GPT-2's, or `zero`, so that every block begins by passing its input on.
        dropout: fraction of values dropped in training, from 0 up to but not including 1.
        bias: whether linear layers and norms have a bias.
        qkv_bias: whether the query, key and value projections have one.
        scale_embeddings: whether token embeddings are multiplied by the square root of C (Vaswani et al. 2017, section
            3.4; Gemma).
        logit_softcap: bound of the logits, as `attention_softcap` is of scores. Default: none.
        tie_head: whether the output head shares the token embedding's weights.
        vocab_multiple: round the tables of embedding and head up to a multiple of this, such as 64 or 128, for
            speed on a GPU. The rows beyond the vocabulary are padding: there are always V logits.
    """

    vocab_size: int = 50257
    context_length: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    n_kv_head: int | None = None
    head_size: int | None = None
    attention: AttentionKind = "multi_head"
    causal: bool | None = None
    positions: Literal["learned", "rotary"] = "learned"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling = _AS_TRAINED
    partial_rotary_factor: float = 1.0
    sliding_window: int | None = None
    full_attention_layers: tuple[int, ...] = ()
    qk_norm: bool = False
    qk_gain: Literal["shared", "separate"] = "shared"
    scale_scores: bool = True
    attention_softcap: float | None = None
    normalize_scores: Literal["softmax", "sum"] = "softmax"
    norm: Literal["layer_norm", "rms_norm", "zero_centered_rms_norm", "none"] = "layer_norm"
    norm_first: bool = True
    sandwich_norm: bool = False
    norm_epsilon: float = 1e-5
    mlp: Literal["plain", "gated", "none"] = "plain"
    activation: Literal["gelu", "gelu_exact", "relu", "silu", "squared_relu"] = "gelu"
    mlp_hidden: int | None = None
    residual: bool = True
    parallel_residual: bool = False
    projection_init: Literal["small", "zero"] = "small"
    dropout: float = 0.1
    bias: bool = True
    qkv_bias: bool = True
    scale_embeddings: bool = False
    logit_softcap: float | None = None
    tie_head: bool = True
    vocab_multiple: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.rope_scaling, dict):  # as `to_dict` gives it
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        if isinstance(self.full_attention_layers, list):
            object.__setattr__(self, "full_attention_layers", tuple(self.full_attention_layers))
        with checks(self) as check:
            for name in _SIZES:
                value, most = getattr(self, name), _MOST_LAYERS if name == "n_layer" else _LARGEST
                check(value is None or value >= 1, f"{name} must be at least 1, got {value}")
                check(value is None or value <= most, f"{name} must be at most {most}, got {value}")
            check(0 < self.norm_epsilon <= 1, f"norm_epsilon must be above 0, at most 1, got {self.norm_epsilon}")
            check(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
            check(
                self.attention != "dot" or (self.positions == "learned" and not self.qk_norm),
                f"positions {self.positions} with qk_norm {self.qk_norm}: rotary positions and qk_norm change queries "
                "and keys but not values, and dot attention has one vector for all three: choose another attention",
            )
            check(1 < self.rope_theta <= 1e18, f"rope_theta must be above 1, at most 1e18, got {self.rope_theta}")
            check(
                self.positions == "rotary" or self.rope_scaling.kind == "none",
                f"rope_scaling {self.rope_scaling.kind} needs positions rotary, got positions {self.positions}",
            )
            check(
                0 < self.partial_rotary_factor <= 1,
                f"partial_rotary_factor must be above 0 and at most 1, got {self.partial_rotary_factor}",
            )
            check(
                self.positions == "rotary" or self.partial_rotary_factor == 1,
                f"partial_rotary_factor {self.partial_rotary_factor} needs positions rotary, got positions "
                f"{self.positions}",
            )
            for name in ("attention_softcap", "logit_softcap"):
                bound = getattr(self, name)
                check(bound is None or bound > 0, f"{name} must be above 0, got {bound}")
            check(
                not self.sandwich_norm or self.norm_first,
                "sandwich_norm needs norm_first: without it, what each part gives is normalized already",
            )
            check(
                not self.parallel_residual or (self.residual and self.norm_first and self.mlp != "none"),
                "parallel_residual needs residual, norm_first and an mlp: both parts read the block's input, and what "
                "they give is added to it",
            )
            check(
                self.qk_norm or self.qk_gain == "shared",
                f"qk_gain {self.qk_gain} needs qk_norm true: without it nothing is multiplied",
            )
            check(
                self.sliding_window is None or self.is_causal,
                f"sliding_window {self.sliding_window} needs a causal attention, which sees only the past",
            )
            layers = self.full_attention_layers
            check(
                all(isinstance(layer, int) and layer >= 0 for layer in layers),
                f"full_attention_layers must be numbers of layers, counted from 0, got {list(layers)}",
            )
            check(
                not layers or self.sliding_window is not None,
                f"full_attention_layers {list(layers)} needs sliding_window: without it all layers see everything",
            )
            check(
                self.attention != "causal" or self.causal is not False,
                "attention causal with causal false: the same attention that sees the whole text is called self",
            )
            check(
                self.projection_init == "small" or self.residual,
                "projection_init zero needs residual: without it a block would output only zeros",
            )
            for name in ("n_kv_head", "head_size"):
                check(
                    getattr(self, name) is None or self.attention == "multi_head",
                    f"{name} {getattr(self, name)} needs attention multi_head, got attention {self.attention}, which "
                    "has one head of size n_embd",
                )
            if min(self.n_head, self.heads, self.kv_heads) < 1:
                return  # there is no size of a head to ask about
            check(
                self.heads % self.kv_heads == 0,
                f"n_head must be divisible by n_kv_head, so that every key and value head serves as many query heads: "
                f"{self.heads} / {self.kv_heads} leaves {self.heads % self.kv_heads}",
            )
            check(
                self.head_size is not None or self.n_embd % self.heads == 0,
                f"n_embd must be divisible by n_head, so that every head has the same size: "
                f"{self.n_embd} / {self.n_head} leaves {self.n_embd % self.n_head}; or give head_size",
            )
            check(
                self.positions == "learned" or (self.rotary_dim % 2 == 0 and self.rotary_dim > 0),
                "positions rotary rotates pairs of values, so the head size must be even, got "
                f"{'n_embd / n_head' if self.head_size is None else 'head_size'} = {self.head_dim}"
                + (f" times {self.partial_rotary_factor}" if self.partial_rotary_factor < 1 else ""),
            )

    @property
    def heads(self) -> int:
        """H, the number of attention heads that the chosen kind really has."""
        return self.n_head if self.attention == "multi_head" else 1

    @property
    def kv_heads(self) -> int:
        """The number of key and value heads that the chosen kind really has."""
        return self.heads if self.n_kv_head is None else self.n_kv_head

    @property
    def head_dim(self) -> int:
        """D, the size of one head's queries, keys and values."""
        return self.n_embd // self.heads if self.head_size is None else self.head_size

    @property
    def rotary_dim(self) -> int:
        """How many values of each head's queries and keys are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def hidden_size(self) -> int:
        """Size of the perceptron's hidden layer."""
        return 4 * self.n_embd if self.mlp_hidden is None else self.mlp_hidden

    def window(self, layer: int) -> int | None:
        """How many positions a query of one layer sees; None for all."""
        return None if layer in self.full_attention_layers else self.sliding_window

    @property
    def padded_vocab_size(self) -> int:
        """Rows in the tables of embedding and head: V, rounded up to `vocab_multiple`."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    @property
    def n_logits(self) -> int:
        """How many logits the head gives: one for each token."""
        return self.vocab_size

    @property
    def is_causal(self) -> bool:
        """Whether a position sees only itself and earlier ones, so that its next-token loss is meaningful."""
        return self.attention in ("causal", "multi_head") if self.causal is None else self.causal

    @classmethod
    def gpt2(cls, size: str, **overrides: Any) -> Self:
        """One of GPT-2's published sizes: `124m`, `355m`, `774m` or `1558m`."""
        if size not in GPT2_SIZES:
            raise ConfigError(f"unknown GPT-2 size {size!r}; there are {', '.join(GPT2_SIZES)}")
        return cls(**{"context_length": 1024, **GPT2_SIZES[size], **overrides})

    def to_dict(self) -> dict[str, Any]:
        """The settings as primitives, as checkpoints store them."""
        return dataclasses.asdict(self) | {"full_attention_layers": list(self.full_attention_layers)}
