"""Token ids cut into windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from llm.data.batch import TokenBatch
from llm.data.tokens.mapped import TokenArray
from llm.errors import ConfigError, DataError


def window_starts(n_tokens: int, context_length: int, stride: int) -> range:
    """Where the windows begin: every `stride` tokens, as long as a window and its last target fit."""
    return range(0, n_tokens - context_length, stride)


class SlidingWindows(Dataset[tuple[Tensor, Tensor]]):
    """Windows over token ids, gathered on demand; nothing is stored per window.

    Args:
        tokens: (N,) token ids, usually memory-mapped.
        context_length: T, tokens in a window.
        stride: tokens from the beginning of one window to the next.
        vocab_size: every id must be below it; None for no limit.
        end_id: the token that stands before every document but the first: attention is then not to see across it. It is
            the first token of the document, so that the first word is predicted from it alone. None: a window is one.

    Raises:
        ConfigError: the context length or the stride is below 1.
    """

    def __init__(
        self,
        tokens: TokenArray,
        context_length: int,
        stride: int,
        vocab_size: int | None = None,
        end_id: int | None = None,
    ) -> None:
        for name, value in (("context_length", context_length), ("stride", stride)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self.tokens = tokens
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.end_id = end_id
        self.starts = window_starts(len(tokens), context_length, stride)
        self._offsets = np.arange(context_length + 1)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One window: inputs (T,) and targets (T,)."""
        batch = self.gather([index])
        return batch.inputs[0], batch.targets[0]

    def gather(self, indices: Sequence[int], epoch: int = 0) -> TokenBatch:
        """A batch of windows: inputs (B, T), and targets (B, T), the inputs shifted by one; the same in every epoch.

        Raises:
            DataError: an id is outside the vocabulary, so the files are damaged.
        """
        del epoch
        starts = np.array([self.starts[index] for index in indices])
        windows = self.tokens[starts[:, None] + self._offsets]  # (B, 1) + (T + 1,) -> (B, T + 1)
        if self.vocab_size is not None and (largest := int(windows.max())) >= self.vocab_size:
            row, column = np.argwhere(windows == largest)[0].tolist()
            raise DataError(
                f"token id {largest} at position {starts[row] + column:,} is outside the vocabulary of "
                f"{self.vocab_size:,}: the token ids are damaged; tokenize the text again"
            )
        ids = torch.from_numpy(windows.astype(np.int64))
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        documents = None if self.end_id is None else (inputs == self.end_id).cumsum(dim=1)
        return TokenBatch(inputs, targets, documents=documents)
