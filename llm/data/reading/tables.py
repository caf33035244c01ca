"""Read tables whole: CSV, tab-separated text, JSON lines and Parquet, each row with its place."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llm.data.reading.parquet import parquet_file
from llm.data.reading.records import json_records
from llm.errors import DataError

_JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_TABS = (".tsv", ".tab", ".txt", "")
READABLE = ".csv, .tsv, .jsonl or .parquet"


class Table(NamedTuple):
    """The rows of a file.

    Args:
        names: of the columns; None where the file does not say, or may not say.
        rows: the values of each row, in the order of the names.
        places: where each row stands, such as `'mails.csv', line 3`.
    """

    names: list[str] | None
    rows: list[list[Any]]
    places: list[str]


def read_table(path: Path) -> Table:
    """The rows of a `.csv`, `.tsv`, `.jsonl` or `.parquet` file. The first row of text may be a row like any other.

    Raises:
        DataError: the file is of another kind, can't be read, or has rows of unequal length.
    """
    name = path.name.lower()
    try:
        if name.endswith(_JSON_LINES):
            return _of_records(path, ((f"line {line}", record) for line, record, _ in json_records(path)))
        if name.endswith(".parquet"):
            return _of_records(path, _parquet_records(path))
        if path.suffix.lower() == ".csv":
            return _of_text(path, _csv_rows(path))
        if path.suffix.lower() in _TABS:
            return _of_text(path, _tab_rows(path))
    except OSError as error:
        raise DataError(f"can't read {str(path)!r}: {error.strerror or error}") from error
    raise DataError(f"{str(path)!r} is no table that can be read; give {READABLE}, or a folder for each label")


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{str(path)!r}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """RFC 4180: a field in quotes may hold commas, line breaks and doubled quotes."""
    text = _text_of(path)
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{str(path)!r}, line {line}: not CSV: {error}; is a quote missing?") from error


def _tab_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line is a row, and a quote is a character like any other."""
    for line, row in enumerate(_text_of(path).replace("\r\n", "\n").split("\n"), start=1):
        yield line, row.split("\t")


def _of_text(path: Path, found: Iterator[tuple[int, list[str]]]) -> Table:
    lines: list[int] = []
    rows: list[list[Any]] = []
    for line, row in found:
        if not any(field.strip() for field in row):
            continue
        if rows and len(row) != len(rows[0]):
            raise DataError(
                f"{str(path)!r}, line {line}: expected {len(rows[0])} columns as in the rows before, got {len(row)}; "
                "put a text that holds the separator in quotes (.csv)"
            )
        lines.append(line)
        rows.append(row)
    return Table(None, rows, [f"{str(path)!r}, line {line}" for line in lines])


def _of_records(path: Path, found: Iterator[tuple[str, dict[str, Any]]]) -> Table:
    names: list[str] | None = None
    rows: list[list[Any]] = []
    places: list[str] = []
    for place, record in found:
        names = list(record) if names is None else names
        missing = [name for name in names if name not in record]
        if missing:
            raise DataError(
                f"{str(path)!r}, {place}: no field {missing[0]!r}, which the records before have; "
                f"this one has {', '.join(record)[:80] or 'none'}"
            )
        rows.append([record[name] for name in names])
        places.append(f"{str(path)!r}, {place}")
    return Table(names or [], rows, places)


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with parquet_file(path) as file:
        row = 0
        for batch in file.iter_batches():
            for record in batch.to_pylist():
                row += 1
                yield f"row {row}", record
