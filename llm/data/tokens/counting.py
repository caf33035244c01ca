"""How much text token ids stand for: what turns nats per token into bits per byte and per character."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llm.data.tokens.mapped import TokenArray
from llm.errors import DataError
from llm.tokenizers import Tokenizer

_AT_ONCE = 1 << 20


class TextSize(NamedTuple):
    """Size of a text.

    Args:
        n_bytes: in UTF-8.
        n_characters: Unicode code points.
    """

    n_bytes: int
    n_characters: int


def count_tokens(tokens: TokenArray, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each token is there, (V,); the ids (N,) are read a part at a time.

    Raises:
        DataError: an id is outside the vocabulary.
    """
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), _AT_ONCE):
        found = np.bincount(np.asarray(tokens[start : start + _AT_ONCE]), minlength=vocab_size)
        if len(found) > vocab_size:
            raise DataError(
                f"token id {len(found) - 1} is outside the vocabulary of {vocab_size:,}: the token ids are damaged; "
                "tokenize the text again"
            )
        counts += found
    return counts


def text_size(counts: npt.NDArray[Any], tokenizer: Tokenizer) -> TextSize:
    """The size of the text that so many of each token stand for, special tokens not counted: they are no text.

    Args:
        counts: (V,) how often each token is there.
        tokenizer: a lossless one; others don't keep white space.
    """
    n_bytes = n_characters = 0
    specials = set(tokenizer.special_ids.values())
    for token in counts.nonzero()[0].tolist():
        if token not in specials:
            content = tokenizer.token_bytes(token)
            n_bytes += int(counts[token]) * len(content)
            # A character is counted with its first byte.
            n_characters += int(counts[token]) * sum(byte & 0xC0 != 0x80 for byte in content)
    return TextSize(n_bytes, n_characters)
