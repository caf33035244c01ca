"""What every tokenizer can do."""

from __future__ import annotations

import codecs
import copy
import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers.roles import Roles

END_OF_TEXT = "<|endoftext|>"
"""GPT-2's one special token: stands between two documents, and pads."""

MASK = "[MASK]"
"""Replaces a token that is to be predicted from both sides (Devlin et al. 2018)."""


class UnknownPieceError(TokenizerError):
    """A piece of text that a strict vocabulary does not hold.

    Args:
        piece: what it is, such as `word 'catt'`.
        line: where it begins, from 1.
        column: where on that line, in characters, from 1.
        advice: about the vocabulary, and what to do.
    """

    def __init__(self, piece: str, line: int, column: int, advice: str) -> None:
        super().__init__(f"unknown {piece} at line {line}, column {column}; {advice}")
        self.piece, self.line, self.column, self.advice = piece, line, column, advice

    @classmethod
    def at(cls, piece: str, text: str, offset: int, advice: str) -> Self:
        """The error of a piece that begins at this character of a text."""
        before = text[:offset]
        return cls(piece, before.count("\n") + 1, offset - before.rfind("\n"), advice)

    def in_setting(self, name: str) -> UnknownPieceError:
        """The same error where the vocabulary is that of another setting than `data.tokenizer`."""
        return UnknownPieceError(self.piece, self.line, self.column, self.advice.replace("data.tokenizer", name))

    def moved(self, lines: int, columns: int) -> UnknownPieceError:
        """The same error where so many lines, and then so many characters, come before the text."""
        column = self.column + columns if self.line == 1 else self.column
        return UnknownPieceError(self.piece, self.line + lines, column, self.advice)


class Tokenizer(ABC):
    """Text to token ids and back.

    A tokenizer is immutable once built: its whole state is the dict of primitives that `to_dict` gives, which
    travels in every checkpoint, and whose hash is the `fingerprint` that token caches are keyed by.
    """

    kind: ClassVar[str]
    """The word that names this class in a configuration and in `to_dict()["kind"]`."""

    end_names: ClassVar[tuple[str, ...]] = (END_OF_TEXT, "[EOS]")
    """What the token that ends a text may be called, where no role says which it is."""

    lossless: bool = True
    """Whether `decode(encode(text)) == text` for every text that can be encoded."""

    continuing_prefix: str = ""
    """What tokens begin with that go on with the word before, such as WordPiece's `##`; empty where none do."""

    roles: Roles = Roles()
    """What the special tokens are for, as far as the files of somebody's weights state it."""

    prefix_ids: tuple[int, ...] = ()
    """What the model expects before a whole text, such as a begin-of-text token; `encode` leaves it out."""

    suffix_ids: tuple[int, ...] = ()
    """What it expects after a whole text, likewise."""

    cuts: str = ""
    """A text may be cut before one of these characters, if a letter or a digit stands before it: the ids of the two
    parts are then those of the whole. Empty: nowhere is it safe, and large files are encoded in one piece."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of distinct ids; every id is in `range(vocab_size)`."""

    @property
    @abstractmethod
    def special_ids(self) -> dict[str, int]:
        """The special tokens by name, for instance `{"<|endoftext|>": 50256}`."""

    @property
    def end_of_text_id(self) -> int | None:
        """The id that separates documents and ends a generated text, or None if the vocabulary has none."""
        return self.roles.end_ids[0] if self.roles.end_ids else self._own_end

    @property
    def _own_end(self) -> int | None:
        specials = self.special_ids
        return next((specials[name] for name in self.end_names if name in specials), None)

    @property
    def mask_id(self) -> int | None:
        """The id of the token that hides another one, or None if the vocabulary has none."""
        return self.special_ids.get(MASK) if self.roles.mask_id is None else self.roles.mask_id

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a generated text: the end of text, and what else somebody's weights state."""
        if self.roles.end_ids or self.end_of_text_id is None:
            return self.roles.end_ids
        return (self.end_of_text_id,)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that writes a conversation as one text, if there is one."""
        return self.roles.chat_template

    def with_roles(self, roles: Roles) -> Self:
        """This tokenizer with other roles of its special tokens.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        for token_id in (*roles.ids.values(), *roles.end_ids):
            self._check_id(token_id)
        if roles.end_ids == (self._own_end,):  # what goes without saying is not said: it makes no other tokenizer
            roles = dataclasses.replace(roles, end_ids=())
        other = copy.copy(self)
        other.roles = roles
        return other

    @abstractmethod
    def encode(self, text: str, *, as_text: bool = False) -> list[int]:
        """The ids of `text`, without `prefix_ids` and `suffix_ids`.

        Args:
            text: any text.
            as_text: take special tokens that stand in the text for ordinary text, rather than for themselves.

        Raises:
            TokenizerError: the text holds something outside the vocabulary; the message says what and where.
        """

    def encode_array(self, text: str, *, as_text: bool = False) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The ids of `text` as an array, (N,); what corpora are encoded with.

        Raises:
            TokenizerError: as `encode` does.
        """
        return np.array(self.encode(text, as_text=as_text), np.uint32)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text that is to be continued: with what the model expects before it, once.

        Raises:
            TokenizerError: as `encode` does.
        """
        ids, prefix = self.encode(text), list(self.prefix_ids)
        return ids if ids[: len(prefix)] == prefix else prefix + ids

    def encode_whole(self, text: str) -> list[int]:
        """The ids of a whole text: with what the model expects before and after it, each once.

        Raises:
            TokenizerError: as `encode` does.
        """
        ids, suffix = self.encode_prompt(text), list(self.suffix_ids)
        return ids if suffix and ids[-len(suffix) :] == suffix else ids + suffix

    @property
    def start_ids(self) -> list[int]:
        """What a text begins from where there is no prompt: the begin-of-text token, or else the end of text before it;
        nothing if the vocabulary has neither."""
        begin = self.end_of_text_id if self.roles.begin_id is None else self.roles.begin_id
        return list(self.prefix_ids) or ([] if begin is None else [begin])

    def document_start(self, is_first: bool) -> list[int]:
        """What stands before a document of a corpus: the end of the one before it, and what each one begins with."""
        end = self.end_of_text_id
        between = [] if is_first else list(self.suffix_ids) if end is None else [end]
        return list(self.prefix_ids) if tuple(between) == self.prefix_ids[:1] else between + list(self.prefix_ids)

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of one token; for byte-pair encodings possibly a part of a character.

        Raises:
            TokenizerError: the id is outside the vocabulary.
        """

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to build this tokenizer again, as primitives; has the key `kind`."""
        roles = {} if self.roles == Roles() else {"roles": self.roles.to_dict()}
        return {"kind": self.kind, **self.state(), **roles}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """The tokenizer that `to_dict` described; `tokenizer_from_dict` finds the kind, and says what is wrong."""
        made = cls.from_state(state)
        return made.with_roles(Roles.from_dict(state["roles"])) if "roles" in state else made

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `to_dict` gives, without the kind and the roles."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The tokenizer of such a dict, without roles."""

    @classmethod
    @abstractmethod
    def build(cls, texts: Iterable[str], config: TokenizerConfig) -> Self:
        """Build a tokenizer from its options and, where it learns a vocabulary, from the texts.

        A tokenizer with a fixed vocabulary never touches `texts`, which may therefore be lazy.
        """

    @abstractmethod
    def with_special(self, name: str) -> Self:
        """This tokenizer with one more special token, whose id is the next; itself if it has that token.

        Raises:
            TokenizerError: the name is none that a special token can have.
        """

    @abstractmethod
    def without_special(self, name: str) -> Self:
        """The tokenizer of which `with_special` made this one; itself if that token is not its last."""

    @property
    def fingerprint(self) -> str:
        """A hash (16 hex digits) that is the same for two tokenizers only if they encode every corpus alike."""
        return fingerprint_of(self.to_dict())

    def split(self, text: str) -> list[bytes]:
        """The pieces of `text`, one for each id of `encode(text)`."""
        return [self.token_bytes(token_id) for token_id in self.encode(text)]

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids` as a stream; a character that is several tokens is held back until it is whole."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token_id in ids:
            yield decoder.decode(self.token_bytes(token_id))
        yield decoder.decode(b"", final=True)

    def _check_id(self, token_id: int) -> int:
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return int(token_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"


def fingerprint_of(described: dict[str, Any]) -> str:
    """The `fingerprint` of the tokenizer that a dict describes.

    Of the roles, ids depend on the end of text alone, which stands between documents.
    """
    described = dict(described)
    if ends := described.pop("roles", {}).get("end_ids"):
        described["end"] = ends[0]
    canonical = json.dumps(described, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_specials(specials: Sequence[str]) -> tuple[str, ...]:
    """The special tokens as a tuple.

    Raises:
        TokenizerError: one is empty or has white space in it.
    """
    for special in specials:
        if not special or special.split() != [special]:
            raise TokenizerError(f"a special token must be text without white space, got {special!r}")
    return tuple(specials)
