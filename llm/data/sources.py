"""Read files of any size as chunks of text: plain text, records of JSON lines, columns of Parquet.

What a chunk holds depends on nothing but the files and where it begins, so that reading can go on anywhere.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llm.errors import DataError, TokenizerError
from llm.tokenizers.base import UnknownPieceError

BLOCK_BYTES = 1 << 20
"""How much text makes a chunk: enough that a call costs nothing beside it, little enough to hold many."""

_BYTE_ORDER_MARK = "\ufeff"
_JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class Position(NamedTuple):
    """How far a corpus has been read."""

    file: int = 0
    """Number of files read whole."""
    offset: int = 0
    """Of the next file: bytes of a text file, lines or rows of others."""


@dataclass(frozen=True)
class Chunk:
    """Some text of one file.

    Args:
        path: the file.
        texts: documents, or parts of one document.
        places: where each begins: the byte in a text file, from 0; the line or row of others, from 1.
        continues: the first text goes on with the document of the chunk before.
        after: where the next chunk begins.
        bytes_read: of the file, up to here.
    """

    path: Path
    texts: list[str]
    places: list[int]
    continues: bool
    after: Position
    bytes_read: int

    def explain(self, number: int, error: TokenizerError) -> TokenizerError:
        """The error that text `number` led to, with its place in the file."""
        place = self.places[number]
        if is_text_file(self.path):
            if isinstance(error, UnknownPieceError):
                error = error.moved(*_lines_and_columns(self.path, place))
            return TokenizerError(f"{str(self.path)!r}: {error}")
        unit = "row" if self.path.suffix == ".parquet" else "line"
        return TokenizerError(f"{str(self.path)!r}, {unit} {place}: {error}")


def is_text_file(path: Path) -> bool:
    """Whether a file is one document, and not a collection of records."""
    return not path.name.endswith((*_JSON_LINES, ".parquet"))


def read_chunks(
    paths: Sequence[Path],
    cuts: str = "",
    field: str = "text",
    start: Position = Position(),  # noqa: B008 (it is immutable)
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Chunk]:
    r"""The text of files in their order, without a byte order mark, and with `\r\n` read as `\n` in text files.

    Args:
        paths: the files. `*.jsonl`, `*.jsonl.gz`, `*.jsonl.zst` and `*.parquet` hold a document in each record,
            of which empty ones are left out; any other file is one document.
        cuts: a text file may be cut before one of these characters if a letter stands before it; see
            `Tokenizer.cuts`. Nowhere else.
        field: of a JSON record, or the column of a Parquet file, that holds the text.
        start: where to go on.
        block_bytes: about how much text goes into one chunk.

    Raises:
        DataError: a file can't be read, is empty or is not UTF-8 text; says where.
    """
    for number in range(start.file, len(paths)):
        path = Path(paths[number])
        offset = start.offset if number == start.file else 0
        try:
            if is_text_file(path):
                yield from _read_text(path, number, cuts, offset, block_bytes)
            else:
                yield from _read_records(path, number, field, offset, block_bytes)
        except OSError as error:
            raise DataError(f"can't read {str(path)!r}: {error.strerror or error}") from error


def read_document(path: str | Path) -> str:
    r"""The text of one UTF-8 file, without a byte order mark, and with `\r\n` read as `\n`.

    Raises:
        DataError: the file can't be read, is empty, or is not UTF-8 text; with the offset of the byte at fault.
    """
    try:
        (chunk,) = _read_text(Path(path), 0, "", 0, BLOCK_BYTES)
    except OSError as error:
        raise DataError(f"can't read {str(path)!r}: {error.strerror}") from error
    return chunk.texts[0]


# Text files


def _read_text(path: Path, number: int, cuts: str, start: int, block_bytes: int) -> Iterator[Chunk]:
    with path.open("rb") as file:
        ended = False
        while not ended:
            text, end, ended = _cut_block(path, file, cuts, start, block_bytes)
            if (offset := text.find("\0")) >= 0:
                offset = start + len(text[:offset].encode())
                raise DataError(f"{str(path)!r} is not text: NUL byte at offset {offset}; give a UTF-8 text file")
            if start == 0:
                text = text.removeprefix(_BYTE_ORDER_MARK)
                if ended and not text.strip():
                    raise DataError(
                        f"{str(path)!r} is empty: {end} bytes without any text; give a file with text in it"
                    )
            text = text.replace("\r\n", "\n")
            after = Position(number + 1) if ended else Position(number, end)
            yield Chunk(path, [text], [start], start > 0, after, end)
            start = end


def _cut_block(path: Path, file: BinaryIO, cuts: str, start: int, size: int) -> tuple[str, int, bool]:
    """The text from byte `start` up to the last place in the block where it may be cut; more, if there is none.

    Gives the text, the byte where it ends, and whether that is the end of the file.
    """
    while True:
        file.seek(start)
        block = file.read(size + 1)  # one more, to know whether the file ends here
        ended = len(block) <= size
        try:
            text, n_bytes = codecs.utf_8_decode(block[:size], "strict", ended)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{str(path)!r} is not UTF-8 text: byte 0x{block[error.start]:02x} at offset {start + error.start} "
                f"({error.reason}); convert the file to UTF-8"
            ) from error
        if ended:
            return text, start + n_bytes, True
        if cut := last_cut(text, cuts):
            n_bytes -= len(text[cut:].encode())
            return text[:cut], start + n_bytes, False
        size *= 2


def last_cut(text: str, cuts: str) -> int:
    """The last index at which one of the characters `cuts` follows a letter, or 0."""
    found = 0
    for character in cuts:
        index = text.rfind(character)
        while index > found and not text[index - 1].isalpha():
            index = text.rfind(character, 0, index)
        found = max(found, index)
    return found


def _lines_and_columns(path: Path, end: int) -> tuple[int, int]:
    """Whole lines, and characters after them, before byte `end`; counted only to report an error."""
    lines, tail = 0, b""
    with path.open("rb") as file:
        while end > 0 and (block := file.read(min(end, BLOCK_BYTES))):
            end -= len(block)
            before, newline, rest = block.rpartition(b"\n")
            lines += before.count(b"\n") + len(newline)
            tail = rest if newline else tail + rest
    return lines, len(tail.decode("utf-8-sig" if lines == 0 else "utf-8", errors="replace"))


# Records


def _read_records(path: Path, number: int, field: str, start: int, block_chars: int) -> Iterator[Chunk]:
    records = _parquet_rows if path.suffix == ".parquet" else _json_lines
    texts: list[str] = []
    places: list[int] = []
    found = start > 0
    size, place, bytes_read = 0, start, 0
    for place, text, bytes_read in records(path, field, start):
        if not text.strip():
            continue
        texts.append(text)
        places.append(place)
        size += len(text)
        found = True
        if size >= block_chars:
            yield Chunk(path, texts, places, False, Position(number, place), bytes_read)
            texts, places, size = [], [], 0
    if not found:
        raise DataError(f"{str(path)!r} is empty: no record has text in {field!r}; give a file with text in it")
    if texts:
        yield Chunk(path, texts, places, False, Position(number + 1), path.stat().st_size)


def _json_lines(path: Path, field: str, start: int) -> Iterator[tuple[int, str, int]]:
    """(line, text, bytes of the file read) of each record after line `start`."""
    line = 0
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        lines = stack.enter_context(_decompressed(path, raw))
        try:
            for line, content in enumerate(lines, start=1):
                if line > start and content.strip():
                    yield line, _field_of(path, line, content, field), raw.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{str(path)!r} is damaged after line {line}: {error}; fetch it again") from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise DataError(f"{str(path)!r} is damaged after line {line}: {error}; fetch it again") from error


def _decompressed(path: Path, raw: BinaryIO) -> Any:
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if path.suffix == ".zst":
        try:
            return io.BufferedReader(_ZstdFile(raw), BLOCK_BYTES)
        except ImportError as error:
            raise DataError(f"reading {str(path)!r} needs zstandard; install it: pip install zstandard") from error
    return contextlib.nullcontext(raw)


class _ZstdFile(io.RawIOBase):
    """The content of a Zstandard file. zstandard's own reader takes one that is cut short for whole."""

    def __init__(self, raw: BinaryIO) -> None:
        from zstandard import ZstdDecompressor

        self._raw = raw
        self._new_frame = ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._compressed = self._content = b""

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what comes next."""
        while not self._content:
            self._compressed = self._compressed or self._raw.read(BLOCK_BYTES >> 3)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("it ends too early")
                return 0
            self._frame = self._frame or self._new_frame()
            self._content = self._frame.decompress(self._compressed)
            self._compressed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._content))
        buffer[:count], self._content = self._content[:count], self._content[count:]
        return count


def _field_of(path: Path, line: int, content: bytes, field: str) -> str:
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
        raise DataError(f"{where}: expected a record such as {{{field!r}: ...}}, got {str(record)[:40]!r}")
    if field not in record:
        raise DataError(f"{where}: no field {field!r}; the record has {', '.join(record)[:80] or 'none'} (--field)")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: field {field!r} must hold text, got {str(text)[:40]!r}")
    return text


def _parquet_rows(path: Path, field: str, start: int) -> Iterator[tuple[int, str, int]]:
    """(row from 1, text, bytes of the file read) of each row after row `start`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"reading {str(path)!r} needs pyarrow; install it: pip install pyarrow") from error
    size = path.stat().st_size
    try:
        with parquet.ParquetFile(path) as file:
            if field not in (columns := file.schema_arrow.names):
                raise DataError(f"{str(path)!r}: no column {field!r}; it has {', '.join(columns)[:80]} (--field)")
            row, groups = 0, 0
            while groups < file.num_row_groups and row + file.metadata.row_group(groups).num_rows <= start:
                row += file.metadata.row_group(groups).num_rows
                groups += 1
            for batch in file.iter_batches(1024, row_groups=range(groups, file.num_row_groups), columns=[field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if row <= start or text is None:
                        continue
                    if not isinstance(text, str):
                        raise DataError(
                            f"{str(path)!r}, row {row}: column {field!r} must hold text, got {str(text)[:40]!r}"
                        )
                    yield row, text, size * row // file.metadata.num_rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{str(path)!r} can't be read as Parquet: {error}") from error
