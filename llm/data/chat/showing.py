"""One sample, with its supervised tokens told from the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from llm.data.batch import IGNORED
from llm.data.tokens.examples import Example
from llm.tokenizers import Tokenizer

_SUPERVISED, _REST, _END = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"


def tokens_of(example: Example) -> tuple[list[int], list[bool]]:
    """All token ids of a sample (T + 1), or T if its last has no target, and whether each is supervised."""
    ids, targets = [int(token) for token in example.inputs], [int(target) for target in example.targets]
    last = targets[-1:] if targets[-1] != IGNORED else []
    return ids + last, [False, *(target != IGNORED for target in targets)][: len(ids) + len(last)]


def as_text(example: Example, tokenizer: Tokenizer, colours: bool) -> str:
    """A sample as text for a terminal: what is supervised is bold and green, or between `[[` and `]]`.

    Args:
        example: a sample whose targets are its inputs shifted by one.
        tokenizer: what encoded it.
        colours: whether the terminal has colours.
    """
    found = []
    for supervised, ids in _runs(*tokens_of(example)):
        text = tokenizer.decode(ids)
        if colours:  # a line at a time: pagers end a colour with its line
            colour = _SUPERVISED if supervised else _REST
            found.append("\n".join(f"{colour}{line}{_END}" if line else "" for line in text.split("\n")))
        else:
            found.append(f"[[{text}]]" if supervised else text)
    return "".join(found)


def as_markdown(example: Example, tokenizer: Tokenizer) -> str:
    """A sample as Markdown, token by token: what is supervised is bold."""
    lines = []
    for supervised, ids in _runs(*tokens_of(example)):
        pieces = (tokenizer.decode([token]).replace("\n", "⏎").replace("`", "ˋ") for token in ids)
        lines.append(" ".join(f"**`{piece}`**" if supervised else f"`{piece}`" for piece in pieces if piece))
    return "\n\n".join(lines)


def _runs(ids: Sequence[int], supervised: Sequence[bool]) -> Iterator[tuple[bool, list[int]]]:
    for learned, run in itertools.groupby(zip(ids, supervised, strict=True), key=lambda pair: pair[1]):
        yield learned, [token for token, _ in run]
