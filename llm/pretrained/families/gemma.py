"""Gemma (Gemma Team 2024a) and Gemma 2 (Gemma Team 2024b): GeGLU, scaled embeddings, norms with a gain of 1 + w."""

from __future__ import annotations

from dataclasses import replace

from llm.pretrained.families import llama
from llm.pretrained.families.base import ACTIVATIONS, Family

_FIXED = llama.FIXED | {
    "norm": "zero_centered_rms_norm",
    "qk_norm": False,
    "qkv_bias": False,
    "bias": False,
    "scale_embeddings": True,
}

_DEFAULTS = {
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}

GEMMA = Family(
    name="Gemma",
    model_type="gemma",
    model_class="GemmaForCausalLM",
    layout=llama.LAYOUT,
    settings=llama.SETTINGS,
    fixed=_FIXED,
    defaults=_DEFAULTS
    | {
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "hidden_act": "gelu_pytorch_tanh",
    },
    only={"attention_bias": False, "use_bidirectional_attention": None},
    activations={**ACTIVATIONS, "gelu": "gelu"},  # what was published says so, and means the tanh approximation
)

GEMMA2 = Family(
    name="Gemma2",
    model_type="gemma2",
    model_class="Gemma2ForCausalLM",
    layout=replace(
        llama.LAYOUT,
        modules={
            **llama.LAYOUT.modules,
            "blocks.*.attention_out_norm": "layers.*.post_attention_layernorm",
            "blocks.*.mlp_norm": "layers.*.pre_feedforward_layernorm",
            "blocks.*.mlp_out_norm": "layers.*.post_feedforward_layernorm",
        },
    ),
    settings=llama.SETTINGS
    | {
        # Scores are divided by the square root of the latter, which is another number in the model of 27 billion.
        "head_size": ("head_dim", "query_pre_attn_scalar"),
        "attention_softcap": "attn_logit_softcapping",
        "logit_softcap": "final_logit_softcapping",
    },
    fixed=_FIXED | {"sandwich_norm": True},
    defaults=_DEFAULTS
    | {
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    only={"attention_bias": False, "use_bidirectional_attention": None},
    window="alternating",
    activation="hidden_activation",
)
