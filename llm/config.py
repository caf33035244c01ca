"""Every setting of a model, its optimizer and its tokenizer, validated when it is made.

Frozen dataclasses of primitives: what the command line parses, what a checkpoint stores, and what the code
reads are the same thing.
"""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from llm.errors import ConfigError

AttentionKind = Literal["dot", "self", "causal", "multi_head"]

GPT2_SIZES: dict[str, dict[str, int]] = {
    "124m": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "355m": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "774m": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "1558m": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}
"""GPT-2's published sizes (Radford et al. 2019, table 2)."""

_LARGEST = 2**31 - 1
_MOST_SAMPLES = 10_000
"""All samples of a prompt are generated side by side; more would fill the memory before the first one."""
_MOST_LAYERS = 10_000
"""More would take minutes to build before anything could tell that they don't fit into memory."""


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
        attention: `dot` has no weights of its own, `self` has trained queries, keys and values and sees the whole
            text, `causal` sees only the past, `multi_head` is several causal heads and an output projection.
        positions: how the model knows where a token stands: `learned` adds a trained vector for each position to the
            token's, `rotary` turns queries and keys by an angle that grows with the position, so that a score depends
            on the distance alone (Su et al. 2021).
        qk_norm: compare queries and keys by the cosine of their angle times a trained factor, one for each layer, so
            that no score grows without bound (Henry et al. 2020).
        scores: `scaled` divides query·key by the square root of the head size, `raw` does not.
        weights: `softmax` over the scores, or each score over their `sum` (a step on the notes' way; it can
            divide by zero, so train with softmax).
        norm: before each part of a block and before the head: `layer_norm`, `rms_norm`, which divides by the root mean
            square and neither centres nor shifts (Zhang & Sennrich 2019), or `none`.
        norm_epsilon: added to the variance, or the mean square, under the norm's square root.
        mlp: a two-layer perceptron after each attention, named by its activation: `gelu` in GPT-2's tanh form,
            `gelu_exact`, `relu`, `silu` or `squared_relu` (So et al. 2021); or none.
        mlp_hidden: size of its hidden layer. Default: 4 C.
        residual: whether each part of a block adds to its input or replaces it.
        projection_init: how the last matrix of each part of a block starts: `small` and random, the smaller the more
            blocks there are, as GPT-2's, or `zero`, so that every block begins by passing its input on.
        dropout: share of values dropped in training, from 0 up to but not including 1.
        bias: whether linear layers and norms have a bias.
        qkv_bias: whether the query, key and value projections have one.
        tie_head: whether the output head shares the token embedding's weights.
        vocab_multiple: round the tables of embedding and head up to a multiple of this, such as 64 or 128, for
            speed on a GPU. The rows beyond the vocabulary are never given out: there are always V logits.
    """

    vocab_size: int = 50257
    context_length: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    attention: AttentionKind = "multi_head"
    positions: Literal["learned", "rotary"] = "learned"
    qk_norm: bool = False
    scores: Literal["scaled", "raw"] = "scaled"
    weights: Literal["softmax", "sum"] = "softmax"
    norm: Literal["layer_norm", "rms_norm", "none"] = "layer_norm"
    norm_epsilon: float = 1e-5
    mlp: Literal["gelu", "gelu_exact", "relu", "silu", "squared_relu", "none"] = "gelu"
    mlp_hidden: int | None = None
    residual: bool = True
    projection_init: Literal["small", "zero"] = "small"
    dropout: float = 0.1
    bias: bool = True
    qkv_bias: bool = True
    tie_head: bool = True
    vocab_multiple: int = 1

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd", "mlp_hidden", "vocab_multiple"):
            value, most = getattr(self, name), _MOST_LAYERS if name == "n_layer" else _LARGEST
            _check(value is None or value >= 1, f"{name} must be at least 1, got {value}")
            _check(value is None or value <= most, f"{name} must be at most {most}, got {value}")
        _check(self.norm_epsilon > 0, f"norm_epsilon must be above 0, got {self.norm_epsilon}")
        _check(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        _check(
            self.n_embd % self.heads == 0,
            f"n_embd must be divisible by n_head, so that every head has the same size: "
            f"{self.n_embd} / {self.n_head} leaves {self.n_embd % self.n_head}",
        )
        _check(
            self.attention != "dot" or (self.positions == "learned" and not self.qk_norm),
            f"positions {self.positions} with qk_norm {self.qk_norm}: rotary positions and qk_norm change queries and "
            "keys but not values, and dot attention has one vector for all three: choose another attention",
        )
        _check(
            self.positions == "learned" or self.head_size % 2 == 0,
            f"positions rotary turns pairs of values, so the head size must be even, got n_embd / n_head = "
            f"{self.head_size}",
        )
        _check(
            self.projection_init == "small" or self.residual,
            "projection_init zero needs residual: without it a block would give nothing but zeros",
        )

    @property
    def heads(self) -> int:
        """H, the number of attention heads that the chosen kind really has."""
        return self.n_head if self.attention == "multi_head" else 1

    @property
    def head_size(self) -> int:
        """D, the size of one head's queries, keys and values."""
        return self.n_embd // self.heads

    @property
    def hidden_size(self) -> int:
        """Size of the perceptron's hidden layer."""
        return 4 * self.n_embd if self.mlp_hidden is None else self.mlp_hidden

    @property
    def padded_vocab_size(self) -> int:
        """Rows in the tables of embedding and head: V, rounded up to `vocab_multiple`."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    @property
    def is_causal(self) -> bool:
        """Whether a position sees only itself and earlier ones, so that its next-token loss means something."""
        return self.attention in ("causal", "multi_head")

    @classmethod
    def gpt2(cls, size: str, **overrides: Any) -> Self:
        """One of GPT-2's published sizes: `124m`, `355m`, `774m` or `1558m`."""
        _check(size in GPT2_SIZES, f"unknown GPT-2 size {size!r}; there are {', '.join(GPT2_SIZES)}")
        return cls(**{"context_length": 1024, **GPT2_SIZES[size], **overrides})

    def to_dict(self) -> dict[str, Any]:
        """The settings as primitives, as checkpoints store them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning rate over a run, which changes with every optimizer step.

    Args:
        kind: `adamw` for all parameters (Loshchilov & Hutter 2017); or `muon` for the matrices of the blocks, whose
            every update is made orthogonal (Jordan et al. 2024), and AdamW for embeddings, head and vectors.
        learning_rate: AdamW's peak, reached after the warm-up.
        muon_learning_rate: Muon's peak; how far each matrix moves in a step, measured by its largest singular value.
        muon_momentum: decay of Muon's running mean of the gradients.
        schedule: after the warm-up, `cosine` falls along half a wave; `warmup_stable_decay` stays at the peak, then
            falls in a line (Hu et al. 2024). Both learning rates follow it.
        decay_share: of `warmup_stable_decay`: how much of the run the fall takes, from 0 to 1.
        final_learning_rate: where the fall ends, as a share of the peak.
        warmup_steps: optimizer steps from zero to the peak.
        weight_decay: applied to matrices and embeddings, not to biases and norms.
        beta1: decay of AdamW's running mean of the gradients.
        beta2: decay of its running mean of their squares.
        epsilon: added to AdamW's denominator.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.02
    muon_momentum: float = 0.95
    schedule: Literal["cosine", "warmup_stable_decay"] = "cosine"
    decay_share: float = 0.4
    final_learning_rate: float = 0.1
    warmup_steps: int = 50
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _check_types(self)
        _check(self.learning_rate > 0, f"learning_rate must be above 0, got {self.learning_rate}")
        _check(self.muon_learning_rate > 0, f"muon_learning_rate must be above 0, got {self.muon_learning_rate}")
        _check(0 <= self.muon_momentum < 1, f"muon_momentum must be in [0, 1), got {self.muon_momentum}")
        _check(0 <= self.decay_share <= 1, f"decay_share is a share of the run, from 0 to 1, got {self.decay_share}")
        _check(
            0 <= self.final_learning_rate <= 1,
            f"final_learning_rate is a share of learning_rate, from 0 to 1, got {self.final_learning_rate}",
        )
        _check(self.warmup_steps >= 0, f"warmup_steps must be at least 0, got {self.warmup_steps}")
        _check(self.weight_decay >= 0, f"weight_decay must be at least 0, got {self.weight_decay}")
        _check(0 <= self.beta1 < 1, f"beta1 must be in [0, 1), got {self.beta1}")
        _check(0 <= self.beta2 < 1, f"beta2 must be in [0, 1), got {self.beta2}")
        _check(self.epsilon > 0, f"epsilon must be above 0, got {self.epsilon}")


@dataclass(frozen=True)
class SamplingConfig:
    """How a text is continued: how each next token is chosen from its scores, and when to stop.

    In this order: the repetition penalty, the temperature, then `top_k`, `top_p` and `min_p`, each on what the one
    before it left.

    Args:
        max_new_tokens: how many to generate at most.
        temperature: divides the scores; below 1 sharper, above 1 flatter, 0 always takes the likeliest (greedy).
        top_k: choose among the k likeliest only.
        top_p: choose among the likeliest that together reach this probability (Holtzman et al. 2019).
        min_p: leave out tokens less likely than this share of the likeliest one's probability (Nguyen et al. 2024).
        repetition_penalty: makes tokens that are already in the text less likely; 1 does nothing, 1.2 is usual
            (CTRL: Keskar et al. 2019, section 4.1).
        stop: texts at which to end, such as a line break; neither they nor what follows them is given.
        stop_ids: tokens at which to end, besides the tokenizer's end of text; not given either.
        n_samples: continuations of each prompt.
        seed: of the choices: the same seed, model and prompt give the same text, whatever other prompts there are.
        fast: `always` compiles the decoding of a token, which takes some seconds and then makes each token
            cheaper; `never` does not; `auto` does where it pays off.
        lookahead: where the last tokens stood before in the text, guess that as many tokens follow as did there, and
            check them all in one step: the same text, sooner. Of a prompt alone; 0 never guesses.
    """

    max_new_tokens: int = 60
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    n_samples: int = 1
    seed: int = 123
    fast: Literal["auto", "always", "never"] = "auto"
    lookahead: int = 3

    def __post_init__(self) -> None:
        _check_types(self)
        _check(not isinstance(self.stop, str), f"stop must be a list of texts, got the text {self.stop!r}")
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
        _check(all(self.stop), "stop holds an empty text, which is everywhere")
        _check(all(token >= 0 for token in self.stop_ids), f"stop_ids must be at least 0, got {self.stop_ids}")
        _check(self.n_samples >= 1, f"n_samples must be at least 1, got {self.n_samples}")
        _check(self.n_samples <= _MOST_SAMPLES, f"n_samples must be at most {_MOST_SAMPLES}, got {self.n_samples}")
        _check(self.min_p is None or 0 <= self.min_p <= 1, f"min_p must be from 0 to 1, got {self.min_p}")
        _check(
            0 < self.repetition_penalty < float("inf"),
            f"repetition_penalty must be above 0, got {self.repetition_penalty}",
        )
        _check(self.lookahead >= 0, f"lookahead must be at least 0, got {self.lookahead}")
        _check(self.max_new_tokens >= 1, f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        _check(0 <= self.temperature < float("inf"), f"temperature must be at least 0, got {self.temperature}")
        _check(self.top_k is None or self.top_k >= 1, f"top_k must be at least 1, got {self.top_k}")
        _check(
            self.top_p is None or 0 < self.top_p <= 1,
            f"top_p must be above 0 and at most 1, got {self.top_p}",
        )
        _check(0 <= self.seed < 2**63, f"seed must be from 0 to 2**63 - 1, got {self.seed}")


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, and its options.

    Args:
        kind: `gpt2` (works offline), `word`, `char`, or another of tiktoken's encodings by name, such as
            `cl100k_base` (tiktoken downloads those once). Default: the tokenizer that comes with the corpus, if
            that is a token store, else `gpt2`.
        pattern: for `word`: split off `:` and `;` too, or leave them on the word before.
        specials: for `word` and `char`: special tokens to append to the vocabulary. With `<|unk|>` or `[UNK]`
            among them, unknown pieces become that token; without, they are an error (the strict tokenizer).
            Default: `<|endoftext|>` and `<|unk|>` for words, `<|endoftext|>` for characters.
        checkpoint: take the tokenizer of this checkpoint, or of other weights that have one; the options above are
            then not used.
    """

    kind: str | None = None
    pattern: Literal["with_colon", "without_colon"] = "with_colon"
    specials: tuple[str, ...] | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        if self.specials is not None:
            object.__setattr__(self, "specials", tuple(self.specials))
            _check(
                len(set(self.specials or ())) == len(self.specials or ()),
                f"specials holds the same token twice: {self.specials}",
            )
            _check(all(self.specials or ()), "specials holds an empty token")
            _check(
                self.kind in ("word", "char"),
                f"specials are for the word and char tokenizers; {self.kind or 'gpt2'!r} has its own",
            )


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


_NOUNS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
}


def _check_types(config: Any) -> None:
    """Hold the fields to their types, which dataclasses alone don't: files of others hold anything."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            is_right = value in choices
            _check(is_right, f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")
        elif float in kinds and isinstance(value, float | int):
            _check(not isinstance(value, bool) and math.isfinite(value), f"{name} must be a number, got {value}")
        else:
            plain = tuple(get_origin(kind) or kind for kind in kinds)
            is_right = isinstance(value, (*plain, list) if tuple in plain else plain)
            is_right &= bool in plain or not isinstance(value, bool)
            expected = " or ".join("nothing" if kind is types.NoneType else _NOUNS[kind] for kind in plain)
            _check(is_right, f"{name} must be {expected}, got {value!r}")
