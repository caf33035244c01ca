"""What is printed: numbers in sentences, and cells in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with what it counts, such as `1 batch` or `2,000 batches`.

    Args:
        n: how many.
        noun: what one of them is called.
        plural: what several are called. Default: `noun` with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def in_columns(lines: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """The lines of a table, with two spaces between columns.

    Args:
        lines: the cells of each, as many in all.
        right: the columns that are aligned on the right, from 0.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
