"""A batch, as the training step of every task gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

IGNORED = -100
"""A target of this value is not supervised: it adds nothing to the loss and is not counted."""


class TokenBatch(NamedTuple):
    """Rows of token ids, and the target at each of their positions.

    Args:
        inputs: (B, T) int64, token ids.
        targets: (B, T) int64, the token to be predicted at each position; for a language model the inputs shifted by
            one. `IGNORED` where nothing is supervised.
        lengths: (B) int64, how many tokens of each row are real; the rest is padding. None where all are.
        source: (B, S) int64, where each row is a translation, the token ids of what it translates.
        source_lengths: (B) int64, how many tokens of each source are real. None where all are.
        documents: (B, T) int64, the number of the document that each token belongs to, where a row holds several: no
            token sees another document, and positions begin anew in each. None where a row is one document.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    source: Tensor | None = None
    source_lengths: Tensor | None = None
    documents: Tensor | None = None

    @classmethod
    def of(cls, batch: TokenBatch | Sequence[Tensor]) -> TokenBatch:
        """A batch of any loader that yields inputs and targets, and possibly lengths.

        A batch of a kind of its own that names its inputs, targets and lengths, and has more, stays what it is.
        """
        return batch if hasattr(batch, "lengths") else cls(*batch)  # type: ignore[return-value]
