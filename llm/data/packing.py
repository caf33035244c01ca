"""Several samples in one row, so that little of a batch is padding."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from llm.data.batch import TokenBatch
from llm.data.collate import Row, collate
from llm.data.examples import Examples


def pack(lengths: npt.ArrayLike, capacity: int) -> list[list[int]]:
    """Which samples share a row: the longest first, each into the row with the most room (worst fit decreasing).

    Args:
        lengths: (N) tokens in each sample, none more than the capacity.
        capacity: T, the most tokens of a row.

    Returns:
        The samples of each row, by number, in ascending order.
    """
    lengths = np.asarray(lengths)
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (minus what is free, row), the roomiest first
    for sample in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[sample])
        if room and -room[0][0] >= length:
            free, row = room[0]
            rows[row].append(sample)
            heapq.heapreplace(room, (free + length, row))
        else:
            rows.append([sample])
            heapq.heappush(room, (length - capacity, len(rows) - 1))
    return [sorted(row) for row in rows]


class PackedExamples(Dataset[Row]):
    """Samples packed into rows, in which none sees another; the same rows in every epoch.

    Args:
        examples: the samples.
        context_length: T, the most tokens of a row.
    """

    def __init__(self, examples: Examples, context_length: int) -> None:
        self.examples = examples
        self.rows = pack(examples.lengths, context_length)
        self.starts = np.array([examples.starts[row[0]] for row in self.rows], np.int64)
        self.lengths = np.array([int(examples.lengths[row].sum()) for row in self.rows], np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        """One row: inputs (T,) and targets (T,) of its samples, one after the other."""
        parts = [self.examples[sample] for sample in self.rows[index]]
        return np.concatenate([inputs for inputs, _ in parts]), np.concatenate([targets for _, targets in parts])

    def gather(self, indices: Sequence[int], epoch: int = 0) -> TokenBatch:
        """A batch of rows, padded to the longest of them; padding is a document of its own."""
        del epoch
        batch = collate([self[index] for index in indices])
        documents = torch.zeros_like(batch.inputs)
        for number, index in enumerate(indices):
            ends = np.cumsum(self.examples.lengths[self.rows[index]])
            places = np.arange(batch.inputs.shape[1])
            documents[number] = torch.from_numpy(np.searchsorted(ends, places, side="right"))
        return batch._replace(documents=documents)
