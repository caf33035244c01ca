"""Vectors with names: the token embeddings of a checkpoint, or a file in word2vec's text or binary format."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from llm.errors import CheckpointError, ConfigError
from llm.pretrained.checkpoint import tokenizer_of, weights_of
from llm.pretrained.formats import read_pretrained, read_with_base
from llm.pretrained.replacing import refuse_existing
from llm.runtime.files import make_folder, whole_file
from llm.runtime.words import counted
from llm.tokenizers import Tokenizer, WordTokenizer

SUFFIXES = {".bin": True, ".txt": False, ".vec": False}
"""Of files in word2vec's format, and whether it is the binary one."""

_TOKENS = ("embeddings.token.weight", "embedding.weight", "token.weight")
"""Where a network has its token embeddings: a Transformer, a recurrent one, and word vectors."""
_LONGEST_HEADER = 100
_LONGEST_NAME = 10_000


@dataclass(frozen=True)
class NamedVectors:
    """A table of vectors and what each is of.

    Args:
        names: (V) words, or tokens, which may begin with a space.
        table: (V, C) float32.
        kind: what the names are, in the plural.
    """

    names: Sequence[str]
    table: Tensor
    kind: Literal["words", "tokens"] = "words"

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: number for number, name in reversed(list(enumerate(self.names)))}  # the first of equal ones

    def find(self, word: str) -> int | None:
        """The number of a word: with a space before it if there is such a token, as it is, or in lower case."""
        spellings = (f" {word}", word, f" {word.lower()}", word.lower())
        return next((self._index[spelling] for spelling in spellings if spelling in self._index), None)

    def near(self, word: str, most: int = 3) -> list[str]:
        """Names that are spelled like a word."""
        stripped = list(dict.fromkeys(name.strip() for name in self.names))
        return difflib.get_close_matches(word.lower(), stripped, most)


def read_vectors(source: str | Path) -> NamedVectors:
    """The vectors of a `.ckpt` of any task, of any other weights that can be read, or of word2vec's files.

    Args:
        source: what `read_pretrained` reads, or a file that ends in `.txt`, `.vec` (text) or `.bin` (binary).

    Raises:
        CheckpointError: it can't be read, or has no tokenizer or no token embeddings.
    """
    path = Path(source)
    if path.suffix in SUFFIXES:
        return _read_word2vec(path, SUFFIXES[path.suffix])
    if path.suffix == ".ckpt":
        checkpoint = read_with_base(path)
        weights, tokenizer = weights_of(checkpoint), tokenizer_of(checkpoint, path)
    else:
        pretrained = read_pretrained(source, any_task=True)
        if pretrained.tokenizer is None:
            raise CheckpointError(f"{str(source)!r} has no tokenizer, so its vectors have no names")
        weights, tokenizer = pretrained.weights, pretrained.tokenizer
    table = next((weights[name] for name in _TOKENS if name in weights), None)
    if table is None or table.ndim != 2 or len(table) < tokenizer.vocab_size:
        raise CheckpointError(f"{str(source)!r} has no embedding for each of its {tokenizer.vocab_size:,} tokens")
    return _named(tokenizer, table[: tokenizer.vocab_size].float())


def _named(tokenizer: Tokenizer, table: Tensor) -> NamedVectors:
    """Without special tokens, which are no words."""
    specials = set(tokenizer.special_ids.values())
    ids = [token for token in range(tokenizer.vocab_size) if token not in specials]
    names = [tokenizer.token_bytes(token).decode("utf-8", "backslashreplace") for token in ids]
    return NamedVectors(names, table[torch.tensor(ids)], "words" if isinstance(tokenizer, WordTokenizer) else "tokens")


# word2vec's format: a line with V and C, then for each word the word, a space, and its C numbers, in decimal with a
# line break after them, or as float32.


def write_word2vec(vectors: NamedVectors, out: str | Path, binary: bool = False, overwrite: bool = False) -> None:
    """Write vectors in word2vec's format, which gensim's `KeyedVectors.load_word2vec_format` opens.

    Args:
        vectors: of words without white space.
        out: the file; it is there whole, or as it was before.
        binary: numbers as float32, not in decimal. Both are exact.
        overwrite: replace what is there.

    Raises:
        ConfigError: a name has white space in it.
        CheckpointError: the file is there already, or can't be written.
    """
    if spaced := [name for name in vectors.names if not name or name.split() != [name]]:
        raise ConfigError(
            f"word2vec's format has no place for a name with white space such as {spaced[0]!r}: it is for vectors of "
            "words"
        )
    target = Path(out)
    refuse_existing(target, overwrite)
    table = vectors.table.detach().cpu().float().numpy()
    try:
        make_folder(target.parent)
        with whole_file(target) as file:
            file.write(f"{table.shape[0]} {table.shape[1]}\n".encode())
            for name, row in zip(vectors.names, table, strict=True):
                numbers = row.astype("<f4").tobytes() if binary else " ".join(row.astype(str)).encode()
                file.write(name.encode() + b" " + numbers + b"\n")
    except OSError as error:
        raise CheckpointError(f"can't write {str(target)!r}: {error.strerror or error}") from error


def _read_word2vec(path: Path, binary: bool) -> NamedVectors:
    try:
        with path.open("rb") as file:
            n_words, size = _header(file, path)
            rows = _binary_rows(file, n_words, size, path) if binary else _text_rows(file, n_words, size, path)
            found: dict[str, np.ndarray] = {}
            for name, vector in rows:
                found.setdefault(name, vector)  # the first of equal ones, as gensim has it
            if file.read(_LONGEST_HEADER).strip():
                says = f"its first line says {counted(n_words, 'word')}, it has more"
                raise CheckpointError(f"{str(path)!r} is damaged: {says}")
    except OSError as error:
        raise CheckpointError(f"can't read {str(path)!r}: {error.strerror or error}") from error
    table = torch.from_numpy(np.stack(list(found.values())))  # (V, C)
    if not bool(table.isfinite().all()):
        raise CheckpointError(f"{str(path)!r} is damaged: a vector has a number that is NaN or infinite")
    return NamedVectors(list(found), table)


def _header(file: BinaryIO, path: Path) -> tuple[int, int]:
    line = file.readline(_LONGEST_HEADER)
    numbers = line.split()
    if len(numbers) != 2 or not all(number.isdigit() and int(number) > 0 for number in numbers):
        shown = line[:40].decode("utf-8", "backslashreplace").strip()
        raise CheckpointError(
            f"{str(path)!r} is not in word2vec's format: its first line must be the number of words and the size of "
            f"the vectors, such as '15358 100'; got {shown!r}"
        )
    return int(numbers[0]), int(numbers[1])


def _cut_short(path: Path, found: int, n_words: int) -> CheckpointError:
    return CheckpointError(
        f"{str(path)!r} was cut short: its first line says {counted(n_words, 'word')}, it has {found:,}"
    )


def _text_rows(file: BinaryIO, n_words: int, size: int, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for number in range(n_words):
        if not (line := file.readline().rstrip(b" \r\n")):
            raise _cut_short(path, number, n_words)
        name, *numbers = line.rsplit(b" ", size)
        try:
            if len(numbers) != size:
                raise ValueError
            yield name.decode("utf-8", "replace"), np.array(numbers, np.float32)
        except ValueError:
            raise CheckpointError(
                f"{str(path)!r}, line {number + 2}: expected a word and {size} numbers, got {line[:60]!r}"
            ) from None


def _binary_rows(file: BinaryIO, n_words: int, size: int, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for number in range(n_words):
        name = bytearray()
        while (byte := file.read(1)) != b" ":
            if not byte or len(name) > _LONGEST_NAME:
                raise _cut_short(path, number, n_words)
            name += byte
        content = file.read(4 * size)
        if len(content) < 4 * size:
            raise _cut_short(path, number, n_words)
        # some programs write a line break after each vector, others don't
        yield name.lstrip(b"\n").decode("utf-8", "replace"), np.frombuffer(content, "<f4").astype(np.float32)
