"""Generation: of token ids (`generate`, `generate_batch`) and of text (`stream_text`, `continue_texts`).

Masked words are filled in by `fill_masks`.
"""

from llm.generation.compiled import CompiledStep
from llm.generation.decoding import generate, generate_batch, log_probabilities
from llm.generation.filling import Filling, fill_masks
from llm.generation.sampling import choose
from llm.generation.text import Continuation, continue_texts, stream_text

__all__ = [
    "CompiledStep",
    "Continuation",
    "Filling",
    "choose",
    "continue_texts",
    "fill_masks",
    "generate",
    "generate_batch",
    "log_probabilities",
    "stream_text",
]
