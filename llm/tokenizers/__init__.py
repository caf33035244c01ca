"""Text to token ids and back: words, characters, byte-pair encodings of one's own and tiktoken's, Hugging Face's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers.base import END_OF_TEXT, MASK, Tokenizer
from llm.tokenizers.bpe import BPETokenizer, gpt2_files, is_local
from llm.tokenizers.byte_pairs import SPLIT_PATTERNS, BytePairTokenizer, from_merges
from llm.tokenizers.char import CharTokenizer
from llm.tokenizers.hugging_face import HuggingFaceTokenizer
from llm.tokenizers.ids import IdTokenizer
from llm.tokenizers.roles import Roles
from llm.tokenizers.word import PATTERNS, WordTokenizer, split_words

__all__ = [
    "END_OF_TEXT",
    "LEARNED",
    "MASK",
    "PATTERNS",
    "SPLIT_PATTERNS",
    "BPETokenizer",
    "BytePairTokenizer",
    "CharTokenizer",
    "HuggingFaceTokenizer",
    "IdTokenizer",
    "Roles",
    "Tokenizer",
    "WordTokenizer",
    "build_tokenizer",
    "from_merges",
    "gpt2_files",
    "is_local",
    "split_words",
    "tokenizer_from_dict",
]

_CLASSES: dict[str, type[Tokenizer]] = {
    cls.kind: cls
    for cls in (WordTokenizer, CharTokenizer, BPETokenizer, BytePairTokenizer, HuggingFaceTokenizer, IdTokenizer)
}

LEARNED: dict[str, type[Tokenizer]] = {"word": WordTokenizer, "char": CharTokenizer, "bpe": BytePairTokenizer}
"""The kinds, as a configuration names them, whose vocabulary is learned from a text."""


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str] = ()) -> Tokenizer:
    """The tokenizer that a configuration describes.

    Args:
        config: the kind and its options.
        texts: what a vocabulary is learned from; not touched by the encodings that have one already.

    Raises:
        TokenizerError: there is no such kind, or it can't be built.
    """
    return LEARNED.get(config.kind or "gpt2", BPETokenizer).build(texts, config)


def tokenizer_from_dict(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_dict` described, of whichever kind.

    Raises:
        TokenizerError: the dict describes no tokenizer.
    """
    try:
        if all(_is_tokens(state.get(name, "")) for name in ("vocabulary", "specials", "added")):
            return _CLASSES[state["kind"]].from_dict(state)
    except TokenizerError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TokenizerError(f"this describes no tokenizer: {str(state)[:80]}") from error
    raise TokenizerError(f"this describes no tokenizer: {str(state)[:80]}")


def _is_tokens(value: Any) -> bool:
    """Whether a value is a string, a list of strings, or a dict from strings to ids."""
    if isinstance(value, dict):
        return all(isinstance(text, str) and type(token_id) is int for text, token_id in value.items())
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(text, str) for text in value))
