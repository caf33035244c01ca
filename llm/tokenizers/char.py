"""Character-level tokens: the smallest vocabulary, the longest sequences."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers.base import (
    END_OF_TEXT,
    Tokenizer,
    UnknownPieceError,
    build_vocabulary,
    check_specials,
    find_unknown_token,
)

_UNKNOWN = 2**32 - 1


class CharTokenizer(Tokenizer):
    """One id for each distinct character (Unicode code point).

    Args:
        vocabulary: the distinct characters, in the order of their ids.
        specials: special tokens, numbered after them. With `<|unk|>` or `[UNK]`, unknown characters become it;
            without, they are an error.

    Raises:
        TokenizerError: a token is there twice, a special one has white space in it, or a vocabulary entry is not
            one character.
    """

    kind: ClassVar[str] = "char"
    cuts = " \n"

    def __init__(self, vocabulary: Sequence[str], specials: Sequence[str] = ()) -> None:
        self.vocabulary = "".join(vocabulary)
        if len(self.vocabulary) != len(vocabulary):
            raise TokenizerError("each entry of a character vocabulary must be one character")
        self.specials = check_specials(specials)
        self._tokens, self._ids = build_vocabulary(tuple(self.vocabulary), self.specials)
        self._unknown_id = find_unknown_token(self.special_ids)
        # Special tokens as wholes, then every other character, line breaks included.
        self._pieces = re.compile("|".join([*map(re.escape, self.specials), "."]), re.DOTALL)

    @classmethod
    def from_text(cls, text: str, specials: Sequence[str] = ()) -> Self:
        """The tokenizer whose vocabulary is the sorted set of the characters of `text`."""
        return cls(sorted(set(text)), specials)

    @classmethod
    def build(cls, texts: Iterable[str], config: TokenizerConfig) -> Self:
        """Learn the vocabulary of all texts."""
        specials = (END_OF_TEXT,) if config.specials is None else config.specials
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        return cls(sorted(characters - set(specials)), specials)

    @property
    def vocab_size(self) -> int:
        """Number of characters and special tokens."""
        return len(self._tokens)

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens and their ids."""
        return {special: self._ids[special] for special in self.specials}

    def encode(self, text: str) -> list[int]:
        """The id of each character; special tokens in the text become themselves.

        Raises:
            TokenizerError: a character is not in the vocabulary; names it and its place.
        """
        pieces = self._pieces.findall(text) if self.specials else text
        if self._unknown_id is not None:
            return [self._ids.get(piece, self._unknown_id) for piece in pieces]
        try:
            return [self._ids[piece] for piece in pieces]
        except KeyError as error:
            character = error.args[0]
            offset = next(match.start() for match in self._pieces.finditer(text) if match[0] == character)
            advice = (
                f"this vocabulary has {self.vocab_size} tokens: add <|unk|> to its specials to allow unknown characters"
            )
            raise UnknownPieceError.at(f"character {character!r}", text, offset, advice) from None

    def encode_array(self, text: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The ids of `text`, (N,): all characters looked up at once.

        Raises:
            TokenizerError: a character is not in the vocabulary.
        """
        if any(special in text for special in self.specials):
            return super().encode_array(text)
        table = self._table
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids = table[np.minimum(codes, len(table) - 1)]
        if (unknown := ids == _UNKNOWN).any():
            if self._unknown_id is None:
                return super().encode_array(text)  # which says what and where
            ids[unknown] = self._unknown_id
        return ids

    @functools.cached_property
    def _table(self) -> npt.NDArray[np.uint32]:
        """The id of every code point up to the last in the vocabulary, and of one more."""
        codes = [ord(character) for character in self.vocabulary]
        table = np.full(max(codes, default=0) + 2, _UNKNOWN, np.uint32)
        table[codes] = np.arange(len(codes))
        return table

    def decode(self, ids: Iterable[int]) -> str:
        """The characters, one after the other."""
        return "".join(self._tokens[self._check_id(token_id)] for token_id in ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of one character or special token."""
        return self._tokens[self._check_id(token_id)].encode()

    def to_dict(self) -> dict[str, Any]:
        """Kind, characters and special tokens."""
        return {"kind": self.kind, "vocabulary": self.vocabulary, "specials": list(self.specials)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """The tokenizer that `to_dict` described."""
        return cls(state["vocabulary"], state["specials"])
