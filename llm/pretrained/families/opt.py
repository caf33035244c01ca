"""OPT (Zhang et al. 2022): GPT-2 with ReLU; its table of positions has two rows that no token uses."""

from __future__ import annotations

from llm.pretrained.families.base import Family
from llm.pretrained.layout import Layout

FAMILY = Family(
    name="OPT",
    model_type="opt",
    model_class="OPTForCausalLM",
    layout=Layout(
        modules={
            "embeddings.token": "decoder.embed_tokens",
            "embeddings.position": "decoder.embed_positions",
            "blocks.*.attention_norm": "decoder.layers.*.self_attn_layer_norm",
            "blocks.*.attention.qkv": (
                "decoder.layers.*.self_attn.q_proj",
                "decoder.layers.*.self_attn.k_proj",
                "decoder.layers.*.self_attn.v_proj",
            ),
            "blocks.*.attention.projection": "decoder.layers.*.self_attn.out_proj",
            "blocks.*.mlp_norm": "decoder.layers.*.final_layer_norm",
            "blocks.*.mlp.expand": "decoder.layers.*.fc1",
            "blocks.*.mlp.projection": "decoder.layers.*.fc2",
            "final_norm": "decoder.final_layer_norm",
            "head": "lm_head",
        },
        unused_rows={"embeddings.position": 2},
    ),
    settings={
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_embd": ("hidden_size", "word_embed_proj_dim"),
        "mlp_hidden": "ffn_dim",
        "tie_head": "tie_word_embeddings",
    },
    fixed={
        "positions": "learned",
        "norm": "layer_norm",
        "norm_epsilon": 1e-5,
        "mlp": "plain",
        "qk_norm": False,
        "qkv_bias": True,
        "bias": True,
    },
    defaults={
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_size": 768,
        "ffn_dim": 3072,
        "activation_function": "relu",
        "tie_word_embeddings": True,
    },
    only={
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
    },
    activation="activation_function",
)
