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
from llm.tokenizers.base import END_OF_TEXT, UnknownPieceError
from llm.tokenizers.vocabulary import VocabularyTokenizer

_UNKNOWN = 2**32 - 1


class CharTokenizer(VocabularyTokenizer):
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

    def __init__(self, vocabulary: Sequence[str], specials: Sequence[str] = ()) -> None:
        self.vocabulary = "".join(vocabulary)
        if len(self.vocabulary) != len(vocabulary):
            raise TokenizerError("each entry of a character vocabulary must be one character")
        super().__init__(tuple(self.vocabulary), specials)
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

    def pieces(self, text: str, as_text: bool = False) -> Sequence[str]:
        """The characters."""
        return self._pieces.findall(text) if self.specials and not as_text else text

    def unknown(self, piece: str, text: str, as_text: bool = False) -> UnknownPieceError:
        """The error of a character; the first that equals it is where it is."""
        places = (match.start() for match in self._pieces.finditer(text) if match[0] == piece)
        offset = text.index(piece) if as_text else next(places)
        advice = (
            f"this vocabulary has {self.vocab_size} tokens: leave it out, or "
            "train with <|unk|> among data.tokenizer.specials to allow unknown characters"
        )
        return UnknownPieceError.at(f"character {piece!r}", text, offset, advice)

    def encode_array(self, text: str, *, as_text: bool = False) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The ids of `text`, (N,): all characters looked up at once.

        Raises:
            TokenizerError: a character is not in the vocabulary.
        """
        if not as_text and any(special in text for special in self.specials):
            return super().encode_array(text)
        table = self._table
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids = table[np.minimum(codes, len(table) - 1)]
        if (unknown := ids == _UNKNOWN).any():
            if self._unknown_id is None:
                return super().encode_array(text, as_text=as_text)  # which says what and where
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
        return "".join(map(self.token, ids))

    def state(self) -> dict[str, Any]:
        """Characters and special tokens."""
        return {"vocabulary": self.vocabulary, "specials": list(self.specials)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The tokenizer that `state` described."""
        return cls(state["vocabulary"], state["specials"])
