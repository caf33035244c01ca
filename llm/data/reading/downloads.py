"""Fetch a file by its URL, hold it to its checksum, and put it in its place in one move."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Callable
from pathlib import Path

from llm.data.reading.hashing import file_hash
from llm.errors import DataError
from llm.runtime.files import write_whole

_SECONDS = 30


def download(
    name: str, url: str, target: Path, sha256: str, unpack: Callable[[bytes], bytes] = lambda content: content
) -> None:
    """Fetch a file and, if it is what was expected, put it at `target` in one move.

    Args:
        name: what it is called in errors.
        url: where it is.
        target: where it goes.
        sha256: of the file, in hex.
        unpack: gives the file out of what is downloaded.

    Raises:
        DataError: it can't be fetched or written, or is not what was expected; says where to put it by hand.
    """
    by_hand = f"put the file from {url} at {str(target)!r} by hand"
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            content: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"can't download {name} ({error}); {by_hand}") from error
    content = unpack(content)
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(f"the download of {name} is damaged: expected SHA-256 {sha256}, got {found}; {by_hand}")
    try:
        write_whole(target, content)
    except OSError as error:
        raise DataError(f"can't write {str(target)!r}: {error.strerror}; make the folder writable") from error


def refuse_other_file(path: Path, name: str, sha256: str) -> None:
    """Hold a file that is there to its checksum.

    Raises:
        DataError: it is another one.
    """
    if (found := file_hash(path)) != sha256:
        raise DataError(
            f"{str(path)!r} is not {name}: expected SHA-256 {sha256}, got {found}; remove the file to download it again"
        )
