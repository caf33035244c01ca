"""How far the reading of files has come."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from llm.data.reading.sources import Chunk, Position

_BEGINNING = Position()


@contextlib.contextmanager
def reading_progress(
    paths: Sequence[Path], name: str, start: Position = _BEGINNING
) -> Iterator[Callable[[Chunk], None]]:
    """A progress bar on standard error, if that is a terminal, for what takes more than a moment.

    Args:
        paths: the files that are read, in their order.
        name: what is done with them.
        start: where reading begins.

    Returns:
        What is to be called with every chunk that is done.
    """
    *before, total = itertools.accumulate((path.stat().st_size if path.is_file() else 0 for path in paths), initial=0)
    bytes_before = dict(zip(paths, before, strict=True))
    skipped = before[start.file] if start.file < len(paths) else total
    with tqdm(
        total=total, initial=skipped, desc=name, unit="B", unit_scale=True, delay=1, disable=None, file=sys.stderr
    ) as bar:
        yield lambda chunk: bar.update(bytes_before[chunk.path] + chunk.bytes_read - bar.n)
