"""Token ids cut into windows, and the order in which a run sees them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llm.data.tokens.mapped import TokenArray
from llm.errors import ConfigError, DataError
from llm.runtime.process import shield_worker

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, both (B, T) and int64; the targets are the inputs moved by one token."""

_ROUNDS = 8
_BATCHES_AHEAD = 64


def window_starts(n_tokens: int, context_length: int, stride: int) -> range:
    """Where the windows begin: every `stride` tokens, as long as a window and its last target fit."""
    return range(0, n_tokens - context_length, stride)


class SlidingWindows(Dataset[Batch]):
    """Windows over token ids, gathered when they are asked for; nothing is kept per window.

    Args:
        tokens: (N,) token ids, usually memory-mapped.
        context_length: T, tokens in a window.
        stride: tokens from the beginning of one window to the next.
        vocab_size: what every id must be below; None for no limit.

    Raises:
        ConfigError: the context length or the stride is below 1.
    """

    def __init__(self, tokens: TokenArray, context_length: int, stride: int, vocab_size: int | None = None) -> None:
        for name, value in (("context_length", context_length), ("stride", stride)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self.tokens = tokens
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.starts = window_starts(len(tokens), context_length, stride)
        self._offsets = np.arange(context_length + 1)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Batch:
        """One window: inputs (T,) and targets (T,)."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A batch of windows: inputs (B, T) and targets (B, T).

        Raises:
            DataError: an id is outside the vocabulary, so the files are damaged.
        """
        starts = np.array([self.starts[index] for index in indices])
        windows = self.tokens[starts[:, None] + self._offsets]  # (B, 1) + (T + 1,) -> (B, T + 1)
        if self.vocab_size is not None and (largest := int(windows.max())) >= self.vocab_size:
            row, column = np.argwhere(windows == largest)[0].tolist()
            raise DataError(
                f"token id {largest} at position {starts[row] + column:,} is outside the vocabulary of "
                f"{self.vocab_size:,}: the token ids are damaged; tokenize the text again"
            )
        ids = torch.from_numpy(windows.astype(np.int64))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


class KeyedPermutation:
    """A shuffle of `range(n)` that is computed, not stored: each element on its own, from (n, seed, epoch).

    A Feistel network permutes the next power of two; what falls outside the range is permuted again until it
    falls inside (cycle walking; Black and Rogaway 2002, https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf).

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
        """The elements that stand at these positions of the shuffled range."""
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


class WindowOrder:
    """Batches of window indices whose order depends on nothing but (seed, epoch, position).

    `world_size` processes share an epoch: each batch of all of them together is the next `world_size * batch_size`
    positions, of which process `rank` takes its slice. Every process gets as many batches. What is left at the end
    is dropped, or with `drop_last=False` shared out evenly as one shorter batch each; only if fewer windows are
    left than there are processes do some of them see the same window.

    Args:
        n_windows: number of windows.
        batch_size: B, windows in a batch of one process.
        shuffle: a new shuffle every epoch, or ascending.
        drop_last: leave out a last batch that is not full.
        seed: of the shuffle.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        n_windows: int,
        batch_size: int,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int = 123,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.n_windows = n_windows
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
        whole, rest = divmod(self.n_windows, self.batch_size * self.world_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        batches = range(self.start_batch, len(self))
        permutation = KeyedPermutation(self.n_windows, self.seed, self.epoch) if self.shuffle else None
        for first in range(0, len(batches), _BATCHES_AHEAD):  # many at once: a call costs more than an element
            slices = [self._slice(batch) for batch in batches[first : first + _BATCHES_AHEAD]]
            positions = np.fromiter(itertools.chain.from_iterable(slices), np.int64)
            windows = iter((permutation(positions) if permutation else positions).tolist())
            for positions_of_batch in slices:
                yield list(itertools.islice(windows, len(positions_of_batch)))

    def windows_of(self, epoch: int, batch: int) -> list[int]:
        """The windows of one batch of an epoch, wherever the iteration is."""
        positions = self._slice(batch)
        permutation = KeyedPermutation(self.n_windows, self.seed, epoch) if self.shuffle else None
        return permutation(positions).tolist() if permutation else list(positions)

    def _slice(self, batch: int) -> range:
        """The positions in the epoch that make up this process's batch."""
        start = batch * self.batch_size * self.world_size
        count = min(self.batch_size * self.world_size, self.n_windows - start)
        if count < self.world_size:
            mine = start + self.rank % count
            return range(mine, mine + 1)
        return range(start + count * self.rank // self.world_size, start + count * (self.rank + 1) // self.world_size)


class WindowLoader(DataLoader[Batch]):
    """Loads the batches of a `WindowOrder`, from the position that a run has reached.

    Args:
        windows: where the batches are gathered from.
        order: which windows make up which batch.
        position: gives (epoch, first batch), or None to leave the order as it is. It is asked when the first
            batch is, not when the iterator is made: Lightning makes a resumed run's iterator, and worker
            processes would fetch ahead, before its counters have settled.
        num_workers: processes that gather batches; 0 is this one.
        pin_memory: gather into memory that a CUDA device can fetch from while it computes.
    """

    def __init__(
        self,
        windows: SlidingWindows,
        order: WindowOrder,
        position: Callable[[], tuple[int, int] | None] = lambda: None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            windows,
            batch_sampler=order,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=shield_worker,
        )
        self.windows = windows
        self.order = order
        self.position = position

    def starts_of(self, epoch: int, batch: int) -> list[int]:
        """Where in the tokens the windows of one batch of an epoch begin."""
        return [self.windows.starts[window] for window in self.order.windows_of(epoch, batch)]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if (position := self.position()) is not None:
            self.order.set_epoch(*position)
        try:
            yield from super().__iter__()
        except (ConnectionError, EOFError) as error:  # one of them ended while it handed over a batch
            workers = getattr(self._iterator, "_workers", ())
            # Its end of a pipe is closed a moment before the system calls it ended, so `is_alive` would not do.
            closed = wait([worker.sentinel for worker in workers], timeout=1)
            ended = [worker for worker in workers if worker.sentinel in closed]
            if not ended:
                raise
            raise RuntimeError(f"DataLoader worker (pid {ended[0].pid}) exited unexpectedly") from error

    def close(self) -> None:
        """End the processes that gather batches, if any; at the end of Python each would take five seconds."""
        workers, self._iterator = self._iterator, None
        if workers is not None:
            with contextlib.suppress(RuntimeError):  # one of them was lost
                workers._shutdown_workers()  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Empty: the position is the trainer's. Lightning looks for this to know that a loader can resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load; see `state_dict`."""


def _as_it_is(batch: Batch) -> Batch:
    """`__getitems__` gives whole batches already."""
    return batch


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every bit over all others (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
