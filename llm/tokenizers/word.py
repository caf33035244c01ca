"""Word-level tokens: the text split at white space and punctuation, as the notes begin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers.base import END_OF_TEXT, UnknownPieceError
from llm.tokenizers.vocabulary import VocabularyTokenizer

PATTERNS = {
    "with_colon": re.compile(r"""([,.:;?_!"()']|--|\s)"""),
    "without_colon": re.compile(r"""([,.?_!"()']|--|\s)"""),
    "lowercase": re.compile(r"[\W\d_]+"),
}
"""The split patterns in use; which one built a vocabulary is part of the tokenizer."""

NO_SPACE_BEFORE = frozenset(""",.?!"()'""")
"""A piece that begins with one of these is joined to the one before it."""


def split_words(text: str, pattern: str = "with_colon") -> list[str]:
    """Cut a text into words and punctuation marks; what separates them, such as white space, is dropped.

    Args:
        text: any text.
        pattern: `with_colon` splits off `:` and `;` too, `without_colon` leaves them on the word before; `lowercase`
            keeps words alone, in lower case: all that are not letters separate.
    """
    text = text.lower() if pattern == "lowercase" else text
    return [piece.strip() for piece in PATTERNS[pattern].split(text) if piece.strip()]


class WordTokenizer(VocabularyTokenizer):
    """One id for each distinct word or punctuation mark.

    Strict without an unknown token among `specials`: a piece outside the vocabulary is then an error. Decoding joins
    the pieces with spaces, none before `, . ? ! " ( ) '`, so that white space is not kept.

    Args:
        vocabulary: the distinct pieces, in the order of their ids.
        pattern: how a text is split; see `split_words`.
        specials: special tokens, numbered after the vocabulary. With `<|unk|>` or `[UNK]`, unknown pieces become it.

    Raises:
        TokenizerError: a token is there twice or empty, or a special one has white space in it.
    """

    kind: ClassVar[str] = "word"
    lossless = False

    def __init__(self, vocabulary: Sequence[str], pattern: str = "with_colon", specials: Sequence[str] = ()) -> None:
        if pattern not in PATTERNS:
            raise TokenizerError(f"pattern must be one of {', '.join(PATTERNS)}; got {pattern!r}")
        super().__init__(vocabulary, specials)
        self.pattern = pattern
        self.vocabulary = tuple(vocabulary)
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, self.specials)) + ")" if specials else "(?!)")

    @classmethod
    def from_text(cls, text: str, pattern: str = "with_colon", specials: Sequence[str] = ()) -> Self:
        """The tokenizer whose vocabulary is the sorted set of the pieces of `text`."""
        return cls(sorted(set(split_words(text, pattern))), pattern, specials)

    @classmethod
    def build(cls, texts: Iterable[str], config: TokenizerConfig) -> Self:
        """Learn the vocabulary of all texts."""
        specials = (END_OF_TEXT, "<|unk|>") if config.specials is None else config.specials
        pattern = config.pattern or "with_colon"
        pieces = {piece for text in texts for piece in split_words(text, pattern)}
        return cls(sorted(pieces - set(specials)), pattern, specials)

    def pieces(self, text: str, as_text: bool = False) -> Sequence[str]:
        """The words and punctuation marks."""
        if as_text:
            return split_words(text, self.pattern)
        pieces: list[str] = []
        for part in self._special_pattern.split(text):
            pieces += [part] if part in self.specials else split_words(part, self.pattern)
        return pieces

    def unknown(self, piece: str, text: str, as_text: bool = False) -> UnknownPieceError:
        """The error of a word; where the first that equals it begins."""
        advice = (
            f"this vocabulary of {self.vocab_size} tokens is strict: leave it out, or "
            "train with <|unk|> among data.tokenizer.specials to allow unknown words"
        )
        return UnknownPieceError.at(f"word {piece!r}", text, self._offset(text, piece, as_text), advice)

    def decode(self, ids: Iterable[int]) -> str:
        """The pieces joined with spaces, none before punctuation."""
        return "".join(self.stream(ids))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids`, a piece at a time."""
        first = True
        for token_id in ids:
            piece = self.token(token_id)
            yield piece if first or piece[0] in NO_SPACE_BEFORE else f" {piece}"
            first = False

    def state(self) -> dict[str, Any]:
        """Vocabulary, pattern and special tokens."""
        return {
            "vocabulary": list(self.vocabulary),
            "pattern": self.pattern,
            "specials": list(self.specials),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The tokenizer that `state` described."""
        return cls(state["vocabulary"], state["pattern"], state["specials"])

    def _offset(self, text: str, piece: str, as_text: bool) -> int:
        """Where the first piece that equals `piece` begins; searched only to report it."""
        if self.pattern == "lowercase":
            found = re.search(rf"(?<![^\W\d_]){re.escape(piece)}(?![^\W\d_])", text, re.IGNORECASE)
            return found.start() if found else 0
        offset = 0
        for part in [text] if as_text else self._special_pattern.split(text):
            for cut in [part] if part in self.specials else PATTERNS[self.pattern].split(part):
                if cut.strip() == piece:
                    return offset + cut.index(piece)
                offset += len(cut)
        return text.index(piece)
