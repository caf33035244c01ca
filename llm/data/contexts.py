"""Rows of words for word vectors: frequent words thinned out, contexts of random width, noise words to be told from.

After Mikolov et al. 2013, https://arxiv.org/abs/1310.4546, sections 2.2 and 2.3, and their program word2vec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.data.batch import IGNORED
from llm.data.loader import DerivedRows, RowSource
from llm.data.order import keyed_uniforms
from llm.errors import DataError

NOISE_POWER = 0.75
"""Of a word's frequency: the noise distribution, section 2.2."""
_STREAM = 2
"""Makes these random numbers independent of those of the order and of masks, which have the same seeds."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class ContextBatch(NamedTuple):
    """Rows of words, the context of each, and noise words.

    Args:
        inputs: (B, T) int64, the words that were kept; after them, padding.
        targets: (B, T) int64, the same, with `IGNORED` as padding.
        lengths: (B) int64, how many words of each row are real.
        others: (P) int64, the words of all contexts, one context after the other, as places among the B T.
        sizes: (B, T) int64, how many words the context of each has; 0 for padding, and for a word alone in its row.
        noise: (B, N) int64, words drawn from the noise distribution, for all pairs of the row.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    others: Tensor
    sizes: Tensor
    noise: Tensor


class WordSampling:
    """Decides which words of a row are kept, how wide their contexts are, and what the noise words are.

    All of it depends only on (seed, epoch, index of the row), and on how often each word occurs.

    Args:
        counts: (V) how often each word occurs; words with a count of 0 are dropped, and are never noise.
        window: the widest reach of a context; that of each word is drawn from 1 to this.
        sample: t: a word of relative frequency f is kept with the probability sqrt(t / f) + t / f, as word2vec has it.
            0 keeps all.
        n_noise: N, noise words drawn for a row.
        seed: of all that is drawn.

    Raises:
        DataError: no word is left.
    """

    def __init__(self, counts: npt.NDArray[np.int64], window: int, sample: float, n_noise: int, seed: int) -> None:
        total = counts.sum()
        if total == 0:
            raise DataError(
                "no word occurs often enough to learn a vector for it; use a smaller min_count or more text"
            )
        self.window, self.n_noise, self.seed = window, n_noise, seed
        self.kept_fraction = _kept_fraction(counts / total, sample)
        noise = np.cumsum(counts.astype(np.float64) ** NOISE_POWER)
        self._noise = noise / noise[-1]

    def __call__(self, ids: npt.NDArray[np.int64], rows: Sequence[int], epoch: int) -> ContextBatch:
        """Draw for a batch.

        Args:
            ids: (B, T) words.
            rows: (B) which rows of the data these are.
            epoch: in each, other words are kept.
        """
        T = ids.shape[1]
        drawn = keyed_uniforms(self.seed, epoch, _STREAM, rows, 2 * T + self.n_noise)  # (B, 2 T + N)
        keep = drawn[:, :T] < self.kept_fraction[ids]
        lengths = keep.sum(1)
        longest = max(1, int(lengths.max()))
        order = np.argsort(~keep, axis=1, kind="stable")[:, :longest]  # kept words first, in their order
        is_real = np.arange(longest) < lengths[:, None]
        kept = np.where(is_real, np.take_along_axis(ids, order, 1), 0)
        reach = 1 + (drawn[:, T : T + longest] * self.window).astype(np.int64)
        noise = np.searchsorted(self._noise, drawn[:, 2 * T :], side="right")
        parts = (kept, np.where(is_real, kept, IGNORED), lengths, *contexts_of(reach, lengths), noise)
        return ContextBatch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def contexts_of(reach: Integers, lengths: Integers) -> tuple[Integers, Integers]:
    """Which words are in the context of which: real ones, near enough, and never the word itself.

    Args:
        reach: (B, T) how many words to each side of a word belong to its context.
        lengths: (B) how many words of a row are real.

    Returns:
        The words of all contexts, as places among the B T, (P); and how many those of each word are, (B, T).
    """
    B, T = reach.shape
    place = np.arange(T)
    reach = np.where(place < lengths[:, None], reach, 0)  # (B, T)
    widest = min(int(reach.max(initial=0)), T - 1)
    steps = np.concatenate([np.arange(-widest, 0), np.arange(1, widest + 1)])  # (W)
    near = place[:, None] + steps  # (T, W)
    is_context = (np.abs(steps) <= reach[..., None]) & (near >= 0) & (near < lengths[:, None, None])  # (B, T, W)
    others = (near + np.arange(0, B * T, T)[:, None, None])[is_context]  # (B, T, W) -> (P)
    return others, is_context.sum(-1)


class ContextRows(DerivedRows):
    """Rows of words whose contexts and noise words are drawn when a batch is gathered: others in every epoch.

    Args:
        rows: where the words are.
        sampling: draws.
    """

    def __init__(self, rows: RowSource, sampling: WordSampling) -> None:
        super().__init__(rows)
        self.sampling = sampling

    def gather(self, indices: Sequence[int], epoch: int) -> ContextBatch:
        """The batch of these rows, as drawn for this epoch."""
        return self.sampling(self.rows.gather(indices, epoch).inputs.numpy(), indices, epoch)


def _kept_fraction(frequencies: Floats, sample: float) -> Floats:
    """With which probability each word is kept, (V); 0 for words that don't occur."""
    occurs = frequencies > 0
    if sample == 0:
        return occurs.astype(np.float64)
    ratio = sample / np.where(occurs, frequencies, 1)
    return np.where(occurs, np.minimum(1, np.sqrt(ratio) + ratio), 0)
