"""A corpus as token ids on disk, written once and memory-mapped ever after.

A store is a folder. `store.json` describes it, and is written last: without it, the store is not finished. Beside it
are the shards, `00000.tokens` and so on, as in `llm.data.tokens.shard`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from llm.data.tokens.mapped import MappedTokens
from llm.data.tokens.shard import DTYPES, HEADER_SIZE, VERSION, ShardHeader
from llm.errors import DataError
from llm.runtime.files import write_whole
from llm.tokenizers import Tokenizer, tokenizer_from_dict

FORMAT = "llm-tokens"
DESCRIPTION = "store.json"
CHECKED_BYTES = 32 << 20
"""Up to this size the checksums of a store are verified whenever it is opened, which takes some hundredths of a second.
Ids of larger ones are checked when they are used."""

_RAW_CHECKED = 64
_RAW_BLOCK = 1 << 16


@dataclass(frozen=True)
class TokenStore:
    """What a folder of token ids holds. Opening it reads the description and the headers alone.

    Args:
        path: the folder.
        dtype: of the ids.
        n_tokens: number of ids, those between documents included.
        n_documents: number of documents.
        n_bytes: size of the text in UTF-8 bytes; 0 if unknown.
        tokenizer: the tokenizer, as its `to_dict` describes it.
        fingerprint: of the tokenizer.
        source_hash: of the files that it was made from.
        shards: name and number of ids of each file.
        header_size: bytes before the ids in each file.
    """

    path: Path
    dtype: str
    n_tokens: int
    n_documents: int
    n_bytes: int
    tokenizer: dict[str, Any]
    fingerprint: str
    source_hash: str
    shards: tuple[tuple[str, int], ...]
    header_size: int = HEADER_SIZE

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the description of a store, and check its shards against it.

        Raises:
            FileNotFoundError: there is no such folder, or no finished store in it.
            DataError: it is not a store of this format, or a shard is missing, another's, or cut short.
        """
        path = Path(path)
        content = (path / DESCRIPTION).read_bytes()
        try:
            described = json.loads(content)
            kind, version = described.pop("format"), described.pop("version")
            if (kind, version) != (FORMAT, VERSION):
                raise ValueError(f"it is {kind!r} version {version}")
            shards = tuple((str(name), int(n_tokens)) for name, n_tokens in described.pop("shards"))
            store = cls(path=path, shards=shards, **described)
            if not all(type(count) is int for count in (store.n_tokens, store.n_documents, store.n_bytes)):
                raise ValueError("its counts are not integers")
            if store.header_size != HEADER_SIZE or any(Path(name).name != name for name, _ in shards):
                raise ValueError("its shards do not lie beside it")
            if store.dtype not in DTYPES or store.n_tokens != sum(n_tokens for _, n_tokens in shards):
                raise ValueError("its numbers contradict each other")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{str(path)!r} is not a token store of version {VERSION}: {error}") from error
        for number, (name, n_tokens) in enumerate(shards):
            try:
                header = ShardHeader.read(path / name)
            except FileNotFoundError as error:
                raise DataError(f"{str(path)!r} is damaged: {name} is missing; tokenize the text again") from error
            if (header.n_tokens, header.dtype, header.fingerprint, header.source_hash) != (
                n_tokens,
                store.dtype,
                store.fingerprint,
                store.source_hash,
            ) or header.number not in (None, number):
                raise DataError(
                    f"{str(path)!r} is damaged: {name} is not the file of this place; tokenize the text again"
                )
            if store.n_tokens * np.dtype(store.dtype).itemsize <= CHECKED_BYTES:
                header.verify(path / name)
        return store

    def write(self) -> None:
        """Write the description, in one move: the store is finished."""
        described = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        del described["path"], described["header_size"]
        write_whole(self.path / DESCRIPTION, json.dumps(described, indent=1).encode())

    def tokens(self, start: int = 0, stop: int | None = None, read_ahead: bool = True) -> MappedTokens:
        """The ids from `start` up to `stop`, read-only and memory-mapped, (stop - start,).

        Args:
            start: the first.
            stop: the one after the last. Default: to the end.
            read_ahead: see `MappedTokens`.
        """
        stop = self.n_tokens if stop is None else min(stop, self.n_tokens)
        paths = tuple(self.path / name for name, _ in self.shards)
        lengths = tuple(length for _, length in self.shards)
        return MappedTokens(paths, lengths, np.dtype(self.dtype), self.header_size, min(start, stop), stop, read_ahead)

    def make_tokenizer(self) -> Tokenizer:
        """The tokenizer that wrote the ids.

        Raises:
            DataError: it is not the one whose fingerprint the store bears.
        """
        tokenizer = tokenizer_from_dict(self.tokenizer)
        if tokenizer.fingerprint != self.fingerprint:
            raise DataError(f"{str(self.path)!r} is damaged: its tokenizer is not the one that wrote its ids")
        return tokenizer


def open_raw(path: Path, tokenizer: Tokenizer, source_hash: str) -> TokenStore:
    """nanoGPT's format as a store: a file of nothing but ids of two bytes, little-endian.

    Args:
        path: the file.
        tokenizer: assumed to have encoded the ids; the file doesn't say.
        source_hash: of the file.

    Raises:
        DataError: the file is empty or ends within an id, an id is outside the vocabulary, or that is too large for
            ids of two bytes. Ids are checked in 64 places spread over the file; in all of it if it is small.
    """
    if tokenizer.vocab_size > 2**16:
        raise DataError(
            f"{str(path)!r} holds ids of two bytes, too short for this tokenizer's {tokenizer.vocab_size:,}; set the "
            "tokenizer that wrote the file"
        )
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise DataError(f"{str(path)!r} holds no token ids of two bytes: it has {size:,} bytes")
    ids = np.memmap(path, "<u2", mode="r")
    blocks = min(_RAW_CHECKED, -(-len(ids) // _RAW_BLOCK))
    for block in range(blocks):
        start = max(0, len(ids) - _RAW_BLOCK) * block // max(1, blocks - 1)
        part = ids[start : start + _RAW_BLOCK]
        if int(part.max()) >= tokenizer.vocab_size:
            position = start + int((part >= tokenizer.vocab_size).argmax())
            raise DataError(
                f"{str(path)!r}: id {ids[position]} at position {position:,} is outside the vocabulary of "
                f"{tokenizer.vocab_size:,}; set the tokenizer that wrote the file"
            )
    return TokenStore(
        path.parent, "<u2", len(ids), 1, 0, tokenizer.to_dict(), tokenizer.fingerprint, source_hash,
        ((path.name, len(ids)),), header_size=0,
    )  # fmt: skip
