"""The conversations of a corpus, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from llm.data.chat.errands import errands
from llm.data.chat.messages import ASSISTANT, Conversation, read_conversations
from llm.data.order import KeyedPermutation, n_held_out
from llm.errors import ConfigError

ERRANDS = "errands"
"""The corpus that comes with the code; see `llm.data.chat.errands`."""
Placed = tuple[str, Conversation]
"""A conversation, and where it stands."""
_SPLIT_SEED = 0


def read_corpus(corpus: str | list[str]) -> Iterator[Placed]:
    """The conversations of files of records, or the generated ones.

    Raises:
        ConfigError: a name is that of a folder.
        DataError: a file can't be read, or a record is none of the three forms.
    """
    for source in [corpus] if isinstance(corpus, str) else corpus:
        if source == ERRANDS:
            yield from _placed_errands("train")
        elif source == f"{ERRANDS}/held_out":
            yield from _placed_errands("held_out")
        elif Path(source).expanduser().is_dir():
            raise ConfigError(f"{source!r} is a folder; give the .json or .jsonl files in it")
        else:
            yield from read_conversations(Path(source).expanduser())


def held_out(found: Sequence[Placed], fraction: float) -> list[bool]:
    """Which conversations are for validation: a fraction of the different prompts, with all their answers.

    Args:
        found: the conversations of a corpus.
        fraction: from 0 to 1; chosen once for all seeds.
    """
    prompts = [tuple(message for message in each if message.role != ASSISTANT) for _, each in found]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    count = n_held_out(len(numbers), fraction)
    chosen = set(KeyedPermutation(len(numbers), _SPLIT_SEED, 0)(np.arange(count)).tolist()) if count else set()
    return [numbers[prompt] in chosen for prompt in prompts]


def _placed_errands(split: Literal["train", "held_out"]) -> Iterator[Placed]:
    return ((f"errand {number}", each) for number, each in enumerate(errands(split), start=1))
