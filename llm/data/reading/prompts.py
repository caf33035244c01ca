"""Prompts to continue: one a line, from a file or any other text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from llm.data.reading.sources import read_document
from llm.errors import TokenizerError
from llm.tokenizers import Tokenizer


class Prompt(NamedTuple):
    """One prompt."""

    line: int
    """Its line in the file, from 1."""
    text: str
    ids: Tensor
    """(T,) its token ids."""


class Prompts(Dataset[Prompt]):
    """Prompts in the order of their lines."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        """One prompt."""
        return self.prompts[index]


def read_prompts(path: str | Path, tokenizer: Tokenizer) -> Prompts:
    """The prompts in a file, one a line; empty lines are skipped.

    Raises:
        DataError: the file can't be read or is empty.
        TokenizerError: a prompt can't be encoded; says which line.
    """
    return Prompts(encode_prompts(read_document(path).split("\n"), tokenizer, repr(str(path))))


def encode_prompts(lines: Sequence[str], tokenizer: Tokenizer, source: str) -> list[Prompt]:
    """The prompts in some lines; empty ones are skipped.

    Raises:
        TokenizerError: a prompt can't be encoded; says in which source, on which line.
    """
    prompts = []
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            ids = torch.tensor(tokenizer.encode_prompt(text))
        except TokenizerError as error:
            raise TokenizerError(f"{source}, prompt on line {line}: {error}") from error
        prompts.append(Prompt(line, text, ids))
    return prompts
