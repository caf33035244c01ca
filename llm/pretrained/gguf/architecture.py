"""The metadata of a GGUF file as a `config.json` of Hugging Face's, and its tensors by their names there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm.errors import CheckpointError

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Those that are read: each is a `model_type` of Hugging Face's; Mistral is a `llama` here."""

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

ROPE_FACTORS = "rope_freqs.weight"
"""What each rotary frequency is divided by, (D/2,): how a Llama 3's scaling is stored."""


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
