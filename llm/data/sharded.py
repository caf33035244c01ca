"""Several files of token ids as one array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class ShardedTokens:
    """Token ids in several files that look like one array, each mapped when it is first read.

    Args:
        paths: the files.
        lengths: number of ids in each.
        dtype: of the ids.
        offset: bytes before the ids in each file.
        start: the first id that belongs to the array.
        stop: the id after the last one.
    """

    def __init__(
        self, paths: list[Path], lengths: list[int], dtype: np.dtype[Any], offset: int, start: int, stop: int
    ) -> None:
        self.paths, self.lengths, self.dtype, self.offset = paths, lengths, dtype, offset
        self.start, self.stop = start, stop
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._maps: dict[int, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: Any) -> Any:
        """A slice is an array of the same kind, over the same files; positions, of any shape, are gathered."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise IndexError(f"token ids are sliced in steps of 1, not {step}")
            stop = max(start, stop)
            return ShardedTokens(
                self.paths, self.lengths, self.dtype, self.offset, self.start + start, self.start + stop
            )
        positions = np.asarray(index, np.int64)
        if positions.size and not (-len(self) <= positions.min() and positions.max() < len(self)):
            raise IndexError(f"position outside the {len(self):,} token ids")
        positions = np.where(positions < 0, positions + len(self), positions) + self.start
        shards = np.searchsorted(self._ends, positions, side="right")
        ids = np.empty(positions.shape, self.dtype)
        for shard in np.unique(shards).tolist():
            here = shards == shard
            ids[here] = self._map(shard)[positions[here] - (self._ends[shard] - self.lengths[shard])]
        return ids[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        del copy
        parts = [np.empty(0, self.dtype)]
        for shard, (end, length) in enumerate(zip(self._ends.tolist(), self.lengths, strict=True)):
            start = max(self.start - (end - length), 0)
            stop = min(self.stop - (end - length), length)
            if start < stop:
                parts.append(self._map(shard)[start:stop])
        return np.concatenate(parts).astype(dtype or self.dtype, copy=False)

    def astype(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """All ids in memory, as another type."""
        return np.asarray(self).astype(dtype)

    def tolist(self) -> list[int]:
        """All ids as integers."""
        return np.asarray(self).tolist()

    def _map(self, shard: int) -> npt.NDArray[Any]:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(
                self.paths[shard], self.dtype, mode="r", offset=self.offset, shape=(self.lengths[shard],)
            )
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        """Where the files are, not what is in them: what a worker process that is not forked receives."""
        return {**self.__dict__, "_maps": {}}


TokenArray = npt.NDArray[np.unsignedinteger[Any]] | ShardedTokens
"""(N,) token ids: slices, and gathers at arrays of positions."""
