"""Which rows make up which batch: a pure function of (seed, epoch, position), which is all that a resumed run needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llm.errors import ConfigError

Indices = npt.NDArray[np.int64]

_ROUNDS = 8
_BATCHES_AHEAD = 64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: the step of SplitMix64."""
_POOL_BATCHES = 100


class KeyedPermutation:
    """A shuffle of `range(n)` that is computed, not stored: each element on its own, from (n, seed, epoch).

    A Feistel network permutes the next power of two; values outside the range are permuted again until they
    fall inside (cycle walking; Black and Rogaway 2002, https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf).

    Args:
        n: number of elements, at least 1.
        seed: chooses the shuffle, at least 0.
        epoch: chooses another one for every epoch.
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        self.n = np.uint64(n)
        bits = max(2, (n - 1).bit_length())
        self._half_bits = (np.uint64(bits // 2), np.uint64(bits - bits // 2))
        self._keys = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)

    def __call__(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The elements at these positions of the shuffled range."""
        elements = self._permute(np.asarray(positions, dtype=np.uint64))
        while (outside := elements >= self.n).any():
            elements[outside] = self._permute(elements[outside])
        return elements.astype(np.int64)

    def _permute(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        low_bits, high_bits = self._half_bits
        one = np.uint64(1)
        low_mask, high_mask = (one << low_bits) - one, (one << high_bits) - one
        low, high = values & low_mask, values >> low_bits
        for first, second in self._keys.reshape(-1, 2):
            low = low ^ (_mix(high ^ first) & low_mask)
            high = high ^ (_mix(low ^ second) & high_mask)
        return (high << low_bits) | low


class BatchOrder:
    """Batches of row indices whose order depends only on (seed, epoch, position).

    The rows are windows or examples. `world_size` processes divide an epoch among them: each batch of all of them
    together is the next `world_size * batch_size` positions, of which process `rank` takes its slice. Every process
    gets the same number of batches. The remainder is dropped, or with `drop_last=False` divided evenly into one shorter
    batch each; only if fewer rows are left than there are processes do some of them see the same row.

    Args:
        n_rows: number of rows.
        batch_size: B, rows in a batch of one process.
        shuffle: a new shuffle every epoch, or ascending.
        drop_last: skip a last batch that is not full.
        seed: of the shuffle.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        n_rows: int,
        batch_size: int,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int = 123,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Make the next iteration that of `epoch`, from batch `start_batch` of it on."""
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Number of batches in a whole epoch, wherever the next iteration starts."""
        whole, rest = divmod(self.n_rows, self.batch_size * self.world_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        batches = range(self.start_batch, len(self))
        rows_at = self.permutation(self.epoch) if batches else np.asarray
        for first in range(0, len(batches), _BATCHES_AHEAD):  # many at once: the cost is per call
            slices = [self._slice(batch) for batch in batches[first : first + _BATCHES_AHEAD]]
            positions = np.fromiter(itertools.chain.from_iterable(slices), np.int64)
            rows = iter(rows_at(positions).tolist())
            for positions_of_batch in slices:
                yield list(itertools.islice(rows, len(positions_of_batch)))

    def rows_of(self, epoch: int, batch: int) -> list[int]:
        """The rows of one batch of an epoch, wherever the iteration is."""
        return self.permutation(epoch)(np.asarray(self._slice(batch))).tolist()

    def permutation(self, epoch: int) -> Callable[[Indices], Indices]:
        """The rows at given positions of an epoch."""
        return KeyedPermutation(self.n_rows, self.seed, epoch) if self.shuffle else np.asarray

    def _slice(self, batch: int) -> range:
        """The positions in the epoch that make up this process's batch."""
        start = batch * self.batch_size * self.world_size
        count = min(self.batch_size * self.world_size, self.n_rows - start)
        if count < self.world_size:
            mine = start + self.rank % count
            return range(mine, mine + 1)
        return range(start + count * self.rank // self.world_size, start + count * (self.rank + 1) // self.world_size)


class SpreadOrder(BatchOrder):
    """Some of the rows, spread evenly over all, in ascending order and each once.

    Args:
        n_rows: number of rows.
        most: how many of them; None for all.
        batch_size: B, rows in a batch of one process.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, n_rows: int, most: int | None, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.of_rows = n_rows
        n_rows = n_rows if most is None else min(most, n_rows)
        super().__init__(n_rows, batch_size, False, False, rank=rank, world_size=world_size)

    def permutation(self, epoch: int) -> Callable[[Indices], Indices]:
        """The rows at given positions, the same in every epoch."""
        del epoch
        return lambda positions: (2 * positions + 1) * self.of_rows // (2 * self.n_rows)  # the middle of each part


class LengthOrder(BatchOrder):
    """Batches of rows of similar length, so that little of a batch is padding.

    The rows are shuffled and divided into large pools; each pool is sorted by length and cut into batches, and then the
    batches are shuffled. The rows that don't fill a last batch are set aside before that, so that with `drop_last`
    no length is skipped more often than others, and each epoch skips different rows. Without `shuffle`, all rows
    are sorted by length. Takes memory for one integer for each row, and no more state than a `BatchOrder`.

    Args:
        lengths: (N) tokens in each row.
        batch_size: B, rows in a batch of one process.
        shuffle: a new shuffle every epoch, or ascending by length.
        drop_last: skip a last batch that is not full.
        seed: of the shuffle.
        rank: this process.
        world_size: number of processes.
        pool_batches: size of a pool, in batches of all processes together: the more, the less padding.

    Raises:
        ConfigError: `pool_batches` is below 1.
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        batch_size: int,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int = 123,
        rank: int = 0,
        world_size: int = 1,
        pool_batches: int = _POOL_BATCHES,
    ) -> None:
        if pool_batches < 1:
            raise ConfigError(f"pool_batches must be at least 1, got {pool_batches}")
        self.lengths = np.asarray(lengths)
        self.pool_batches = pool_batches
        self._arranged: tuple[int, Indices] | None = None
        super().__init__(len(self.lengths), batch_size, shuffle, drop_last, seed, rank, world_size)

    def permutation(self, epoch: int) -> Callable[[Indices], Indices]:
        """The rows at given positions of an epoch."""
        if self._arranged is None or self._arranged[0] != epoch:
            arranged = self._shuffled_batches(epoch) if self.shuffle else np.argsort(self.lengths, kind="stable")
            self._arranged = (epoch, arranged)
        return self._arranged[1].__getitem__

    def _shuffled_batches(self, epoch: int) -> Indices:
        at_once = self.batch_size * self.world_size
        n_batches = self.n_rows // at_once
        shuffled = KeyedPermutation(self.n_rows, self.seed, epoch)(np.arange(self.n_rows))
        full, rest = np.split(shuffled, [n_batches * at_once])
        pool_rows = self.pool_batches * at_once
        pools = [full[start : start + pool_rows] for start in range(0, len(full), pool_rows)]
        by_length = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        if n_batches:
            batches = np.concatenate(by_length).reshape(n_batches, at_once)
            full = batches[KeyedPermutation(n_batches, self.seed, epoch)(np.arange(n_batches))].reshape(-1)
        return np.concatenate([full, rest])


class BalancedOrder(LengthOrder):
    """As a `LengthOrder`, but an epoch has as many rows of every class as the most frequent class has.

    Rows of the rarer classes come several times, each as often as the others of its class or once more; which those are
    changes with the epoch.

    Args:
        classes: (N) the class of each row.
        lengths: (N) tokens in each row.
        **options: those of a `LengthOrder`.
    """

    def __init__(self, classes: npt.ArrayLike, lengths: npt.ArrayLike, **options: Any) -> None:
        classes = np.asarray(classes)
        self.members = [np.flatnonzero(classes == found) for found in np.unique(classes)]
        self.most = max((len(rows) for rows in self.members), default=0)
        self._options = options
        self._by_epoch: tuple[int, Indices] | None = None
        super().__init__(lengths, **options)
        self.n_rows = len(self.members) * self.most

    def permutation(self, epoch: int) -> Callable[[Indices], Indices]:
        """The rows at given positions of an epoch."""
        if self._by_epoch is None or self._by_epoch[0] != epoch:
            rows = np.concatenate([self._repeated(rows, epoch) for rows in self.members])
            order = LengthOrder(self.lengths[rows], **self._options).permutation(epoch)
            self._by_epoch = (epoch, rows[order(np.arange(self.n_rows))])
        return self._by_epoch[1].__getitem__

    def _repeated(self, rows: Indices, epoch: int) -> Indices:
        times, more = divmod(self.most, len(rows))
        chosen = KeyedPermutation(len(rows), self.seed, epoch)(np.arange(more))
        return np.concatenate([np.tile(rows, times), rows[chosen]])


def padding_fraction(batches: Iterable[Sequence[int]], lengths: npt.ArrayLike) -> float:
    """The fraction of all positions of some batches that is padding; 0 for no batches.

    Args:
        batches: row indices, each batch padded to its longest row.
        lengths: (N) tokens in each row.
    """
    lengths = np.asarray(lengths)
    positions = tokens = 0
    for batch in batches:
        found = lengths[np.asarray(batch)]
        positions += len(found) * int(found.max())
        tokens += int(found.sum())
    return 1 - tokens / positions if positions else 0.0


def keyed_uniforms(seed: int, epoch: int, stream: int, rows: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1) that belong to a row: those of SplitMix64, each computed on its own.

    Args:
        seed: at least 0.
        epoch: each has numbers of its own.
        stream: what they are for, so that two uses with the same seed are independent.
        rows: (B) indices of rows.
        n: how many for each row.

    Returns:
        (B, n).
    """
    key = np.random.SeedSequence([seed, epoch], spawn_key=(stream,)).generate_state(2, np.uint64)
    first = _mix(np.asarray(rows, np.uint64)[:, None] * _GOLDEN ^ key[0])  # (B, 1), where in the sequence a row begins
    bits = _mix(first + np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN ^ key[1])  # (B, n)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every bit over all others (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
