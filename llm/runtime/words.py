"""Numbers in the sentences of messages."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with what it counts, such as `1 batch` or `2,000 batches`.

    Args:
        n: how many.
        noun: what one of them is called.
        plural: what several are called. Default: `noun` with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"
