"""Hugging Face's BERT: its names, its `config.json`, and both ways between `BertForMaskedLM` and our encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm.config import EncoderConfig
from llm.config.tasks import MASKED
from llm.errors import CheckpointError, ConfigError
from llm.model.block import initialize
from llm.model.encoder import MaskedHead
from llm.pretrained.base import Pretrained
from llm.pretrained.huggingface import ACTIVATIONS, obstacles_in_sizes
from llm.pretrained.layout import MASKED_HEAD, Layout, Tensors

MODEL_TYPE = "bert"

LAYOUT = Layout(
    modules={
        "embeddings.token": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.segment": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "blocks.*.attention.qkv": tuple(f"encoder.layer.*.attention.self.{part}" for part in ("query", "key", "value")),
        "blocks.*.attention.projection": "encoder.layer.*.attention.output.dense",
        "blocks.*.attention_norm": "encoder.layer.*.attention.output.LayerNorm",
        "blocks.*.mlp.expand": "encoder.layer.*.intermediate.dense",
        "blocks.*.mlp.projection": "encoder.layer.*.output.dense",
        "blocks.*.mlp_norm": "encoder.layer.*.output.LayerNorm",
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head.output": "cls.predictions.decoder",
    },
    buffers=r"embeddings\.position_ids|pooler\..*|cls\.seq_relationship\..*",
    head=MASKED_HEAD,
)
_BIAS, _DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"
_UNUSED = "its pooler and its head for the next sentence, which masked words don't need, are left out"

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "tie_word_embeddings": True,
}
"""Those of `transformers.BertConfig`."""

_ONLY: dict[str, Any] = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
"""Settings that change the network, and the one value that can be read."""

_NEEDED: dict[str, Any] = {
    "attention": "multi_head",
    "positions": "learned",
    "sliding_window": None,
    "qk_norm": False,
    "normalize_scores": "softmax",
    "scale_scores": True,
    "norm": "layer_norm",
    "norm_first": False,
    "mlp": "plain",
    "residual": True,
    "attention_softcap": None,
    "scale_embeddings": False,
    "logit_softcap": None,
}
"""What of an encoder's settings the format has no word for."""


def read(theirs: Mapping[str, Any], tensors: Tensors, where: str) -> Pretrained:
    """The encoder of a `config.json` and the tensors of a `BertForMaskedLM`, `BertForPreTraining` or `BertModel`.

    Args:
        theirs: the content of `config.json`.
        tensors: by their names, with or without the prefix `bert.`.
        where: the file or folder, named in errors.

    Raises:
        CheckpointError: it is of no architecture that this package can build, or the tensors are not its own.
    """
    notes: list[str] = []
    config = config_from_json(theirs, where, notes)
    named = {_modern(name): tensor for name, tensor in tensors.items()}
    if any(re.match(r"pooler\.|cls\.seq_relationship\.", name) for name in named):
        notes.append(_UNUSED)
    if not any(name.startswith("cls.predictions.") for name in named):
        named |= _new_head(config)
        notes.append("there is no head for masked words (BertModel): it begins new, and fills masks only once trained")
    if _BIAS in named:  # where the head is not shared, `transformers` adds the other one
        bias = named.pop(_BIAS)
        if not torch.equal(named.setdefault(_DECODER_BIAS, bias), bias) and config.tie_head:
            raise CheckpointError(
                f"{where!r} says that its head is shared, and has two biases of it that differ: {_BIAS} and "
                f"{_DECODER_BIAS}; remove one of them"
            )
    if config.tie_head:
        LAYOUT.refuse_other_head(named, where)
    weights = LAYOUT.to_ours(named, config)
    return Pretrained("Hugging Face (BERT)", config, weights, notes=tuple(notes), task=MASKED, model_type=MODEL_TYPE)


def config_from_json(theirs: Mapping[str, Any], where: str, notes: list[str]) -> EncoderConfig:
    """The architecture that a `config.json` describes.

    Args:
        theirs: its content; what it omits has the default of `transformers.BertConfig`.
        where: named in errors.
        notes: what a user should know is appended to it.

    Raises:
        CheckpointError: it is none that this package can build; names the setting.
    """
    theirs = {**_DEFAULTS, **theirs}
    what = f"{where!r} is a BERT (model_type 'bert')"
    if theirs.get("quantization_config"):
        raise CheckpointError(f"{what} with quantization_config: its weights are quantized; take those in float32")
    for name, value in _ONLY.items():
        if theirs.get(name, value) != value:
            raise CheckpointError(f"{what} with {name} {theirs[name]!r}; only {value!r} can be read")
    activation, dropout = theirs["hidden_act"], theirs["hidden_dropout_prob"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise CheckpointError(f"{what} with hidden_act {activation!r}; there are {', '.join(ACTIVATIONS)}")
    if theirs["attention_probs_dropout_prob"] != dropout:
        notes.append(
            f"hidden_dropout_prob and attention_probs_dropout_prob differ; dropout is hidden_dropout_prob, {dropout}"
        )
    hidden, C = theirs["intermediate_size"], theirs["hidden_size"]
    try:
        return EncoderConfig(
            vocab_size=theirs["vocab_size"],
            context_length=theirs["max_position_embeddings"],
            n_layer=theirs["num_hidden_layers"],
            n_head=theirs["num_attention_heads"],
            n_embd=C,
            norm_first=False,
            norm_epsilon=theirs["layer_norm_eps"],
            activation=ACTIVATIONS[activation],  # type: ignore[arg-type]
            mlp_hidden=None if hidden == 4 * C else hidden,
            dropout=dropout,
            tie_head=theirs["tie_word_embeddings"],
            n_segments=theirs["type_vocab_size"],
        )
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{what} that can't be built: {error}") from error


def config_to_json(config: EncoderConfig) -> dict[str, Any]:
    """The `config.json` of an architecture that has no obstacle."""
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "hidden_size": config.n_embd,
        "intermediate_size": config.hidden_size,
        "type_vocab_size": max(1, config.n_segments),
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "tie_word_embeddings": config.tie_head,
    }


def refuse_obstacles(config: EncoderConfig) -> None:
    """Refuse an architecture that BERT's format has no place for.

    Raises:
        ConfigError: names the settings that stand in the way.
    """
    wrong = [
        f"{name} is {getattr(config, name)} ({value} there)"
        for name, value in _NEEDED.items()
        if getattr(config, name) != value
    ]
    if wrong := [*wrong, *obstacles_in_sizes(config)]:
        raise ConfigError(
            f"BERT's format has no place for this architecture: {', '.join(wrong)}; use --format safetensors"
        )


def to_theirs(weights: Tensors, config: EncoderConfig) -> tuple[Tensors, bool]:
    """The tensors of a `BertForMaskedLM`, and whether what ours has not, biases and segments, was added as zeros."""
    theirs = LAYOUT.to_theirs(weights, config)
    before = len(theirs)
    for name, tensor in weights.items():
        if name.endswith(".weight") and not name.startswith(("embeddings.token", "embeddings.pos", "embeddings.seg")):
            parts = LAYOUT.names(f"{name.removesuffix('.weight')}.bias")
            for bias in parts:
                theirs.setdefault(bias, tensor.new_zeros(tensor.shape[0] // len(parts)))
    if not config.n_segments:
        (segment,) = LAYOUT.names("embeddings.segment.weight")
        theirs[segment] = weights["embeddings.token.weight"].new_zeros(1, config.n_embd)
    added = len(theirs) > before
    theirs[_BIAS] = theirs[_DECODER_BIAS] if config.tie_head else theirs[_DECODER_BIAS].clone()
    if config.tie_head:  # stored once, as `transformers` does
        del theirs[_DECODER_BIAS]
    return {name if name.startswith("cls.") else f"bert.{name}": tensor for name, tensor in theirs.items()}, added


def _modern(name: str) -> str:
    """A tensor's name without the prefix, and as later versions spell it."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _new_head(config: EncoderConfig) -> dict[str, Tensor]:
    """The head for masked words, by their names, as a new encoder begins with it: always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = MaskedHead(config)
        initialize(head, config)
    found = {f"head.{name}": tensor.detach() for name, tensor in head.state_dict().items()}
    return {
        LAYOUT.names(name)[0]: tensor for name, tensor in found.items() if name != MASKED_HEAD or not config.tie_head
    }
