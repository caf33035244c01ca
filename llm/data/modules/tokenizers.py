"""The tokenizer of a data module, where it is ready."""

from __future__ import annotations

from collections.abc import Callable

from llm.config import TokenizerConfig
from llm.errors import ConfigError
from llm.pretrained import read_tokenizer
from llm.tokenizers import Tokenizer


def ready_tokenizer(
    tokenizer: TokenizerConfig | Tokenizer, read: Callable[[str], Tokenizer] = read_tokenizer
) -> Tokenizer | TokenizerConfig:
    """The tokenizer itself, or that of a checkpoint; else the configuration of the one that has to be built.

    Args:
        tokenizer: as a data module is given it.
        read: what takes it from a checkpoint.

    Raises:
        ConfigError: it is neither a tokenizer nor the configuration of one.
        CheckpointError: the checkpoint can't be read, or has no tokenizer.
    """
    if not isinstance(tokenizer, Tokenizer | TokenizerConfig):
        given = f"such as llm.TokenizerConfig('char'); got {tokenizer!r}"
        raise ConfigError(f"tokenizer must be a Tokenizer or a TokenizerConfig, {given}")
    if isinstance(tokenizer, Tokenizer) or tokenizer.checkpoint is None:
        return tokenizer
    return read(tokenizer.checkpoint)
