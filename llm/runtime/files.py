"""Files that are there whole or not at all: written beside their place, brought to the disk, and moved into it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r".+\.(?P<host>[^/]+)\.(?P<process>\d+)\.tmp")


def temporary_for(target: Path) -> Path:
    """Where a file or folder is written before it takes its place: beside it, so that one move is enough.

    Never the folder for temporary files, which may be on another file system, from where a file is copied, not moved.
    """
    return target.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which takes its place in one move when all of it is on the disk.

    If anything is raised, nothing is left, and what was at `target` stays.

    Raises:
        OSError: it can't be written, or is a folder.
    """
    if target.is_dir():  # which may have no name, as `.` has none
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    temporary = temporary_for(target)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        move_into_place(temporary, target)
    finally:
        with contextlib.suppress(OSError):  # nothing there to remove, nor a folder it could be in
            temporary.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, where they are not there yet.

    Raises:
        OSError: it can't be made; names what is a file where a folder should be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next((part for part in (folder, *folder.parents) if part.exists() and not part.is_dir()), folder)
        raise NotADirectoryError(errno.ENOTDIR, f"{str(file)!r} is a file, not a folder") from error


def write_whole(target: Path, content: bytes) -> None:
    """Put a file there in one move, and make the folder that it is in."""
    make_folder(target.parent)
    with whole_file(target) as file:
        file.write(content)


def move_into_place(temporary: Path, target: Path) -> None:
    """Replace `target`, and bring the folder's new entry to the disk too: else a power cut could take it back.

    Raises:
        OSError: it can't be replaced, or is a device or a pipe, which an administrator's process could.
    """
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise FileExistsError(errno.EEXIST, "it is a device or a pipe, whose place no file takes", str(target))
    temporary.replace(target)
    if os.name != "nt":  # there, folders can't be opened
        with contextlib.suppress(OSError):  # some file systems can't do it; the file is in its place all the same
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@contextmanager
def keeping(target: Path, previous: Path) -> Iterator[None]:
    """What is at `target` becomes `previous`, if what is done within replaces it.

    At every moment both are whole: until the end `previous` is what it was, and `target` is never away. It takes a
    second name (a hard link), not a copy, where the file system has such.
    """
    temporary = temporary_for(previous)
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink(missing_ok=True)
            try:
                os.link(target, temporary)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(target, temporary)
        yield
        if temporary.exists():
            move_into_place(temporary, previous)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_stale(folder: Path, held: bool = False) -> None:
    """Remove what processes left half-written when they were killed.

    Args:
        folder: where.
        held: no other process writes to this folder, so all of it is stale. Otherwise only what was left by processes
            of this machine that have ended.
    """
    for path in folder.glob("*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None:
            continue
        if held or (match["host"] == socket.gethostname() and not _is_alive(int(match["process"]))):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def size_text(n_bytes: int) -> str:
    """A human-readable size: `812 bytes`, `34.5 kB`, `3.7 MB`, `1.2 GB`."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    for unit, size in (("kB", 10**3), ("MB", 10**6)):
        if round(n_bytes / size, 1) < 1000:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 10**9:,.1f} GB"
