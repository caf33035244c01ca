"""Mistral (Jiang et al. 2023): Llama with a sliding window on every layer."""

from __future__ import annotations

from llm.pretrained.families import llama
from llm.pretrained.families.base import Family

FAMILY = Family(
    name="Mistral",
    model_type="mistral",
    model_class="MistralForCausalLM",
    layout=llama.LAYOUT,
    settings=llama.SETTINGS,
    fixed=llama.FIXED | {"qk_norm": False, "qkv_bias": False, "bias": False},
    defaults=llama.DEFAULTS
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    window="all",
)
