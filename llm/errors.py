"""The errors that a user can act on.

Each message says what was expected, what was found, where, and what to do. The command line prints
the message as one line and exits non-zero; in Python they are ordinary exceptions to catch.
"""

from __future__ import annotations

import math
import re

HOW_TO_RESUME = "resume from the last checkpoint with --ckpt_path last"

_LOST_WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (\w[\w ]*)|exited)"
).search
_LOST_PEER = re.compile(
    "connection (?:closed|reset) by peer|broken pipe|NCCL communicator was aborted|remote process exited", re.IGNORECASE
).search
_SIZES = re.compile(r"overflowed with sizes=\[([\d, ]+)\]").search
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (\w+)").search
_NO_MEMORY = re.compile("can't allocate memory|out of memory|storage size calculation overflowed", re.IGNORECASE).search


class LLMError(Exception):
    """Base of every error that this package raises on purpose; its arguments are what is wrong, a sentence each."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class ConfigError(LLMError, ValueError):
    """An invalid setting, or two settings that contradict each other."""


class DataError(LLMError, ValueError):
    """A corpus that is missing, unreadable, empty or too short."""


class TokenizerError(LLMError, ValueError):
    """A string that a tokenizer can't encode, ids that it can't decode, or a tokenizer that can't be built."""


class CheckpointError(LLMError, RuntimeError):
    """A file that is not a checkpoint of ours, is damaged, or does not fit this run."""


class OtherTaskError(CheckpointError):
    """A checkpoint of a task other than was asked for.

    Args:
        message: as of every error.
        task: the word of the checkpoint's.
    """

    def __init__(self, message: str, task: str) -> None:
        super().__init__(message)
        self.task = task


class GenerationError(LLMError, RuntimeError):
    """A text can't be continued: the model's logits are NaN, for instance."""


class TrainingError(LLMError, RuntimeError):
    """Training can't continue: the loss or a gradient is NaN or infinite, for instance."""


def first_line_of(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def reason_of(error: BaseException) -> str | None:
    """The message for an error that is not a bug, such as a full disk; None for all others."""
    if isinstance(error, LLMError):
        message = str(error)
        if "Original Traceback" in message:  # of a DataLoader worker: what it raised comes last
            message = message.strip().splitlines()[-1].partition(": ")[2]
        return message
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename!r}' if error.filename else ''}"
    if isinstance(error, MemoryError | RuntimeError) and (isinstance(error, MemoryError) or _NO_MEMORY(str(error))):
        return f"there is not enough memory{_asked_for(str(error))}; use a smaller model, batch_size or context_length"
    return _loss_of_a_process(error)


def _asked_for(message: str) -> str:
    """How much memory torch wanted, where it says so."""
    if sizes := _SIZES(message):
        each = [int(size) for size in sizes[1].split(",") if size.strip()]
        shape = " x ".join(f"{size:,}" for size in each)
        return f": a tensor of {shape} values would take {4 * math.prod(each) / 1e12:,.0f} TB in float32"
    if asked := _ASKED(message):
        amount = f"{int(asked[1]) / 1e9:,.2f} GB" if asked[2] == "bytes" else f"{asked[1]} {asked[2]}"
        return f": {amount} more were asked for"
    return ""


def _loss_of_a_process(error: BaseException) -> str | None:
    """The message for an error that comes of a lost process of the run; None for all others.

    torch notices a lost DataLoader worker in a signal handler, so anywhere, and other code may wrap the error.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, RuntimeError) and (lost := _LOST_WORKER(str(found))):
            how = f" ({lost[2].strip().lower()})" if lost[2] else ""
            return (
                f"the process {lost[1]}, which loads data, has ended{how}, perhaps out of memory; {HOW_TO_RESUME}; "
                "if it happens again, with fewer --data.num_workers"
            )
        found = found.__cause__ or found.__context__
    if isinstance(error, RuntimeError) and _LOST_PEER(str(error)):
        return f"another process of this run has ended, and so does this one; {HOW_TO_RESUME}"
    return None
