"""Token ids in one or more files as one array, memory-mapped."""

from __future__ import annotations

import dataclasses
import mmap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Maps = dict[int, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class MappedTokens:
    """Token ids in files that look like one array; each file is mapped, read-only, when it is first read.

    Pickling it stores the paths of the files, not their content.

    Args:
        paths: the files.
        lengths: number of ids in each.
        dtype: of the ids.
        offset: bytes before the ids in each file.
        start: the first id that belongs to the array.
        stop: the id after the last one.
        read_ahead: whether the system may prefetch. For sequential reading it should; for random windows of a large
            corpus, Linux would fetch 128 kB for each kB or two that are used.
    """

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    start: int
    stop: int
    read_ahead: bool = True
    _maps: Maps = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: Any) -> Any:
        """A slice is an array of the same kind, over the same files; positions, of any shape, are gathered."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise IndexError(f"token ids are sliced in steps of 1, not {step}")
            return dataclasses.replace(self, start=self.start + start, stop=self.start + max(start, stop))
        positions = np.asarray(index, np.int64)
        if positions.size and not (-len(self) <= positions.min() and positions.max() < len(self)):
            raise IndexError(f"position outside the {len(self):,} token ids")
        positions = np.where(positions < 0, positions + len(self), positions) + self.start
        if len(self.paths) == 1:
            return self._map(0)[positions]
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
            start, stop = max(self.start - (end - length), 0), min(self.stop - (end - length), length)
            if start < stop:
                parts.append(self._map(shard)[start:stop])
        return np.concatenate(parts).astype(dtype or self.dtype, copy=False)

    def astype(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """All ids in memory, as another dtype."""
        return np.asarray(self).astype(dtype)

    def tolist(self) -> list[int]:
        """All ids as integers."""
        return np.asarray(self).tolist()

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """Where each file's ids end in all of them; batches are gathered with it."""
        return np.cumsum(self.lengths, dtype=np.int64)

    def _map(self, shard: int) -> npt.NDArray[Any]:
        if shard not in self._maps:
            shape = (self.lengths[shard],)
            ids = np.memmap(self.paths[shard], self.dtype, mode="r", offset=self.offset, shape=shape)
            if not self.read_ahead and hasattr(mmap, "MADV_RANDOM") and isinstance(ids.base, mmap.mmap):
                ids.base.madvise(mmap.MADV_RANDOM)
            self._maps[shard] = np.asarray(ids)  # a memmap's own indexing costs more
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}


TokenArray = npt.NDArray[np.unsignedinteger[Any]] | MappedTokens
"""(N,) token ids: slices, and gathers at arrays of positions."""
