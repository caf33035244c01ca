"""The errors that a user can act on.

Each message says what was expected, what was found, where, and what to do. The command line prints
the message as one line and exits non-zero; in Python they are ordinary exceptions to catch.
"""

from __future__ import annotations

import re

_NO_MEMORY = re.compile("can't allocate memory|out of memory|storage size calculation overflowed", re.IGNORECASE).search


class LLMError(Exception):
    """Base of every error that this package raises on purpose; its arguments are what is wrong, a sentence each."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class ConfigError(LLMError, ValueError):
    """A setting, or two settings together, that no run can have."""


class DataError(LLMError, ValueError):
    """A corpus that is missing, unreadable, empty or too short."""


class TokenizerError(LLMError, ValueError):
    """A text that a tokenizer can't encode, ids that it can't decode, or a tokenizer that can't be built."""


class CheckpointError(LLMError, RuntimeError):
    """A file that is no checkpoint of ours, is damaged, or does not fit this run."""


class GenerationError(LLMError, RuntimeError):
    """A text can't be continued: the model's scores are not numbers, for instance."""


class TrainingError(LLMError, RuntimeError):
    """Training can't go on: the loss or a gradient is no longer a number, for instance."""


def reason_of(error: BaseException) -> str | None:
    """What to tell a user about an error that no line of code is to blame for; None for all others."""
    if isinstance(error, LLMError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename!r}' if error.filename else ''}"
    if isinstance(error, MemoryError | RuntimeError) and (isinstance(error, MemoryError) or _NO_MEMORY(str(error))):
        return "there is not enough memory; use a smaller model, batch_size or context_length"
    return None
