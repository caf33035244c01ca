"""Labelled texts: each once, divided so that every label has its fraction, and as token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from llm.data.order import KeyedPermutation
from llm.data.reading.labelled import LabelledText
from llm.errors import TokenizerError
from llm.runtime.words import counted
from llm.tokenizers import Tokenizer

_KEEP, _DIVIDE = 1, 0
"""What a shuffle of the texts of a label is for; together with the seed they choose it."""


class Distinct(NamedTuple):
    """The different texts of a corpus.

    Args:
        rows: each once, in the order of their first occurrence.
        notes: what was left out, a sentence each.
        repeated: how many rows repeated another.
    """

    rows: list[LabelledText]
    notes: list[str]
    repeated: int


def encode_text(tokenizer: Tokenizer, text: str, context_length: int) -> list[int]:
    """The first `context_length` tokens of a text, with what the model expects before it; a classifier reads the last.

    Raises:
        TokenizerError: the text is empty, or can't be encoded, or nothing in it is a token.
    """
    if not text.strip():
        raise TokenizerError("the text is empty; give at least one word")
    ids = tokenizer.encode_prompt(text.strip())
    if ids == list(tokenizer.prefix_ids) and not tokenizer.encode(text.strip()):
        raise TokenizerError(f"nothing in the text {text.strip()[:40]!r} is a token of this vocabulary; give a word")
    return ids[:context_length]


def text_key(text: str) -> str:
    """What two texts have in common that count as the same: all but white space and case."""
    return " ".join(text.split()).casefold()


def distinct(rows: Sequence[LabelledText]) -> Distinct:
    """Each text once. Empty texts are left out, and so are texts that have several labels."""
    first: dict[str, LabelledText] = {}
    other: dict[str, LabelledText] = {}
    empty = [row for row in rows if not row.text.strip()]
    for row in rows:
        if row.text.strip():
            kept = first.setdefault(text_key(row.text), row)
            if kept.label != row.label:
                other.setdefault(text_key(row.text), row)
    notes = []
    if empty:
        are_left_out = counted(len(empty), "row has no text and is left out", "rows have no text and are left out")
        notes.append(f"{are_left_out}; the first is {empty[0].place}")
    if other:
        key, theirs = next(iter(other.items()))
        are_left_out = counted(
            len(other), "text has several labels and is left out", "texts have several labels and are left out"
        )
        notes.append(
            f"{are_left_out}; the first is {first[key].text[:40]!r}, "
            f"{first[key].label!r} at {first[key].place} and {theirs.label!r} at {theirs.place}"
        )
    kept_rows = [row for key, row in first.items() if key not in other]
    return Distinct(kept_rows, notes, len(rows) - len(empty) - len(first))


def without(rows: Sequence[LabelledText], held_out: Iterable[LabelledText]) -> list[LabelledText]:
    """The rows whose texts are not among others."""
    keys = {text_key(row.text) for row in held_out}
    return [row for row in rows if text_key(row.text) not in keys]


def counts(rows: Iterable[LabelledText]) -> Counter[str]:
    """How many rows each label has."""
    return Counter(row.label for row in rows)


def undersample(rows: Sequence[LabelledText], seed: int = 0) -> list[LabelledText]:
    """As many rows of every label as the rarest has, in their order.

    Args:
        rows: of all labels.
        seed: chooses them.
    """
    least = min(counts(rows).values(), default=0)
    return _take(rows, {index for at in _by_label(rows) for index in at[_shuffle(len(at), seed, _KEEP)[:least]]})


def divide(rows: Sequence[LabelledText], fractions: Sequence[float], seed: int = 0) -> list[list[LabelledText]]:
    """Parts of the rows, and last of all what is left, in which every label has the same fraction.

    At least one row of each label is left.

    Args:
        rows: of all labels.
        fractions: of each part.
        seed: chooses which row goes where.
    """
    parts: list[set[int]] = [set() for _ in fractions]
    for at in _by_label(rows):
        shuffled, start = at[_shuffle(len(at), seed, _DIVIDE)], 0
        for part, fraction in zip(parts, fractions, strict=True):
            end = min(start + int(len(at) * fraction + 0.5), len(at) - 1)
            part.update(shuffled[start:end].tolist())
            start = end
    taken = set().union(*parts)
    return [_take(rows, part) for part in parts] + [_take(rows, set(range(len(rows))) - taken)]


def _by_label(rows: Sequence[LabelledText]) -> list[np.ndarray]:
    labels = np.array([row.label for row in rows])
    return [np.flatnonzero(labels == label) for label in sorted(counts(rows))]


def _shuffle(n: int, seed: int, purpose: int) -> np.ndarray:
    return KeyedPermutation(n, seed, purpose)(np.arange(n))


def _take(rows: Sequence[LabelledText], which: set[int]) -> list[LabelledText]:
    return [row for index, row in enumerate(rows) if index in which]
