"""Pairs of sentences as token ids, gathered to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from llm.data.batch import IGNORED, TokenBatch
from llm.data.collate import Row, collate

Ids = npt.NDArray[np.unsignedinteger[Any]]


class Ragged:
    """Rows of unequal length, one after the other in one array: small to pickle, and quick to cut.

    Args:
        rows: each (T,) token ids.
    """

    def __init__(self, rows: Sequence[Ids]) -> None:
        self.values = np.concatenate([np.zeros(0, np.uint32), *rows])
        self.lengths = np.array([len(row) for row in rows], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths

    def __getitem__(self, index: int) -> Ids:
        return self.values[self.starts[index] : self.starts[index] + self.lengths[index]]


class TranslationRows(Dataset[tuple[Ids, Row]]):
    """Pairs of a split, each as the encoder and the decoder get it.

    The source ends with the end token. The decoder reads the end token, which so begins every target, and the target;
    it is to predict the target and the end token.

    Args:
        sources: token ids of each source.
        targets: token ids of each target.
        source_end_id: the end token of the source's tokenizer.
        end_id: the end token of the target's tokenizer.
    """

    def __init__(self, sources: Sequence[Ids], targets: Sequence[Ids], source_end_id: int, end_id: int) -> None:
        self.sources, self.targets = Ragged(sources), Ragged(targets)
        self.source_end_id, self.end_id = source_end_id, end_id

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where in the targets' tokens each begins."""
        return self.targets.starts

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N) tokens of source and target together, the end tokens with them."""
        return self.sources.lengths + self.targets.lengths + 2

    def __len__(self) -> int:
        return len(self.targets.lengths)

    def __getitem__(self, index: int) -> tuple[Ids, Row]:
        """Source ids (S,), and the decoder's inputs and targets, (T,) each."""
        target = self.targets[index].astype(np.int64)
        row = np.concatenate([[self.end_id], target]), np.concatenate([target, [self.end_id]])
        return np.append(self.sources[index], np.uint32(self.source_end_id)), row

    def gather(self, indices: Sequence[int], epoch: int = 0) -> TokenBatch:
        """A batch of pairs, both sides padded to the longest of them; the same in every epoch."""
        del epoch
        sources, rows = zip(*(self[index] for index in indices), strict=True)
        source = collate([(ids, np.full(len(ids), IGNORED)) for ids in sources])
        return collate(rows)._replace(source=source.inputs, source_lengths=source.lengths)
