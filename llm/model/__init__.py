"""The model in plain torch: it knows no Lightning, no tokenizer and no files."""

from llm.model.attention import (
    Attention,
    CausalAttention,
    DotAttention,
    MultiHeadAttention,
    SelfAttention,
)
from llm.model.base import Network
from llm.model.block import MLP, Block, SquaredReLU
from llm.model.cache import KeyValueCache, decode, prefill
from llm.model.classifier import Classifier, last_real
from llm.model.cross_attention import CrossAttention
from llm.model.embeddings import Embeddings, Head
from llm.model.encoder import Encoder
from llm.model.encoder_decoder import DecoderState, EncoderDecoder, Memory
from llm.model.gpt import GPT
from llm.model.networks import NETWORKS, build_network
from llm.model.padding import attention_mask, causal_mask, is_real
from llm.model.rnn import RNN
from llm.model.stages import AttentionHook, Hook, Stage
from llm.model.transformer import Transformer
from llm.model.word_vectors import WordVectors

__all__ = [
    "GPT",
    "MLP",
    "NETWORKS",
    "RNN",
    "Attention",
    "AttentionHook",
    "Block",
    "CausalAttention",
    "Classifier",
    "CrossAttention",
    "DecoderState",
    "DotAttention",
    "Embeddings",
    "Encoder",
    "EncoderDecoder",
    "Head",
    "Hook",
    "KeyValueCache",
    "Memory",
    "MultiHeadAttention",
    "Network",
    "SelfAttention",
    "SquaredReLU",
    "Stage",
    "Transformer",
    "WordVectors",
    "attention_mask",
    "build_network",
    "causal_mask",
    "decode",
    "is_real",
    "last_real",
    "prefill",
]
