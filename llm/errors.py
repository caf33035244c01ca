"""The errors that a user can act on.

Each message says what was expected, what was found, where, and what to do. The command line prints
the message as one line and exits non-zero; in Python they are ordinary exceptions to catch.
"""


class LLMError(Exception):
    """Base of every error that this package raises on purpose."""


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
