"""Gathers the batches of an order, from the position that a run has reached."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset

from llm.data.batch import TokenBatch
from llm.data.order import BatchOrder
from llm.runtime.process import shield_worker


class RowSource(Protocol):
    """Rows of tokens that batches are gathered from; it is pickled for worker processes, so it must be small."""

    @property
    def starts(self) -> Sequence[int] | npt.NDArray[np.int64]:
        """Where in the tokens each row begins."""

    def __len__(self) -> int: ...

    def gather(self, indices: Sequence[int], epoch: int) -> TokenBatch:
        """The batch of these rows, in this epoch."""


class DerivedRows:
    """Rows that are made of others when a batch is gathered: as many, that begin where those do.

    Args:
        rows: where the tokens are.
    """

    def __init__(self, rows: RowSource) -> None:
        self.rows = rows

    @property
    def starts(self) -> Sequence[int] | npt.NDArray[np.int64]:
        """Where in the tokens each row begins."""
        return self.rows.starts

    def __len__(self) -> int:
        return len(self.rows)


class BatchLoader(DataLoader[TokenBatch]):
    """Loads the batches of a `BatchOrder`, from the position that a run has reached.

    Args:
        source: what the batches are gathered from.
        order: which rows make up which batch.
        position: gives (epoch, first batch), or None to leave the order as it is. It is asked when the first
            batch is, not when the iterator is made: Lightning makes a resumed run's iterator, and worker
            processes would fetch ahead, before its counters have settled.
        num_workers: processes that gather batches; 0 is this one.
        pin_memory: gather into memory that a CUDA device can fetch from while it computes.
    """

    def __init__(
        self,
        source: RowSource,
        order: BatchOrder,
        position: Callable[[], tuple[int, int] | None] = lambda: None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            _Gathered(source),
            batch_sampler=_Requests(order),  # type: ignore[arg-type]
            collate_fn=_unchanged,  # type: ignore[arg-type]
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=shield_worker,
        )
        self.source = source
        self.order = order
        self.position = position

    def starts_of(self, epoch: int, batch: int) -> list[int]:
        """Where in the tokens the rows of one batch of an epoch begin."""
        return [int(self.source.starts[row]) for row in self.order.rows_of(epoch, batch)]

    def __iter__(self) -> Iterator[TokenBatch]:  # type: ignore[override]
        if (position := self.position()) is not None:
            self.order.set_epoch(*position)
        try:
            yield from super().__iter__()
        except (ConnectionError, EOFError) as error:  # one of them ended while it transferred a batch
            workers = getattr(self._iterator, "_workers", ())
            # Its end of a pipe is closed a moment before `is_alive` is False.
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


class _Request(NamedTuple):
    """What a worker process has to know to gather a batch: it doesn't see what the order is set to."""

    indices: list[int]
    epoch: int


class _Requests:
    """The batches of an order as the `batch_sampler` of a `DataLoader`. Only `BatchLoader` sets the order's epoch."""

    def __init__(self, order: BatchOrder) -> None:
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[_Request]:
        epoch = self._order.epoch
        for indices in self._order:
            yield _Request(indices, epoch)


class _Gathered(Dataset[TokenBatch]):
    """A `RowSource` as the `dataset` of a `DataLoader`, which asks for whole batches."""

    def __init__(self, source: RowSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, request: _Request) -> TokenBatch:
        return self._source.gather(request.indices, request.epoch)


def _unchanged(batch: TokenBatch) -> TokenBatch:
    """Whole batches are gathered already."""
    return batch
