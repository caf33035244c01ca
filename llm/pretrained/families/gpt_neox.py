"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023): parallel residual, heads rotated in part."""

from __future__ import annotations

from llm.pretrained.families.base import Family
from llm.pretrained.layout import Layout

_QKV = "blocks.*.attention.qkv"

FAMILY = Family(
    name="GPTNeoX",
    model_type="gpt_neox",
    model_class="GPTNeoXForCausalLM",
    layout=Layout(
        modules={
            "embeddings.token": "gpt_neox.embed_in",
            "blocks.*.attention_norm": "gpt_neox.layers.*.input_layernorm",
            _QKV: "gpt_neox.layers.*.attention.query_key_value",
            "blocks.*.attention.projection": "gpt_neox.layers.*.attention.dense",
            "blocks.*.mlp_norm": "gpt_neox.layers.*.post_attention_layernorm",
            "blocks.*.mlp.expand": "gpt_neox.layers.*.mlp.dense_h_to_4h",
            "blocks.*.mlp.projection": "gpt_neox.layers.*.mlp.dense_4h_to_h",
            "final_norm": "gpt_neox.final_layer_norm",
            "head": "embed_out",
        },
        by_head=frozenset({_QKV}),
        buffers=r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    ),
    settings={
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_embd": "hidden_size",
        "mlp_hidden": "intermediate_size",
        "norm_epsilon": "layer_norm_eps",
        "parallel_residual": "use_parallel_residual",
        "tie_head": "tie_word_embeddings",
    },
    fixed={
        "positions": "rotary",
        "norm": "layer_norm",
        "mlp": "plain",
        "qk_norm": False,
        "qkv_bias": True,
        "bias": True,
    },
    defaults={
        "vocab_size": 50432,
        "max_position_embeddings": 2048,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
    },
    only={"attention_bias": True},
    prefix="",
    rope_names={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
)
