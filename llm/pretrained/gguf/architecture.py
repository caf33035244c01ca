"""The metadata of a GGUF file as a `config.json` of Hugging Face's, its tensors by their names there, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm.config import GPTConfig
from llm.errors import CheckpointError, ConfigError
from llm.pretrained.layout import Layout

ARCHITECTURES = ("gpt2", "llama", "qwen2", "qwen3")
"""Those that are read: each is a `model_type` of Hugging Face's; Mistral is a `llama` here."""

GPT2 = Layout(
    modules={
        "embeddings.token": "token_embd",
        "embeddings.position": "position_embd",
        "blocks.*.attention_norm": "blk.*.attn_norm",
        "blocks.*.attention.qkv": "blk.*.attn_qkv",
        "blocks.*.attention.projection": "blk.*.attn_output",
        "blocks.*.mlp_norm": "blk.*.ffn_norm",
        "blocks.*.mlp.expand": "blk.*.ffn_up",
        "blocks.*.mlp.projection": "blk.*.ffn_down",
        "final_norm": "output_norm",
        "head": "output",
    }
)
"""The names of GPT-2's tensors."""

_SETTINGS = {
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""Settings of Hugging Face's and where llama.cpp states them, after the name of the architecture."""

_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}

_GPT2_SETTINGS = {
    "context_length": "context_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_embd": "embedding_length",
    "mlp_hidden": "feed_forward_length",
    "norm_epsilon": "attention.layer_norm_epsilon",
}
"""Settings of ours and where llama.cpp states them of a GPT-2."""

ROPE_FACTORS = "rope_freqs.weight"
"""What each rotary frequency is divided by, (D/2,): how a Llama 3's scaling is stored."""


def gpt2_config_of(metadata: Mapping[str, Any], names: Mapping[str, Any], vocab_size: int) -> GPTConfig:
    """The architecture of a GPT-2.

    Args:
        metadata: values by their names in the file.
        names: of the tensors, as the file has them.
        vocab_size: how many rows the token embedding has.

    Raises:
        CheckpointError: it is none that can be built; says why.
    """
    stated: dict[str, Any] = {ours: metadata.get(f"gpt2.{name}") for ours, name in _GPT2_SETTINGS.items()}
    if missing := [f"gpt2.{_GPT2_SETTINGS[name]}" for name, value in stated.items() if value is None]:
        raise CheckpointError(f"its metadata have no {', '.join(missing)}")
    stated["mlp_hidden"] = None if stated["mlp_hidden"] == 4 * stated["n_embd"] else stated["mlp_hidden"]
    try:
        return GPTConfig(vocab_size=vocab_size, tie_head="output.weight" not in names, dropout=0.0, **stated)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"its metadata describe no model that can be built: {error}") from error


def config_of(metadata: Mapping[str, Any], names: Mapping[str, Any], rope_factors: Tensor | None) -> dict[str, Any]:
    """The `config.json` that metadata describe.

    Args:
        metadata: values by their names in the file.
        names: of the tensors, as the file has them.
        rope_factors: the tensor `ROPE_FACTORS`, if there is one.

    Raises:
        CheckpointError: it is of another architecture, or has what this package can't build; says which.
    """
    kind = metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise CheckpointError(
            f"it is of the architecture {kind!r}; those that can be read from GGUF are {', '.join(ARCHITECTURES)}"
        )
    own = {name.removeprefix(f"{kind}."): value for name, value in metadata.items() if name.startswith(f"{kind}.")}
    if missing := [f"{kind}.{name}" for name in _SETTINGS.values() if name not in own]:
        raise CheckpointError(f"its metadata have no {', '.join(missing)}")
    if own.get("expert_count"):
        raise CheckpointError(f"it has {own['expert_count']} experts, which this package has no architecture for")
    config = {theirs: own[name] for theirs, name in _SETTINGS.items()}
    if not all(isinstance(value, int | float) for value in config.values()):  # a list, where layers differ
        raise CheckpointError("its layers are of different sizes, which this package has no architecture for")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    size = own.get("attention.key_length", width // max(heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        if own.get(name, size) != size:
            raise CheckpointError(f"it has {kind}.{name} {own[name]}; only {size}, a head's size, can be read")
    return config | {
        "model_type": kind,
        "num_key_value_heads": own.get("attention.head_count_kv", heads),
        "head_dim": size,
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_output.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "rope_theta": own.get("rope.freq_base", 10_000.0),
        "rope_scaling": _scaling(own, size, rope_factors),
    }


def hugging_face_name(name: str) -> str:
    """What a tensor is called there, without the prefix `model.`; itself if it is none that is known."""
    *before, module, parameter = ["", *name.split(".")]
    if before[:2] == ["", "blk"] and len(before) == 3 and module in _MODULES:
        return f"layers.{before[2]}.{_MODULES[module]}.{parameter}"
    return f"{_OUTSIDE[module]}.{parameter}" if before == [""] and module in _OUTSIDE else name


def metadata_of(config: GPTConfig, kind: str) -> dict[str, Any]:
    """The metadata that describe an architecture.

    Args:
        config: the architecture; what has no place in a file was refused before.
        kind: one of `ARCHITECTURES`.
    """
    worked_out = {"mlp_hidden": config.hidden_size}
    own: dict[str, Any] = {name: worked_out.get(ours, getattr(config, ours)) for ours, name in _GPT2_SETTINGS.items()}
    if kind != "gpt2":
        own["attention.layer_norm_rms_epsilon"] = own.pop("attention.layer_norm_epsilon")
        own["context_length"] = min(config.context_length, config.sliding_window or config.context_length)
        own["attention.head_count_kv"] = config.kv_heads
        own |= dict.fromkeys(
            ("attention.key_length", "attention.value_length", "rope.dimension_count"), config.head_dim
        )
        own["rope.freq_base"] = float(config.rope_theta)
    scaling = config.rope_scaling
    if scaling.kind in ("linear", "yarn"):
        own |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": float(scaling.factor)}
    if scaling.kind == "yarn":
        own["rope.scaling.original_context_length"] = scaling.original_context
    return {f"{kind}.{name}": value for name, value in {**own, "vocab_size": config.vocab_size}.items()}


def gguf_name(name: str) -> str:
    """The way back of `hugging_face_name`."""
    module, _, parameter = name.rpartition(".")
    _, layer, inside = module.split(".", 2) if module.startswith("layers.") else ("", "", module)
    theirs = next(theirs for theirs, ours in {**_MODULES, **_OUTSIDE}.items() if ours == inside)
    return f"blk.{layer}.{theirs}.{parameter}" if layer else f"{theirs}.{parameter}"


def _scaling(own: Mapping[str, Any], head_size: int, factors: Tensor | None) -> dict[str, Any] | None:
    """What `rope_scaling` is."""
    kind = own.get("rope.scaling.type", "none")
    if factors is not None and kind == "none":
        return _llama3(factors, own.get("rope.freq_base", 10_000.0), head_size)
    if kind == "none":
        return None
    if kind not in ("linear", "yarn") or own.get("rope.scaling.attn_factor", 1.0) != 1.0 or factors is not None:
        raise CheckpointError(f"its rotary positions are scaled in a way that is not read: rope.scaling.type {kind!r}")
    scaling = {"rope_type": kind, "factor": own.get("rope.scaling.factor", 1.0)}
    if kind == "yarn" and (original := own.get("rope.scaling.original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling


def _llama3(factors: Tensor, theta: float, head_size: int) -> dict[str, Any]:
    """The scaling whose factors these are, (D/2,): the file has them, and not the settings they follow from.

    Raises:
        CheckpointError: they are not those of a Llama 3.1 or later.
    """
    low, high, original, largest = 1.0, 4.0, 8192, round(factors.max().item(), 4)
    cycles = original * theta ** (-torch.arange(0, head_size, 2) / head_size) / (2 * math.pi)  # (D/2,) in that context
    smooth = ((cycles - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - smooth) / largest + smooth)
    if factors.shape != expected.shape or not torch.allclose(factors.float(), expected, rtol=1e-3):
        raise CheckpointError(f"{ROPE_FACTORS} holds other factors than a Llama 3's, which is not read")
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
