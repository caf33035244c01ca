"""The tokenizer that belongs to weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm.config import GPTConfig
from llm.errors import CheckpointError, TokenizerError
from llm.pretrained.base import Pretrained
from llm.pretrained.layout import TOKEN
from llm.pretrained.roles import read_roles
from llm.pretrained.vocabulary_files import damage_is_said, nanogpt_vocabulary, read_folder, read_meta
from llm.runtime.words import counted
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
        try:
            tokenizer = _find(config, folder, notes)
        except TokenizerError as error:
            return _without(found, notes, str(error))
    elif given.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer that is given has {given.vocab_size:,} tokens, and the model {config.vocab_size:,}: it is "
            "another one's"
        )
    assert tokenizer is not None
    if tokenizer.vocab_size < config.vocab_size:
        unnamed = config.vocab_size - tokenizer.vocab_size
        of_all = f"of {config.vocab_size} rows"
        have = counted(unnamed, f"{of_all} has no token", f"{of_all} have no token")
        notes.append(f"the last {have}: kept as padding")
        config = pad_vocabulary(config, tokenizer.vocab_size)
    return dataclasses.replace(found, config=config, tokenizer=tokenizer, notes=tuple(notes), no_tokenizer=None)


def add_described_tokenizer(
    found: Pretrained, read: Callable[[], Tokenizer | None], given: Tokenizer | None = None
) -> Pretrained:
    """As `add_tokenizer`, where the format itself says what the tokenizer is.

    Args:
        found: weights that have no tokenizer yet.
        read: makes it; None if there is none. One that can't be used is told to the user.
        given: the tokenizer, where the user says which.
    """
    try:
        with damage_is_said():
            tokenizer = read() if given is None else given
    except TokenizerError as error:
        return _without(found, found.notes, f"its tokenizer can't be used ({error})")
    if tokenizer is None:
        return _without(found, found.notes, "there is no tokenizer")
    return add_tokenizer(found, None, tokenizer)


def _without(found: Pretrained, notes: Sequence[str], reason: str) -> Pretrained:
    """The weights without a tokenizer, and why."""
    note = f"{reason}: imported without one"
    return dataclasses.replace(found, tokenizer=None, notes=(*notes, note), no_tokenizer=note)


def _find(config: GPTConfig, folder: Path | None, notes: list[str]) -> Tokenizer:
    """The tokenizer of a folder; what a user should know is appended to the notes.

    Raises:
        TokenizerError: there is none that can be used.
    """
    try:
        tokenizer = None if folder is None else read_folder(folder, notes)
        if tokenizer is None and config.vocab_size in _GPT2_ROWS:
            tokenizer = BPETokenizer("gpt2")
            notes.append("there are no tokenizer files: taken for GPT-2's")
            if folder is not None:
                with damage_is_said(folder):
                    tokenizer = tokenizer.with_roles(read_roles(folder, tokenizer, notes))
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise TokenizerError(f"it has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    except (CheckpointError, TokenizerError) as error:
        is_named = repr(str(folder)) in str(error)
        raise TokenizerError(
            str(error) if is_named else f"the tokenizer in {str(folder)!r} can't be used ({error})"
        ) from error
    if tokenizer is None:
        raise TokenizerError("there are no tokenizer files")
    return tokenizer


def replace_tokenizer(found: Pretrained, given: Tokenizer | None) -> Pretrained:
    """Weights with the tokenizer that the user gives, in place of their own.

    Raises:
        CheckpointError: it has more tokens than the tables have rows.
    """
    if given is None:
        return found
    rows = len(found.weights[TOKEN])
    config = dataclasses.replace(found.config, vocab_size=rows, vocab_multiple=1)
    return add_tokenizer(dataclasses.replace(found, config=config, tokenizer=None), None, given)


def add_nanogpt_tokenizer(found: Pretrained, checkpoint: Path, config: Any, given: Tokenizer | None) -> Pretrained:
    """As `add_tokenizer`, where the characters may be those of the data set that a nanoGPT checkpoint names.

    Args:
        found: its weights.
        checkpoint: the file.
        config: what it says of its run, with the name of the data set.
        given: the tokenizer, where the user says which.
    """
    path = nanogpt_vocabulary(checkpoint, config.get("dataset") if isinstance(config, dict) else None)
    if given is None and path is not None:
        try:
            characters = read_meta(path)
            if characters.vocab_size == found.config.vocab_size:
                note = f"the characters are those of {str(path)!r}, the data set of its run"
                return add_tokenizer(dataclasses.replace(found, notes=(*found.notes, note)), None, characters)
            note = (
                f"{str(path)!r} has {characters.vocab_size} characters, the model {found.config.vocab_size}: not used"
            )
        except (CheckpointError, TokenizerError) as error:
            note = f"not used: {error}"
        found = dataclasses.replace(found, notes=(*found.notes, note))
    return add_tokenizer(found, None, given)


def pad_vocabulary(config: GPTConfig, vocab_size: int) -> GPTConfig:
    """The same tables with fewer tokens: the rows from `vocab_size` on are padding."""
    rows = config.vocab_size
    powers = (2**exponent for exponent in range(10, 0, -1))
    multiple = next((power for power in powers if -(-vocab_size // power) * power == rows), rows)
    return dataclasses.replace(config, vocab_size=vocab_size, vocab_multiple=multiple)
