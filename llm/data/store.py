"""A corpus as token ids on disk, written once and memory-mapped ever after.

A file holds a header of 512 bytes (magic, format version, length of the JSON, then the JSON that describes the
store, then zeros) and after it the ids, little-endian, two bytes each, or four if the vocabulary needs them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from llm.data.corpus import corpus_hash, read_document
from llm.errors import DataError, TokenizerError
from llm.tokenizers.base import Tokenizer

MAGIC = b"LLMTOKEN"
VERSION = 1
HEADER_SIZE = 512
_PREFIX = struct.Struct("<8sII")  # magic, version, length of the JSON
_DTYPES = ("<u2", "<u4")

TokenArray = npt.NDArray[np.unsignedinteger[Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenStore:
    """What one file of token ids holds. Opening it reads the header alone.

    Args:
        path: the file.
        dtype: of the ids, `<u2` or `<u4`.
        n_tokens: number of ids, those between documents included.
        n_documents: number of documents.
        n_bytes: size of the text in UTF-8 bytes.
        tokenizer: fingerprint of the tokenizer that wrote it.
        corpus_hash: `corpus_hash` of the files that it was made from.
    """

    path: Path
    dtype: str
    n_tokens: int
    n_documents: int
    n_bytes: int
    tokenizer: str
    corpus_hash: str

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the header of a store and hold the file's size to it.

        Raises:
            FileNotFoundError: there is no such file.
            DataError: it is not a store of this format, or it is cut short.
        """
        path = Path(path)
        with path.open("rb") as file:
            header = file.read(HEADER_SIZE)
            size = os.fstat(file.fileno()).st_size
        try:
            magic, version, length = _PREFIX.unpack_from(header)
            if magic != MAGIC or version != VERSION:
                raise ValueError(f"starts with {magic!r} version {version}")
            store = cls(path=path, **json.loads(header[_PREFIX.size : _PREFIX.size + length]))
            if store.dtype not in _DTYPES:
                raise ValueError(f"ids of type {store.dtype!r}")
        except (struct.error, ValueError, TypeError) as error:
            raise DataError(f"{str(path)!r} is no token store of version {VERSION}: {error}") from error
        expected = HEADER_SIZE + store.n_tokens * np.dtype(store.dtype).itemsize
        if size != expected:
            raise DataError(f"{str(path)!r} is damaged: expected {expected} bytes, found {size}")
        return store

    def tokens(self, start: int = 0, stop: int | None = None) -> TokenArray:
        """The ids from `start` up to `stop` as a read-only memory map, (stop - start,)."""
        stop = self.n_tokens if stop is None else min(stop, self.n_tokens)
        dtype = np.dtype(self.dtype)
        if start >= stop:  # nothing can't be mapped
            return np.empty(0, dtype)
        offset = HEADER_SIZE + start * dtype.itemsize
        return np.memmap(self.path, dtype, mode="r", offset=offset, shape=(stop - start,))


def open_or_build(
    paths: Sequence[Path], tokenizer: Tokenizer, cache_dir: str | Path, text_hash: str | None = None
) -> TokenStore:
    """The token store of some files, made now if the cache holds none for this text and this tokenizer.

    Documents are joined by the tokenizer's end-of-text id, if it has one.

    Args:
        paths: the documents, in order.
        tokenizer: what encodes them.
        cache_dir: where stores are kept.
        text_hash: `corpus_hash(paths)`, if it is known already.

    Raises:
        DataError: a document can't be read, or the cache can't be written.
        TokenizerError: a document can't be encoded; names the document.
    """
    text_hash = text_hash or corpus_hash(paths)
    key = hashlib.sha256(f"{text_hash} {tokenizer.fingerprint} {VERSION}".encode()).hexdigest()[:32]
    target = Path(cache_dir) / f"{key}.tokens"
    try:
        store = TokenStore.open(target)
        if (store.corpus_hash, store.tokenizer) == (text_hash, tokenizer.fingerprint):
            return store
        log.warning("token cache %r is another text's or tokenizer's; building it again", str(target))
    except FileNotFoundError:
        pass
    except DataError as error:
        log.warning("%s; building it again", error)
    except OSError as error:
        raise DataError(f"can't read the token cache {str(target)!r}: {error.strerror}") from error
    try:
        return _build(paths, tokenizer, target, text_hash)
    except OSError as error:
        raise DataError(
            f"can't write the token cache {str(target)!r}: {error.strerror}; choose another cache_dir"
        ) from error


def _build(paths: Sequence[Path], tokenizer: Tokenizer, target: Path, text_hash: str) -> TokenStore:
    """Write beside the target, bring it to the disk, and move it into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target.parent)
    temporary = target.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            store = _write(file, paths, tokenizer, target, text_hash)
            file.flush()
            os.fsync(file.fileno())
        if corpus_hash(paths) != text_hash:
            raise DataError("the corpus changed while it was being read; start again")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return store


def _write(file: BinaryIO, paths: Sequence[Path], tokenizer: Tokenizer, target: Path, text_hash: str) -> TokenStore:
    dtype = _DTYPES[tokenizer.vocab_size > 2**16]
    separator = tokenizer.end_of_text_id
    n_tokens = n_bytes = 0
    file.write(bytes(HEADER_SIZE))
    for number, path in enumerate(paths):
        text = read_document(path)
        try:
            ids = tokenizer.encode(text)
        except TokenizerError as error:
            raise TokenizerError(f"{str(path)!r}: {error}") from error
        if number > 0 and separator is not None:
            ids = [separator, *ids]
        file.write(np.asarray(ids, dtype).tobytes())
        n_tokens += len(ids)
        n_bytes += len(text.encode())
    store = TokenStore(target, dtype, n_tokens, len(paths), n_bytes, tokenizer.fingerprint, text_hash)
    described = dataclasses.asdict(store)
    del described["path"]
    content = json.dumps(described).encode()
    file.seek(0)
    file.write((_PREFIX.pack(MAGIC, VERSION, len(content)) + content).ljust(HEADER_SIZE, b"\0"))
    return store


def _remove_stale(folder: Path) -> None:
    """Remove what processes of this machine left half-written when they were killed."""
    pattern = re.compile(rf".*\.tokens\.{re.escape(socket.gethostname())}\.(\d+)\.tmp")
    for file in folder.glob("*.tmp"):
        match = pattern.fullmatch(file.name)
        if match and not _is_alive(int(match[1])):
            file.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 is no harmless question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
