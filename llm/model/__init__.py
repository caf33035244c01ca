"""The model in plain torch: it knows no Lightning, no tokenizer and no files."""

from llm.model.attention import (
    Attention,
    CausalAttention,
    DotAttention,
    MultiHeadAttention,
    SelfAttention,
    causal_mask,
)
from llm.model.block import MLP, Block, SquaredReLU
from llm.model.cache import KeyValueCache, decode, prefill
from llm.model.embeddings import Embeddings, Head
from llm.model.gpt import GPT

__all__ = [
    "GPT",
    "MLP",
    "Attention",
    "Block",
    "CausalAttention",
    "DotAttention",
    "Embeddings",
    "Head",
    "KeyValueCache",
    "MultiHeadAttention",
    "SelfAttention",
    "SquaredReLU",
    "causal_mask",
    "decode",
    "prefill",
]
