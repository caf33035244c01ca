"""Read the texts out of files of records: JSON lines, compressed or not, and Parquet."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from llm.data.reading.parquet import parquet_file
from llm.errors import DataError

LONGEST_BYTES = 64 << 20
"""Limit of a line of JSON, and of what is read at once of a text file that has no place to cut it."""

_BLOCK_BYTES = 1 << 17
_ROWS = 64
"""Rows of Parquet read at once: a row may be a book."""
_COMPRESSED_AT_ONCE = 1 << 10
"""Bytes of Zstandard decompressed at once; four may expand to 131,072, so to at most 32 MiB."""


def json_lines(path: Path, field: str, start: int) -> Iterator[tuple[int, str, int]]:
    """The records of a `.jsonl`, `.jsonl.gz` or `.jsonl.zst` file, one a line, after line `start`.

    Gives (line, text, bytes of the file read); blank lines are skipped.

    Raises:
        DataError: a line holds no record with this field, the file is damaged, or a package is missing.
    """
    for line, record, read in json_records(path, start, example=field):
        yield line, _field_of(f"{str(path)!r}, line {line}", record, field), read


def json_records(path: Path, start: int = 0, example: str = "text") -> Iterator[tuple[int, dict[str, Any], int]]:
    """As `json_lines`, whole records.

    Args:
        path: the file.
        start: the line after which to begin.
        example: a field for the example in an error.

    Raises:
        DataError: a line holds no record, the file is damaged, or a package is missing.
    """
    line = 0
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        lines = stack.enter_context(_decompressed(path, raw))
        try:
            for line, content in enumerate(_short_lines(path, lines), start=1):
                if line > start and content.strip():
                    yield line, _record_of(path, line, content, example), raw.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{str(path)!r} is damaged after line {line}: {error}; fetch it again") from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            if "too much memory" in str(error):
                raise DataError(
                    f"{str(path)!r} was compressed with more memory (zstd --long) than is given to read it; unpack it "
                    "first: zstd -d --long=31"
                ) from error
            raise DataError(f"{str(path)!r} is damaged after line {line}: {error}; fetch it again") from error


def _short_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    for line in itertools.count(1):
        content = file.readline(LONGEST_BYTES + 1)
        if not content:
            return
        if len(content) > LONGEST_BYTES:
            raise DataError(
                f"{str(path)!r}, line {line}: longer than {LONGEST_BYTES:,} bytes, which would not fit into memory; "
                "each line must hold one record"
            )
        yield content


def _decompressed(path: Path, raw: BinaryIO) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if path.suffix.lower() == ".zst":
        try:
            return io.BufferedReader(_ZstdFile(raw), _BLOCK_BYTES)
        except ImportError as error:
            raise DataError(f"reading {str(path)!r} needs zstandard; install it: pip install zstandard") from error
    return contextlib.nullcontext(raw)


class _ZstdFile(io.RawIOBase):
    """The content of a Zstandard file. zstandard's own reader does not notice that a file is truncated."""

    def __init__(self, raw: BinaryIO) -> None:
        from zstandard import ZstdDecompressor

        self._raw = raw
        self._new_frame = ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._compressed = self._content = memoryview(b"")

    def readable(self) -> bool:
        """It is readable."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what comes next."""
        while not self._content:
            self._compressed = self._compressed or memoryview(self._raw.read(_BLOCK_BYTES))
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("it ends too early")
                return 0
            self._frame = self._frame or self._new_frame()
            few = self._compressed[:_COMPRESSED_AT_ONCE]
            self._content = memoryview(self._frame.decompress(few))
            left = 0
            if self._frame.eof:
                left, self._frame = len(self._frame.unused_data), None
            self._compressed = self._compressed[len(few) - left :]
        count = min(len(buffer), len(self._content))
        buffer[:count], self._content = self._content[:count], self._content[count:]
        return count


def _record_of(path: Path, line: int, content: bytes, example: str) -> dict[str, Any]:
    where = f"{str(path)!r}, line {line}"
    try:
        record = json.loads(content.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte 0x{content[error.start]:02x} at column {error.start + 1} is not UTF-8"
        ) from error
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}; each line must hold one record") from error
    except RecursionError as error:
        raise DataError(f"{where}: the record is nested too deep") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a record such as {{{example!r}: ...}}, got {str(record)[:40]!r}")
    return record


def _field_of(where: str, record: dict[str, Any], field: str) -> str:
    if field not in record:
        raise DataError(f"{where}: no field {field!r}; the record has {', '.join(record)[:80] or 'none'} (--field)")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: field {field!r} must hold text, got {str(text)[:40]!r}")
    return text


def parquet_rows(path: Path, field: str, start: int) -> Iterator[tuple[int, str, int]]:
    """The rows of a column, after row `start`: (row from 1, text, bytes of the file read); nulls are skipped.

    Raises:
        DataError: there is no such column, it holds no text, the file is damaged, or pyarrow is missing.
    """
    size = path.stat().st_size
    try:
        with parquet_file(path) as file:
            if field not in (columns := file.schema_arrow.names):
                raise DataError(f"{str(path)!r}: no column {field!r}; it has {', '.join(columns)[:80]} (--field)")
            row, groups = 0, 0
            while groups < file.num_row_groups and row + file.metadata.row_group(groups).num_rows <= start:
                row += file.metadata.row_group(groups).num_rows
                groups += 1
            for batch in file.iter_batches(_ROWS, row_groups=range(groups, file.num_row_groups), columns=[field]):
                for value in batch.column(0):
                    row += 1
                    if row <= start or (text := value.as_py()) is None:
                        continue
                    if not isinstance(text, str):
                        raise DataError(
                            f"{str(path)!r}, row {row}: column {field!r} must hold text, got {str(text)[:40]!r}"
                        )
                    yield row, text, size * row // file.metadata.num_rows
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r}, row {row}: column {field!r} is not UTF-8: {error.reason}") from error
