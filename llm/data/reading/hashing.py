"""Identify a text: SHA-256 over the content of files, cached so that a large file is read only once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llm.errors import DataError
from llm.runtime.files import write_whole

_REMEMBERED_FROM = 1 << 20
"""Size in bytes from which a file's hash is cached."""
_DIGEST = re.compile("[0-9a-f]{64}")
_SETTLED_SECONDS = 2.0
"""A file modified more recently than this may change again without a new time of modification."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, which are streamed, as 64 hex digits.

    Raises:
        DataError: the file can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"can't read {str(path)!r}: {error.strerror}") from error


def corpus_hash(paths: Iterable[str | Path], cache_dir: str | Path | None = None) -> str:
    """SHA-256 (64 hex digits) over the SHA-256 of each file's bytes, in order.

    Args:
        paths: the files.
        cache_dir: cache the hashes of large files here; a file counts as unchanged while its path, size and time of
            modification are.

    Raises:
        DataError: a file can't be read.
    """
    memory = None if cache_dir is None else Path(cache_dir) / "hashes.json"
    known = _read(memory)
    whole = hashlib.sha256()
    new: dict[str, Any] = {}
    for path in map(Path, paths):
        key, stamp = _stamp(path)
        entry = known.get(key)
        if isinstance(entry, list) and entry[:2] == stamp and _DIGEST.fullmatch(str(entry[-1])):
            digest = entry[-1]
        else:
            digest = file_hash(path)
            settled = stamp[1] < (time.time() - _SETTLED_SECONDS) * 1e9
            if stamp[0] >= _REMEMBERED_FROM and settled and _stamp(path)[1] == stamp:
                new[key] = [*stamp, digest]
        whole.update(bytes.fromhex(digest))
    if memory is not None and new:
        _write(memory, _read(memory) | new)
    return whole.hexdigest()


def _stamp(path: Path) -> tuple[str, list[int]]:
    """A file's full path, and its size and time of modification."""
    try:
        status = path.stat()
        return str(path.resolve()), [status.st_size, status.st_mtime_ns]
    except OSError as error:
        raise DataError(f"can't read {str(path)!r}: {error.strerror}") from error


def _read(memory: Path | None) -> dict[str, Any]:
    """The cached hashes; none if they can't be read."""
    if memory is not None:
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(memory.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
    return {}


def _write(memory: Path, content: dict[str, Any]) -> None:
    """Written in one move; a cache that can't be written costs only time."""
    with contextlib.suppress(OSError):
        write_whole(memory, json.dumps(content).encode())
