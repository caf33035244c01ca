"""Rows of unequal length, collated to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llm.data.batch import IGNORED, TokenBatch

Row = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Inputs (T,) and targets (T,) of one row."""


def collate(rows: Sequence[Row]) -> TokenBatch:
    """A batch of rows, padded at the end to the longest of them.

    `lengths` alone says what is padding. Pads have the id 0, which other tokens may have too, and no target.

    Args:
        rows: B rows, each of at least one token.

    Returns:
        inputs and targets (B, T) and lengths (B), where T is the length of the longest row.
    """
    lengths = np.array([len(inputs) for inputs, _ in rows], np.int64)
    shape = (len(rows), int(lengths.max()))
    inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    for number, (row_inputs, row_targets) in enumerate(rows):
        inputs[number, : len(row_inputs)] = row_inputs
        targets[number, : len(row_targets)] = row_targets
    return TokenBatch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(lengths))
