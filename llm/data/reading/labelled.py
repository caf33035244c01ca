"""Texts and their labels, as they stand in files: which columns they are in, and what is wrong with a row."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm.data.reading.corpus import sources_of
from llm.data.reading.messages import MESSAGES, messages
from llm.data.reading.sms_spam import SMS_SPAM, sms_spam
from llm.data.reading.sources import read_document
from llm.data.reading.tables import Table, read_table
from llm.errors import DataError

_TEXT_NAMES = ("text", "message", "sentence", "review", "content", "body", "document", "sms", "tweet", "title")
_LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "y")

_ENOUGH_ROWS = 4
"""From which on a column of different values is none of labels."""


class LabelledText(NamedTuple):
    """A text and its label.

    Args:
        text: as it stands there.
        label: a string, whatever stands there.
        place: where, such as `'mails.csv', line 3`.
    """

    text: str
    label: str
    place: str


def read_labelled(
    corpus: str | Sequence[str],
    text_column: str | None = None,
    label_column: str | None = None,
    data_dir: str | Path = "data",
) -> list[LabelledText]:
    """All texts of a corpus with their labels, in order, as they are: with repetitions, and with empty ones.

    Args:
        corpus: a `.csv`, `.tsv`, `.jsonl` or `.parquet` file, a folder with a folder of `*.txt` for each label, a known
            name (`messages`, `sms-spam`), or several of these.
        text_column: the column of the text. Default: it is guessed.
        label_column: the column of the label. Default: it is guessed.
        data_dir: where the files of known names are looked for, and downloaded to.

    Raises:
        DataError: there is no such corpus or column, a label is missing or of mixed types, or a file can't be read.
    """
    sources = sources_of(corpus)
    rows: list[LabelledText] = []
    for source in sources:
        rows += _read_one(source, text_column, label_column, Path(data_dir))
    if not rows:
        raise DataError(f"the corpus {', '.join(map(repr, sources))[:80]} holds no texts with labels")
    return rows


def labelled_files(corpus: str | Sequence[str], data_dir: str | Path = "data") -> list[Path]:
    """The files that `read_labelled` reads."""
    files: list[Path] = []
    for source in sources_of(corpus):
        if source not in MESSAGES:
            path = sms_spam(Path(data_dir)) if source == SMS_SPAM else Path(source).expanduser()
            files += sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    return files


def _read_one(source: str, text_column: str | None, label_column: str | None, data_dir: Path) -> list[LabelledText]:
    if source in MESSAGES:
        return [
            LabelledText(text, label, f"{source}, {n}") for n, (text, label) in enumerate(messages(source), start=1)
        ]
    path = sms_spam(data_dir) if source == SMS_SPAM else Path(source).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise DataError(f"can't read {source[:80]!r}: {error.strerror}; the corpus is the path of a file") from error
    if is_folder:
        return list(_folders(path))
    if not is_file:
        near = difflib.get_close_matches(path.name, _names_beside(path), n=1)
        raise DataError(
            f"no corpus {source[:80]!r}: there is no such file or folder, and the known names are "
            f"{', '.join((*MESSAGES, SMS_SPAM))}{f'; did you mean {near[0]!r}?' if near else ''}"
        )
    table = read_table(path)
    return list(_rows(path, table, text_column, label_column)) if table.rows else []


def _names_beside(path: Path) -> list[str]:
    try:
        return [*MESSAGES, SMS_SPAM, *(file.name for file in path.parent.iterdir())]
    except OSError:
        return [*MESSAGES, SMS_SPAM]


def _folders(folder: Path) -> Iterator[LabelledText]:
    labels = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not labels:
        raise DataError(f"folder {str(folder)!r} has no folders in it: give one for each label, with *.txt files")
    for label in labels:
        files = sorted(file for file in label.rglob("*.txt") if file.is_file())
        if not files:
            raise DataError(f"folder {str(label)!r} holds no *.txt file; put the texts of this label in it")
        for file in files:
            text = read_document(file) if file.stat().st_size else ""
            yield LabelledText(text, label.name, repr(str(file)))


def _rows(path: Path, table: Table, text_column: str | None, label_column: str | None) -> Iterator[LabelledText]:
    text_at, label_at, has_header = _columns(path, table, text_column, label_column)
    kinds: dict[str, tuple[Any, str]] = {}
    for row, place in list(zip(table.rows, table.places, strict=True))[has_header:]:
        text, label = row[text_at], row[label_at]
        if not isinstance(text, str | None):
            raise DataError(f"{place}: the text must be a string, got {str(text)[:40]!r}; is it in another column?")
        kind = "a string" if isinstance(label, str) else "a number" if isinstance(label, int) else None
        if kind is None:
            raise DataError(f"{place}: a label is a string or an integer, got {str(label)[:40]!r}")
        if not str(label).strip():
            raise DataError(f"{place}: the label is empty; give it one, or remove the row")
        kinds.setdefault(kind, (label, place))
        if len(kinds) > 1:
            (first, where), _ = kinds.values()
            raise DataError(
                f"{place}: the label {label!r} is {kind}, and {first!r} ({where}) is not: write all labels alike"
            )
        yield LabelledText(text or "", str(label).strip(), place)


def _columns(path: Path, table: Table, text_column: str | None, label_column: str | None) -> tuple[int, int, bool]:
    """The columns of text and label, and whether the first row of a file of text names them."""
    names = [str(name).strip() for name in (table.rows[0] if table.names is None else table.names)]
    is_text = table.names is None
    if text_column is not None or label_column is not None:
        text_at, label_at = (
            None if name is None else _named(path, names, name, option)
            for name, option in ((text_column, "text_column"), (label_column, "label_column"))
        )
        if text_at is None or label_at is None:
            given = label_at if text_at is None else text_at
            others = [index for index in range(len(names)) if index != given]
            wanted = _TEXT_NAMES if text_at is None else _LABEL_NAMES
            option = "text_column" if text_at is None else "label_column"
            other = others[0] if len(others) == 1 else _known([names[i].lower() for i in others], wanted)
            if other is None:
                raise _undecided(path, names, f"--data.{option}")
            other = other if len(others) == 1 else others[other]
            text_at, label_at = (other, label_at) if text_at is None else (text_at, other)
        assert text_at is not None
        assert label_at is not None
        if text_at == label_at:
            raise DataError(f"text_column and label_column are both {names[text_at]!r}; the label is another column")
        return text_at, label_at, is_text
    lower = [name.lower() for name in names]
    text_at, label_at = _known(lower, _TEXT_NAMES), _known(lower, _LABEL_NAMES)
    if text_at is not None and label_at is not None:
        return text_at, label_at, is_text
    if len(names) != 2:
        raise _undecided(path, names, "--data.text_column and --data.label_column")
    different = [len({str(row[column]) for row in table.rows}) for column in (0, 1)]
    is_named = label_at is not None
    if label_at is None:
        label_at = 1 - text_at if text_at is not None else 0 if different[0] < different[1] else 1
    if not is_named and different[label_at] == len(table.rows) >= _ENOUGH_ROWS:
        raise DataError(
            f"{str(path)!r} has no column of labels: each value of {names[label_at][:40]!r} comes once; give texts "
            "whose labels come again, or name the column with --data.label_column"
        )
    # The name of a column is no label; where the first value is one, there is no row of names.
    has_header = is_text and table.rows[0][label_at] not in {row[label_at] for row in table.rows[1:]}
    return 1 - label_at, label_at, has_header


def _known(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _named(path: Path, names: Sequence[str], name: str, option: str) -> int:
    if name in names:
        return names.index(name)
    lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    raise DataError(
        f"{str(path)!r} has no column {name!r} (--data.{option}); it has {', '.join(names)[:80]}"
        f"{f'; did you mean {lower[near[0]]!r}?' if near else ''}"
    )


def _undecided(path: Path, names: Sequence[str], options: str) -> DataError:
    if len(names) == 1:
        return DataError(
            f"{str(path)!r} has one column, {names[0][:40]!r}, and needs two: the text and its label; add a column of "
            "labels, with a comma (.csv) or a tab (.tsv) between the two"
        )
    return DataError(
        f"which columns of {str(path)!r} are text and label? It has {', '.join(names)[:80]}: give {options}"
    )
