"""Hugging Face's GPT-2: its names, its `config.json`, and both ways between it and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm.config import GPTConfig
from llm.errors import CheckpointError, ConfigError
from llm.pretrained.base import Pretrained, Told
from llm.pretrained.files import read_json
from llm.pretrained.layout import HEAD, Layout, Tensors

LAYOUT = Layout(
    modules={
        "embeddings.token": "wte",
        "embeddings.position": "wpe",
        "blocks.*.attention_norm": "h.*.ln_1",
        "blocks.*.attention.qkv": "h.*.attn.c_attn",
        "blocks.*.attention.projection": "h.*.attn.c_proj",
        "blocks.*.mlp_norm": "h.*.ln_2",
        "blocks.*.mlp.expand": "h.*.mlp.c_fc",
        "blocks.*.mlp.projection": "h.*.mlp.c_proj",
        "final_norm": "ln_f",
        "head": "lm_head",
    },
    # Their Conv1D, which OpenAI's code had, stores (in, out).
    transposed=frozenset(
        {"blocks.*.attention.qkv", "blocks.*.attention.projection", "blocks.*.mlp.expand", "blocks.*.mlp.projection"}
    ),
    buffers=r"h\.\d+\.attn\.(bias|masked_bias)",
)

ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_fast": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Their names for what ours are; the first of several is the one that is written."""


_SPELLINGS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""Names of settings that `transformers` takes for GPT-2's, too."""


def read(tensors: Tensors, folder: Path, told: Told) -> Pretrained:
    """The model whose tensors these are.

    Args:
        tensors: by their names, without prefixes.
        folder: where `config.json` and the tokenizer's files are looked for.
        told: used where there is no `config.json`.

    Raises:
        CheckpointError: the tensors are not those of the architecture, or it is none that this package can build.
    """
    notes: list[str] = []
    path = folder / "config.json"
    if path.is_file():
        config = config_from_json(read_json(path), str(path), notes)
        if config.tie_head and not LAYOUT.is_tied(tensors):
            raise CheckpointError(
                f"{str(path)!r} says that the head shares the token embedding's weights, but the tensors "
                "lm_head.weight and wte.weight differ: set tie_word_embeddings to false there, or remove lm_head.weight"
            )
    else:
        config = LAYOUT.infer(tensors, **({"activation": "gelu"} | told))
        notes.append(f"there is no config.json beside the weights: taken for a GPT-2 with {config.n_head} heads")
    weights = LAYOUT.to_ours(tensors, config)
    return Pretrained("Hugging Face", config, weights, notes=tuple(notes), model_type="gpt2")


def config_from_json(theirs: dict[str, Any], where: str, notes: list[str]) -> GPTConfig:
    """The architecture that a `config.json` describes.

    Args:
        theirs: its content; what it omits has the default of `transformers.GPT2Config`.
        where: named in errors.
        notes: what a user should know is appended to it.

    Raises:
        CheckpointError: it is not GPT-2, or a variant that this package can't build.
    """
    theirs = {_SPELLINGS.get(name, name): value for name, value in theirs.items()}
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if theirs.get(name):
            raise CheckpointError(f"{where!r} has {name} on, which this package has no counterpart for")
    activation = theirs.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{where!r} has the activation {activation!r}; those that can be read are {', '.join(ACTIVATIONS)}"
        )
    dropouts = [theirs.get(name, 0.1) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")]
    if any(dropout != dropouts[0] for dropout in dropouts):
        notes.append(f"resid_pdrop, embd_pdrop and attn_pdrop differ; dropout is resid_pdrop, {dropouts[0]}")
    n_embd, hidden = theirs.get("n_embd", 768), theirs.get("n_inner")
    try:
        return GPTConfig(
            vocab_size=theirs.get("vocab_size", 50257),
            context_length=theirs.get("n_positions", theirs.get("n_ctx", 1024)),
            n_layer=theirs.get("n_layer", 12),
            n_head=theirs.get("n_head", 12),
            n_embd=n_embd,
            scale_scores=theirs.get("scale_attn_weights", True),
            norm_epsilon=theirs.get("layer_norm_epsilon", 1e-5),
            activation=ACTIVATIONS[activation],  # type: ignore[arg-type]
            mlp_hidden=None if hidden == 4 * n_embd else hidden,
            dropout=dropouts[0],
            tie_head=theirs.get("tie_word_embeddings", True),
        )
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{where!r} describes no model that can be built: {error}") from error


def config_to_json(config: GPTConfig, end_of_text_id: int | None) -> dict[str, Any]:
    """The `config.json` of an architecture that has no obstacle."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.mlp_hidden,
        "activation_function": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_epsilon": config.norm_epsilon,
        "scale_attn_weights": config.scale_scores,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_head,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
    }


def obstacles(config: GPTConfig) -> list[str]:
    """What GPT-2's format has no place for, a few words each; nothing if it can hold the architecture."""
    needed: dict[str, Any] = {
        "attention": "multi_head",
        "positions": "learned",
        "sliding_window": None,
        "qk_norm": False,
        "normalize_scores": "softmax",
        "norm": "layer_norm",
        "norm_first": True,
        "mlp": "plain",
        "residual": True,
        "parallel_residual": False,
        "attention_softcap": None,
        "sandwich_norm": False,
        "scale_embeddings": False,
        "logit_softcap": None,
    }
    wrong = [f"{name} is {getattr(config, name)}" for name, value in needed.items() if getattr(config, name) != value]
    if config.causal is False:
        wrong.append("causal is False")
    return wrong + obstacles_in_sizes(config)


def obstacles_in_sizes(config: GPTConfig) -> list[str]:
    """What neither GPT-2's format nor BERT's has a place for: other numbers of heads, and activations of our own."""
    wrong = []
    if config.kv_heads != config.heads:
        wrong.append(f"n_kv_head is {config.n_kv_head}")
    if config.heads * config.head_dim != config.n_embd:
        wrong.append(f"head_size is {config.head_size}")
    if config.activation not in ACTIVATIONS.values():
        wrong.append(f"activation is {config.activation}")
    return wrong


def add_missing_biases(theirs: Tensors, weights: Tensors, layout: Layout = LAYOUT) -> bool:
    """Give every projection and norm without a bias one of zeros, which changes nothing but fits GPT-2's format.

    Args:
        theirs: tensors by the names of the layout; added to.
        weights: the same by ours.
        layout: theirs.

    Returns:
        Whether any was missing.
    """
    before = len(theirs)
    for name, tensor in weights.items():
        if name.endswith(".weight") and name != HEAD and not name.startswith("embeddings."):
            (bias,) = layout.names(f"{name.removesuffix('.weight')}.bias")
            if bias not in theirs:
                theirs[bias] = tensor.new_zeros(tensor.shape[0])
    return len(theirs) > before


def with_prefix(theirs: Tensors) -> Tensors:
    """Tensors by the names that they have in a whole model of theirs: all but the head's with a prefix."""
    return {name if name.startswith("lm_head.") else f"transformer.{name}": tensor for name, tensor in theirs.items()}
