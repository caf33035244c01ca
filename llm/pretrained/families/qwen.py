"""Qwen2 and 2.5 (Yang et al. 2024): biases on queries, keys and values. Qwen3 (Yang et al. 2025): norms instead."""

from __future__ import annotations

from llm.pretrained.families import llama
from llm.pretrained.families.base import Family

_DEFAULTS = llama.DEFAULTS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

QWEN2 = Family(
    name="Qwen2",
    model_type="qwen2",
    model_class="Qwen2ForCausalLM",
    layout=llama.LAYOUT,
    settings=llama.SETTINGS,
    fixed=llama.FIXED | {"qk_norm": False, "qkv_bias": True, "bias": False},
    defaults=_DEFAULTS,
    window="by layer",
)

QWEN3 = Family(
    name="Qwen3",
    model_type="qwen3",
    model_class="Qwen3ForCausalLM",
    layout=llama.LAYOUT,
    settings=llama.SETTINGS,
    fixed=llama.FIXED | {"qk_norm": True, "qk_gain": "separate", "qkv_bias": False, "bias": False},
    defaults=_DEFAULTS | {"head_dim": 128},
    only={"attention_bias": False},
    window="by layer",
)
