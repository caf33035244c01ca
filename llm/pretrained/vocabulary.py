"""The tokenizer that belongs to weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from llm.config import GPTConfig
from llm.errors import CheckpointError, TokenizerError
from llm.pretrained.base import Pretrained
from llm.pretrained.roles import read_roles
from llm.pretrained.tokenizer_files import read_tokenizer_files
from llm.tokenizers import BPETokenizer, Tokenizer

_GPT2_ROWS = range(50257, 51201)
"""Rows of a table that may be GPT-2's vocabulary with padding, where no files say what it is."""


def add_tokenizer(found: Pretrained, folder: Path | None, given: Tokenizer | None = None) -> Pretrained:
    """The weights with their tokenizer, if it can be determined.

    It is the one that is given, or whose files are in the folder; without such files GPT-2's, if the vocabulary has its
    size. Rows of the tables that it has no token for become padding: they are kept, and never generated.

    Args:
        found: weights that have no tokenizer yet.
        folder: where tokenizer files are looked for, or None.
        given: the tokenizer, where the user says which.

    Raises:
        CheckpointError: the tokenizer that is given has more tokens than the tables have rows.
    """
    config, notes = found.config, list(found.notes)
    tokenizer = given
    if given is None:
        tokenizer = _find(config, folder, notes)
    elif given.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer that is given has {given.vocab_size:,} tokens, and the model {config.vocab_size:,}: it is "
            "another one's"
        )
    if tokenizer is not None and tokenizer.vocab_size < config.vocab_size:
        unnamed = config.vocab_size - tokenizer.vocab_size
        notes.append(f"the last {unnamed} of {config.vocab_size} rows have no token: kept as padding")
        config = pad_vocabulary(config, tokenizer.vocab_size)
    return dataclasses.replace(found, config=config, tokenizer=tokenizer, notes=tuple(notes))


def _find(config: GPTConfig, folder: Path | None, notes: list[str]) -> Tokenizer | None:
    """The tokenizer of a folder; what a user should know is appended to the notes."""
    try:
        tokenizer = None if folder is None else read_tokenizer_files(folder)
        if tokenizer is None and config.vocab_size not in _GPT2_ROWS:
            notes.append("there are no tokenizer files: imported without a tokenizer")
            return None
        if tokenizer is None:
            tokenizer = BPETokenizer("gpt2")
            notes.append("there are no tokenizer files: taken for GPT-2's")
        if tokenizer.vocab_size > config.vocab_size:
            raise TokenizerError(f"it has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
        return tokenizer if folder is None else tokenizer.with_roles(read_roles(folder, tokenizer, notes))
    except (CheckpointError, TokenizerError, ValueError, KeyError, TypeError, AttributeError) as error:
        notes.append(f"the tokenizer in {str(folder)!r} can't be used ({error}): imported without one")
        return None


def pad_vocabulary(config: GPTConfig, vocab_size: int) -> GPTConfig:
    """The same tables with fewer tokens: the rows from `vocab_size` on are padding."""
    rows = config.vocab_size
    powers = (2**exponent for exponent in range(10, 0, -1))
    multiple = next((power for power in powers if -(-vocab_size // power) * power == rows), rows)
    return dataclasses.replace(config, vocab_size=vocab_size, vocab_multiple=multiple)
