"""Examples of a store, gathered to batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from llm.data.batch import TokenBatch
from llm.data.collate import Row, collate
from llm.data.tokens.examples import ExampleStore
from llm.errors import DataError


class Examples(Dataset[Row]):
    """All examples of a store, or some of them, gathered on demand.

    Args:
        store: where they are.
        numbers: (N) which of them, by their numbers in the store. Default: all.
        vocab_size: every token id must be below it; None for no limit.
    """

    def __init__(
        self, store: ExampleStore, numbers: npt.ArrayLike | None = None, vocab_size: int | None = None
    ) -> None:
        self.store = store
        self.vocab_size = vocab_size
        self.numbers = np.arange(store.n_examples) if numbers is None else np.asarray(numbers, np.int64)
        ends = np.asarray(store.ends)  # (n_examples)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        self.starts = starts[self.numbers]  # (N) where in the store's tokens each begins
        self.lengths = ends[self.numbers] - self.starts  # (N)
        self._inputs, self._targets = store.inputs, store.targets

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Row:
        """One example: inputs (T,) and targets (T,)."""
        positions = np.arange(self.lengths[index]) + self.starts[index]
        return self._inputs[positions], self._targets[positions]

    def gather(self, indices: Sequence[int], epoch: int = 0) -> TokenBatch:
        """A batch of examples, padded to the longest of them; the same in every epoch.

        Raises:
            DataError: an id is outside the vocabulary, so the files are damaged.
        """
        del epoch
        batch = collate([self[index] for index in indices])
        if self.vocab_size is not None and (largest := int(batch.inputs.max())) >= self.vocab_size:
            raise DataError(
                f"token id {largest} is outside the vocabulary of {self.vocab_size:,}: {str(self.store.path)!r} is "
                "damaged; remove the folder, so that it is made again"
            )
        return batch
