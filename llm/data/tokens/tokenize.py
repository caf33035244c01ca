"""Tokenize files of any size, in parallel, into a store that can be resumed when the process is killed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llm.data.reading.hashing import corpus_hash
from llm.data.reading.progress import reading_progress
from llm.data.reading.sources import BLOCK_BYTES, Chunk, Position, is_text_file, read_chunks
from llm.data.tokens.shard import HEADER_SIZE, ShardHeader, refuse_others, shard_name, whole_shards
from llm.data.tokens.store import TokenStore
from llm.errors import DataError, TokenizerError
from llm.runtime.files import make_folder, remove_stale, whole_file
from llm.runtime.process import usable_cores
from llm.tokenizers import Tokenizer

SHARD_TOKENS = 100_000_000
"""Ids in a shard: 200 MB. A killed process loses less than one shard."""

_CHUNKS_AHEAD = 4
"""Chunks encoded ahead, beyond one per thread, so that no thread waits for the one that reads and writes."""

SpecialTokens = Literal["as_tokens", "as_text"]
"""What becomes of a special token that a text spells."""

Ids = npt.NDArray[np.unsignedinteger[Any]]


@dataclass
class Plan:
    """What goes into a store, and how.

    Args:
        paths: the files, in order.
        tokenizer: what encodes them. Documents are joined by its end-of-text id, if it has one.
        field: of JSON records, or the column of Parquet files, that holds the text.
        source_hash: of the files: `source_hash(paths, field)`.
        cache_dir: where hashes of files are remembered.
        shard_tokens: a shard ends with the chunk that brings it to so many ids.
        block_bytes: about how much text is encoded at once.
        threads: how many encode. Default: one for each processor that this process may use.
        special_tokens: what one that a text spells is: itself (`as_tokens`), or ordinary text (`as_text`).
    """

    paths: Sequence[Path]
    tokenizer: Tokenizer
    field: str = "text"
    source_hash: str = ""
    cache_dir: str | Path | None = None
    shard_tokens: int = SHARD_TOKENS
    block_bytes: int = BLOCK_BYTES
    threads: int | None = None
    special_tokens: SpecialTokens = "as_tokens"

    def __post_init__(self) -> None:
        self.source_hash = self.source_hash or self.current_hash()
        self.dtype = "<u4" if self.tokenizer.vocab_size > 2**16 else "<u2"
        self.fingerprint = self.tokenizer.fingerprint
        self.settings = f"{self.shard_tokens} {self.block_bytes}"

    def current_hash(self) -> str:
        """The hash of the files as they are now, and of how they are read.

        Raises:
            DataError: a file can't be read.
        """
        return source_hash(self.paths, self.field, self.cache_dir, self.special_tokens)

    @property
    def of_shards(self) -> tuple[str, str, str, str]:
        """What its shards have in common, as `ShardHeader.plan`."""
        return self.dtype, self.fingerprint, self.source_hash, self.settings


def source_hash(
    paths: Sequence[Path],
    field: str = "text",
    cache_dir: str | Path | None = None,
    special_tokens: SpecialTokens = "as_tokens",
) -> str:
    """The hash of the text in some files: of what they hold, which part of their records is read, and what special
    tokens in it are.

    Raises:
        DataError: a file can't be read.
    """
    content = corpus_hash(paths, cache_dir)
    if not all(is_text_file(Path(path)) for path in paths):
        kinds = " ".join("" if is_text_file(Path(path)) else Path(path).suffix for path in paths)
        content = hashlib.sha256(f"{content} {kinds} {field}".encode()).hexdigest()
    if special_tokens == "as_text":
        content = hashlib.sha256(f"{content} {special_tokens}".encode()).hexdigest()
    return content


def tokenize(plan: Plan, target: Path) -> TokenStore:
    """Write a store, or finish or mend one that was begun: whole shards are kept.

    The result is the same bytes, however often it was interrupted.

    Raises:
        DataError: a file can't be read or changed meanwhile, or the folder holds something else.
        TokenizerError: a document can't be encoded; says where.
        OSError: the folder can't be written.
    """
    make_folder(target)
    remove_stale(target)
    damage = None
    try:
        store = TokenStore.open(target)
    except FileNotFoundError:
        pass
    except DataError as error:
        damage = error
    else:
        if (store.source_hash, store.fingerprint) != (plan.source_hash, plan.fingerprint):
            raise DataError(
                f"{str(target)!r} already holds the ids of another text or tokenizer; choose another folder"
            )
        return store
    shards = whole_shards(target, plan.of_shards)
    if damage is not None and refuse_others(target / shard_name(0), plan.of_shards) is None:
        raise damage  # nothing says that it is a store of this text
    last = shards[-1] if shards else None
    start = Position(*last.after) if last else Position()
    with (
        reading_progress(plan.paths, "tokenize", start) as report,
        contextlib.closing(_pieces(plan, start, report, last is None)) as pieces,
    ):
        done = (last.n_documents, last.n_bytes) if last else (0, 0)
        while (header := _write_shard(plan, target, len(shards), pieces, done)) is not None:
            shards.append(header)
            done = (header.n_documents, header.n_bytes)
    if plan.current_hash() != plan.source_hash:
        for number in range(len(shards)):
            (target / shard_name(number)).unlink(missing_ok=True)
        raise DataError("the corpus changed while it was being read; start again")
    store = TokenStore(
        target,
        plan.dtype,
        sum(shard.n_tokens for shard in shards),
        *done,
        plan.tokenizer.to_dict(),
        plan.fingerprint,
        plan.source_hash,
        tuple((shard_name(number), shard.n_tokens) for number, shard in enumerate(shards)),
    )
    store.write()
    return TokenStore.open(target)  # as it is, should another process have written to it too


@dataclass(frozen=True)
class _Piece:
    """A chunk, encoded."""

    ids: list[Ids]
    n_documents: int
    n_bytes: int
    after: Position


def _write_shard(
    plan: Plan, folder: Path, number: int, pieces: Iterator[_Piece], done: tuple[int, int]
) -> ShardHeader | None:
    """Fill one shard; None if there is nothing left to write."""
    n_tokens, checksum, (n_documents, n_bytes) = 0, 0, done
    first = next(pieces, None)
    if first is None:
        return None
    path = folder / shard_name(number)
    with whole_file(path) as file:
        file.write(bytes(HEADER_SIZE))
        piece: _Piece | None = first
        while piece is not None:
            for ids in piece.ids:
                file.write(ids.data)
                checksum = zlib.crc32(ids.data, checksum)
                n_tokens += len(ids)
            n_documents += piece.n_documents
            n_bytes += piece.n_bytes
            after = piece.after
            piece = next(pieces, None) if n_tokens < plan.shard_tokens else None
        header = ShardHeader(
            plan.dtype,
            n_tokens,
            n_documents,
            n_bytes,
            plan.fingerprint,
            plan.source_hash,
            plan.settings,
            after,
            checksum,
            number,
        )
        file.seek(0)
        file.write(header.pack())
        refuse_others(path, plan.of_shards)  # another process may have begun with the folder meanwhile
    return header


def _pieces(
    plan: Plan, start: Position, report: Callable[[Chunk], object], first: bool
) -> Generator[_Piece, None, None]:
    """The encoded chunks in their order; some more are being encoded meanwhile."""
    threads = plan.threads or usable_cores()
    waiting: deque[tuple[Chunk, Future[_Piece]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")
    try:
        for chunk in read_chunks(plan.paths, plan.tokenizer.cuts, plan.field, start, plan.block_bytes):
            waiting.append((chunk, pool.submit(_encode, plan, chunk, first)))
            first = False
            if len(waiting) >= threads + _CHUNKS_AHEAD:
                yield waiting[0][1].result()
                report(waiting.popleft()[0])
        while waiting:
            yield waiting[0][1].result()
            report(waiting.popleft()[0])
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(plan: Plan, chunk: Chunk, first: bool) -> _Piece:
    """The ids of a chunk, with what stands before each document: the end-of-text id, before all but the first."""
    encode: Callable[[str], Ids] = plan.tokenizer.encode_array
    if plan.special_tokens == "as_text":
        encode = functools.partial(plan.tokenizer.encode_array, as_text=True)
    ids: list[Ids] = []
    n_bytes = 0
    for number, text in enumerate(chunk.texts):
        if number or not chunk.continues:
            start = plan.tokenizer.document_start(first and number == 0)
            ids.append(np.array(start, plan.dtype))
        try:
            ids.append(encode(text).astype(plan.dtype, copy=False))
            n_bytes += len(text) if text.isascii() else len(text.encode())
        except TokenizerError as error:
            raise chunk.explain(number, error) from error
        except UnicodeEncodeError as error:
            reason = TokenizerError(f"the text is not valid Unicode at character {error.start}: {error.reason}")
            raise chunk.explain(number, reason) from error
    return _Piece(ids, len(chunk.texts) - chunk.continues, n_bytes, chunk.after)
