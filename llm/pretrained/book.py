"""State dicts of `GPTModel` in the book Build a Large Language Model (From Scratch), its `.pth` files."""

from __future__ import annotations

from llm.pretrained.base import Pretrained, Told
from llm.pretrained.layout import Layout, Tensors

LAYOUT = Layout(
    modules={
        "embeddings.token": "tok_emb",
        "embeddings.position": "pos_emb",
        "blocks.*.attention_norm": "trf_blocks.*.norm1",
        "blocks.*.attention.qkv": (
            "trf_blocks.*.att.W_query",
            "trf_blocks.*.att.W_key",
            "trf_blocks.*.att.W_value",
        ),
        "blocks.*.attention.projection": "trf_blocks.*.att.out_proj",
        "blocks.*.mlp_norm": "trf_blocks.*.norm2",
        "blocks.*.mlp.expand": "trf_blocks.*.ff.layers.0",
        "blocks.*.mlp.projection": "trf_blocks.*.ff.layers.2",
        "final_norm": "final_norm",
        "head": "out_head",
    },
    norm_parameters={"weight": "scale", "bias": "shift"},
    buffers=r"trf_blocks\.\d+\.att\.mask",
)


def read(tensors: Tensors, told: Told) -> Pretrained:
    """The model of a state dict; the number of heads is GPT-2's for its size, or is given.

    Raises:
        CheckpointError: the tensors are not the book's, or the number of heads is needed.
    """
    tied = "out_head.weight" not in tensors  # its GPTModel has a head of its own, even where the values are the same
    config = LAYOUT.infer(tensors, **({"activation": "gelu", "bias": True, "tie_head": tied} | told))
    return Pretrained("LLMs-from-scratch", config, LAYOUT.to_ours(tensors, config))
