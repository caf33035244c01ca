"""Tokens that are looked up in a list of pieces: the base of words and characters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

from llm.errors import TokenizerError
from llm.tokenizers.base import Tokenizer, UnknownPieceError, check_specials

UNKNOWN_TOKENS = ("<|unk|>", "[UNK]")
"""The special tokens that an unknown piece becomes, where a vocabulary has one of them."""


class VocabularyTokenizer(Tokenizer):
    """One id for each distinct piece of a text.

    Strict without an unknown token among `specials`: a piece outside the vocabulary is then an error.

    Args:
        vocabulary: the distinct pieces, in the order of their ids.
        specials: special tokens, numbered after the vocabulary. With `<|unk|>` or `[UNK]`, unknown pieces become it.

    Raises:
        TokenizerError: a token is there twice or empty, or a special one has white space in it.
    """

    cuts = " \n"

    def __init__(self, vocabulary: Sequence[str], specials: Sequence[str] = ()) -> None:
        self.specials = check_specials(specials)
        self._tokens, self._ids = _build_vocabulary(vocabulary, self.specials)
        self._text_ids = {token: token_id for token_id, token in enumerate(vocabulary)}
        self._unknown_id = _find_unknown_token(self.special_ids)

    @property
    def vocab_size(self) -> int:
        """Number of pieces and special tokens."""
        return len(self._tokens)

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens and their ids."""
        return {special: self._ids[special] for special in self.specials}

    def with_special(self, name: str) -> Self:
        """This tokenizer with one more special token, whose id is the next; itself if it has that token."""
        if name in self.specials:
            return self
        return self.from_dict({**self.to_dict(), "specials": [*self.specials, name]})

    def without_special(self, name: str) -> Self:
        """The tokenizer of which `with_special` made this one; itself if that token is not its last."""
        if self.specials[-1:] != (name,):
            return self
        return self.from_dict({**self.to_dict(), "specials": list(self.specials[:-1])})

    @abstractmethod
    def pieces(self, text: str, as_text: bool = False) -> Sequence[str]:
        """What is looked up in the vocabulary, one after the other; special tokens as wholes, or as ordinary text."""

    @abstractmethod
    def unknown(self, piece: str, text: str, as_text: bool = False) -> UnknownPieceError:
        """The error of the first piece of a text that is not in the vocabulary; says where it is."""

    def encode(self, text: str, *, as_text: bool = False) -> list[int]:
        """The id of each piece; special tokens in the text become themselves, or as ordinary text what their pieces do.

        Raises:
            TokenizerError: strict, and a piece is not in the vocabulary; names the piece and its place.
        """
        pieces = self.pieces(text, as_text)
        known = self._text_ids if as_text else self._ids
        if self._unknown_id is not None:
            return [known.get(piece, self._unknown_id) for piece in pieces]
        try:
            return [known[piece] for piece in pieces]
        except KeyError as error:
            raise self.unknown(error.args[0], text, as_text) from None

    def token(self, token_id: int) -> str:
        """The piece behind an id.

        Raises:
            TokenizerError: the id is outside the vocabulary.
        """
        return self._tokens[self._check_id(token_id)]

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of one piece or special token, without white space that was around it."""
        return self.token(token_id).encode()


def _build_vocabulary(tokens: Sequence[str], specials: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """All tokens in the order of their ids, specials last; and the id of each.

    Raises:
        TokenizerError: a token is there twice or is empty.
    """
    every = (*tokens, *specials)
    ids = {token: token_id for token_id, token in enumerate(every)}
    if len(ids) != len(every):
        twice = next(token for token_id, token in enumerate(every) if ids[token] != token_id)
        also = ": as a piece of the text and as a special token; take it out of the text" if twice in specials else ""
        raise TokenizerError(f"{twice!r} is in the vocabulary twice{also}")
    if "" in ids:
        raise TokenizerError("the vocabulary has an empty token in it")
    return every, ids


def _find_unknown_token(special_ids: dict[str, int]) -> int | None:
    """The id that unknown pieces get, or None: then they are an error."""
    return next((special_ids[name] for name in UNKNOWN_TOKENS if name in special_ids), None)
