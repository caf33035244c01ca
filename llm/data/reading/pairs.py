"""Read pairs of sentences: two files line by line, columns of a table, or fields of JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from llm.data.reading.records import json_lines
from llm.data.reading.sources import is_text_file, read_document
from llm.errors import ConfigError, DataError
from llm.runtime.words import counted


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


def read_pairs(corpus: str | Sequence[str], fields: Sequence[int | str] | None = None) -> list[Pair]:
    """The pairs of a corpus, in their order, without white space around them.

    Args:
        corpus: two files, of which line n of the second translates line n of the first; or one file. `*.jsonl`, also
            compressed, has a record in each line; any other is a table with a tab between columns.
        fields: which columns of the table, counted from 1, or which fields of the records are source and target.
            Default: 1 and 2, or `source` and `target`.

    Raises:
        DataError: a file can't be read; the two have not as many lines; or a sentence without a partner: says where.
        ConfigError: `corpus` or `fields` is not one or two of them.
    """
    files = [corpus] if isinstance(corpus, str) else list(corpus)
    if len(files) not in (1, 2) or not all(files):
        raise ConfigError(f"the corpus of a translation is one file of pairs, or two files; got {len(files)}: {files}")
    if fields is not None and len(fields) != 2:
        raise ConfigError(f"fields must be two, that of the source and that of the target; got {list(fields)}")
    if len(files) == 2:
        if fields is not None:
            raise ConfigError("fields are for one file of pairs, and two files are given: leave fields out")
        rows = _side_by_side(Path(files[0]), Path(files[1]))
    elif is_text_file(Path(files[0])):
        rows = _columns(Path(files[0]), (1, 2) if fields is None else fields)
    else:
        rows = _records(Path(files[0]), [str(field) for field in fields or ("source", "target")])
    found = []
    for where, source, target in rows:
        pair = Pair(source.strip(), target.strip())
        if bool(pair.source) != bool(pair.target):
            side, other = ("source", pair.target) if pair.target else ("target", pair.source)
            raise DataError(f"{where}: the {side} of {other[:40]!r} is empty; add it, or remove both")
        if pair.source:
            found.append(pair)
    if not found:
        raise DataError(f"{' and '.join(map(repr, files))} hold no pairs; give sentences and their translations")
    return found


def _lines(path: Path) -> list[str]:
    """The lines of a text file; nothing but a line feed ends one, for both sides to be cut alike."""
    lines = read_document(path).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _side_by_side(source: Path, target: Path) -> Iterator[tuple[str, str, str]]:
    sources, targets = _lines(source), _lines(target)
    if len(sources) != len(targets):
        longer, lines, n = (
            (source, sources, len(targets)) if len(sources) > len(targets) else (target, targets, len(sources))
        )
        raise DataError(
            f"{str(source)!r} has {counted(len(sources), 'line')} and {str(target)!r} has {len(targets):,}: line "
            f"{n + 1:,} of {str(longer)!r}, {lines[n][:40]!r}, is the first without a partner; give files of equal "
            "length"
        )
    for number, (one, other) in enumerate(zip(sources, targets, strict=True), start=1):
        yield f"line {number:,} of {str(source)!r} and {str(target)!r}", one, other


def _columns(path: Path, fields: Sequence[int | str]) -> Iterator[tuple[str, str, str]]:
    numbers = [field if isinstance(field, int) else int(field) if field.isdecimal() else 0 for field in fields]
    if min(numbers) < 1:
        raise ConfigError(f"fields of a table are numbers of columns, counted from 1; got {list(fields)}")
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        columns, where = line.split("\t"), f"{str(path)!r}, line {number:,}"
        if len(columns) < max(numbers):
            raise DataError(
                f"{where}: expected at least {max(numbers)} columns with a tab between, found {len(columns)} in "
                f"{line[:40]!r}"
            )
        yield where, columns[numbers[0] - 1], columns[numbers[1] - 1]


def _records(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    try:
        for (number, source, _), (_, target, _) in zip(*(json_lines(path, name, 0) for name in fields), strict=True):
            yield f"{str(path)!r}, line {number:,}", source, target
    except OSError as error:
        raise DataError(f"can't read {str(path)!r}: {error.strerror or error}") from error
