"""The prompts that `predict` continues."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from llm.data.sources import read_document
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
    """The prompts in a file, one a line; empty lines are left out.

    Raises:
        DataError: the file can't be read or is empty.
        TokenizerError: a prompt can't be encoded; says which line.
    """
    prompts = []
    for line, text in enumerate(read_document(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            prompts.append(Prompt(line, text, torch.tensor(tokenizer.encode(text))))
        except TokenizerError as error:
            raise TokenizerError(f"{str(path)!r}, prompt on line {line}: {error}") from error
    return Prompts(prompts)
