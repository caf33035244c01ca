"""Every setting of a model, its optimizer and its tokenizer, validated when it is made.

Frozen dataclasses of primitives: what the command line parses, what a checkpoint stores, and what the code
reads are the same thing.
"""

from llm.config.classifier import ClassifierConfig
from llm.config.encoder import EncoderConfig
from llm.config.gpt import GPT2_SIZES, AttentionKind, GPTConfig
from llm.config.lora import LoRAConfig
from llm.config.optim import OptimConfig
from llm.config.rnn import RNNConfig
from llm.config.rope import RopeScaling
from llm.config.sampling import SamplingConfig
from llm.config.tokenizer import TokenizerConfig
from llm.config.transformer import TransformerConfig
from llm.config.word_vectors import WordVectorsConfig

__all__ = [
    "GPT2_SIZES",
    "AttentionKind",
    "ClassifierConfig",
    "EncoderConfig",
    "GPTConfig",
    "LoRAConfig",
    "OptimConfig",
    "RNNConfig",
    "RopeScaling",
    "SamplingConfig",
    "TokenizerConfig",
    "TransformerConfig",
    "WordVectorsConfig",
]
