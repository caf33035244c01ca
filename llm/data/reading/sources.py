"""Read files of any size as chunks of text: plain text, records of JSON lines, columns of Parquet.

A chunk depends only on the files and where it begins, so that reading can resume anywhere.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from llm.data.reading.records import LONGEST_BYTES, json_lines, parquet_rows
from llm.errors import DataError, TokenizerError
from llm.tokenizers.base import UnknownPieceError

BLOCK_BYTES = 1 << 20
"""Size of a chunk: large enough that a call costs little, small enough to hold many."""

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
        """The error that text `number` caused, with its place in the file."""
        place = self.places[number]
        if is_text_file(self.path):
            if isinstance(error, UnknownPieceError):
                error = error.moved(*_lines_and_columns(self.path, place))
            return TokenizerError(f"{str(self.path)!r}: {error}")
        unit = "row" if _is_parquet(self.path) else "line"
        return TokenizerError(f"{str(self.path)!r}, {unit} {place}: {error}")


def is_text_file(path: Path) -> bool:
    """Whether a file is one document, and not a collection of records."""
    return not path.name.lower().endswith((*_JSON_LINES, ".parquet"))


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


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
            of which empty ones are skipped; any other file is one document.
        cuts: a text file may be cut before one of these characters if a letter or digit stands before it; see
            `Tokenizer.cuts`. Nowhere else.
        field: of a JSON record, or the column of a Parquet file, that holds the text.
        start: where to resume.
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
        if (offset := block.find(b"\0")) >= 0:
            raise DataError(f"{str(path)!r} is not text: NUL byte at offset {start + offset}; give a UTF-8 text file")
        if ended:
            return text, start + n_bytes, True
        if cut := last_cut(text, cuts):
            n_bytes -= len(text[cut:].encode())
            return text[:cut], start + n_bytes, False
        if cuts and size >= LONGEST_BYTES:
            raise DataError(
                f"{str(path)!r} has no letter or digit with white space after it in the {size:,} bytes from offset "
                f"{start} on; so long a piece would not fit into memory: break it into words, or records of .jsonl"
            )
        size *= 2


def last_cut(text: str, cuts: str) -> int:
    """The last index at which one of the characters `cuts` follows a letter or digit, or 0."""
    found = 0
    for character in cuts:
        index = text.rfind(character)
        while index > found and not text[index - 1].isalnum():
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
    records = parquet_rows if _is_parquet(path) else json_lines
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
