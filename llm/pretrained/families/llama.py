"""Llama (Touvron et al. 2023, Grattafiori et al. 2024), and what is built like it, such as SmolLM2."""

from __future__ import annotations

from llm.pretrained.families.base import Family
from llm.pretrained.layout import Layout

LAYOUT = Layout(
    modules={
        "embeddings.token": "embed_tokens",
        "blocks.*.attention_norm": "layers.*.input_layernorm",
        "blocks.*.attention.qkv": (
            "layers.*.self_attn.q_proj",
            "layers.*.self_attn.k_proj",
            "layers.*.self_attn.v_proj",
        ),
        "blocks.*.attention.query_norm": "layers.*.self_attn.q_norm",
        "blocks.*.attention.key_norm": "layers.*.self_attn.k_norm",
        "blocks.*.attention.projection": "layers.*.self_attn.o_proj",
        "blocks.*.mlp_norm": "layers.*.post_attention_layernorm",
        "blocks.*.mlp.gate": "layers.*.mlp.gate_proj",
        "blocks.*.mlp.expand": "layers.*.mlp.up_proj",
        "blocks.*.mlp.projection": "layers.*.mlp.down_proj",
        "final_norm": "norm",
        "head": "lm_head",
    },
    buffers=r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
)
"""Their names, those of Qwen3's norms among them."""

SETTINGS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_embd": "hidden_size",
    "head_size": "head_dim",
    "mlp_hidden": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "tie_head": "tie_word_embeddings",
}

FIXED = {"positions": "rotary", "norm": "rms_norm", "mlp": "gated"}

DEFAULTS = {
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}

FAMILY = Family(
    name="Llama",
    model_type="llama",
    model_class="LlamaForCausalLM",
    layout=LAYOUT,
    settings=SETTINGS | {"qkv_bias": "attention_bias", "bias": ("attention_bias", "mlp_bias")},
    fixed=FIXED | {"qk_norm": False},
    defaults=DEFAULTS,
)
