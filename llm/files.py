"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which takes its place in one move when all of it is on the disk.

    If anything is raised, nothing is left, and what was at `target` stays.
    """
    temporary = target.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(target: Path, content: bytes) -> None:
    """Put a file there in one move."""
    with whole_file(target) as file:
        file.write(content)


def remove_stale(folder: Path) -> None:
    """Remove what processes of this machine left half-written when they were killed."""
    pattern = re.compile(rf".*\.{re.escape(socket.gethostname())}\.(\d+)\.tmp")
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


def size_text(n_bytes: int) -> str:
    """How large something is, for people: `812 bytes`, `34.5 kB`, `3.7 MB`, `1.2 GB`."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    for unit, size in (("kB", 10**3), ("MB", 10**6)):
        if round(n_bytes / size, 1) < 1000:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 10**9:,.1f} GB"
