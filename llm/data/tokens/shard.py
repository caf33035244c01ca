"""One file of token ids.

A header of 512 bytes (magic, format version, length of the JSON, then the JSON, then zeros), and after it the ids,
little-endian, two bytes each, or four if the vocabulary needs them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from llm.errors import DataError

log = logging.getLogger(__name__)

VERSION = 2
HEADER_SIZE = 512
DTYPES = ("<u2", "<u4")

_MAGIC = b"LLMTOKEN"
_PREFIX = struct.Struct("<8sII")  # magic, version, length of the JSON
_BLOCK_BYTES = 1 << 16


def shard_name(number: int) -> str:
    """The name of a shard's file, by its number from 0."""
    return f"{number:05}.tokens"


@dataclass(frozen=True)
class ShardHeader:
    """What the header of a shard says.

    Args:
        dtype: of the ids, `<u2` or `<u4`.
        n_tokens: number of ids in this shard.
        n_documents: documents begun in this shard and those before it.
        n_bytes: size of their text in UTF-8 bytes.
        fingerprint: of the tokenizer.
        source_hash: of the files that were read.
        settings: what else decides where shards end, and what is in them.
        after: where in the files the next shard goes on: (files read whole, offset in the next one).
        checksum: CRC-32 of the ids' bytes; None in stores from before it was kept.
        number: of this shard, from 0; None likewise.
    """

    dtype: str
    n_tokens: int
    n_documents: int
    n_bytes: int
    fingerprint: str
    source_hash: str
    settings: str
    after: tuple[int, int]
    checksum: int | None = None
    number: int | None = None

    @property
    def plan(self) -> tuple[str, str, str, str]:
        """What shards that are made together have in common."""
        return self.dtype, self.fingerprint, self.source_hash, self.settings

    def pack(self) -> bytes:
        """The header's bytes."""
        content = json.dumps(dataclasses.asdict(self)).encode()
        return (_PREFIX.pack(_MAGIC, VERSION, len(content)) + content).ljust(HEADER_SIZE, b"\0")

    def verify(self, path: Path) -> None:
        """Check the ids of a shard against their number and checksum.

        Raises:
            DataError: they are not those that were written.
        """
        self._verify_size(path)
        if self.checksum is None:
            return
        found = 0
        with path.open("rb") as file:
            file.seek(HEADER_SIZE)
            while block := file.read(_BLOCK_BYTES):
                found = zlib.crc32(block, found)
        if found != self.checksum:
            raise DataError(f"{str(path)!r} is damaged: its ids are not those that were written; tokenize again")

    def _verify_size(self, path: Path) -> None:
        expected, size = HEADER_SIZE + self.n_tokens * np.dtype(self.dtype).itemsize, path.stat().st_size
        if size != expected:
            raise DataError(
                f"{str(path)!r} is damaged: expected {expected} bytes, found {size}; tokenize the text again"
            )

    @classmethod
    def parse(cls, path: Path) -> Self:
        """Read the header of a shard.

        Raises:
            FileNotFoundError: there is no such file.
            DataError: it is not a shard of this format.
        """
        with path.open("rb") as file:
            content = file.read(HEADER_SIZE)
        try:
            magic, version, length = _PREFIX.unpack_from(content)
            if magic != _MAGIC or version != VERSION:
                raise ValueError(f"starts with {magic!r} version {version}")
            header = cls(**json.loads(content[_PREFIX.size : _PREFIX.size + length]))
            if header.dtype not in DTYPES:
                raise ValueError(f"ids of type {header.dtype!r}")
            figures = (header.n_tokens, header.n_documents, header.n_bytes, *header.after)
            if len(figures) != 5 or not all(type(figure) is int and figure >= 0 for figure in figures):
                raise ValueError(f"its numbers are {figures}")
        except (struct.error, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{str(path)!r} holds no token ids of version {VERSION}: {error}") from error
        return header

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the header of a shard, and check the file's size against it.

        Raises:
            FileNotFoundError: there is no such file.
            DataError: it is not a shard of this format, or it is cut short.
        """
        header = cls.parse(path)
        header._verify_size(path)
        return header


def refuse_others(path: Path, plan: tuple[str, str, str, str]) -> ShardHeader | None:
    """The header of a shard of this plan; None if there is no such file.

    Raises:
        DataError: what is there is no shard, or another plan's.
    """
    try:
        header = ShardHeader.parse(path)
    except FileNotFoundError:
        return None
    if header.plan != plan:
        raise DataError(
            f"{str(path.parent)!r} holds a part of another text, or with another tokenizer or size of shards; "
            "remove the folder or choose another"
        )
    return header


def whole_shards(folder: Path, plan: tuple[str, str, str, str]) -> list[ShardHeader]:
    """The headers of the shards that are there, up to the first that is missing or, which is logged, damaged.

    Raises:
        DataError: one is not a shard, or another plan's.
    """
    shards: list[ShardHeader] = []
    for number in itertools.count():
        path = folder / shard_name(number)
        if (header := refuse_others(path, plan)) is None:
            return shards
        try:
            header.verify(path)
            if header.number not in (None, number):
                raise DataError(f"{str(path)!r} is damaged: it is shard {header.number}; tokenize again")
        except DataError as error:
            log.warning("%s (it is done now, from there on)", error)
            return shards
        shards.append(header)
    return shards
