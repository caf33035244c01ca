"""Vocabularies of characters and words in `tokenizers`, the library."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from llm.errors import TokenizerError
from llm.tokenizers import PATTERNS, CharTokenizer, WordTokenizer
from llm.tokenizers.vocabulary import UNKNOWN_TOKENS, VocabularyTokenizer
from llm.tokenizers.word import NO_SPACE_BEFORE

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

_NO_TOKEN = "\ue000"
"""What no word begins with: with it as the prefix of parts of words, all words are joined with spaces."""

_NO_LETTERS = r"[^\p{L}\p{Nl}\p{No}]+"
"""What Python's `[\\W\\d_]+` is: the library's `\\w` has marks, such as accents of their own."""


def to_word_level(tokenizer: VocabularyTokenizer) -> FastTokenizer:
    """A tokenizer of the library that gives the same ids: a text is split, and each piece is looked up.

    Where ours is strict, a piece that is not in the vocabulary is an error there too.

    Args:
        tokenizer: of characters or words.

    Raises:
        TokenizerError: it is of another kind.
    """
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as FastTokenizer

    specials = tokenizer.special_ids
    vocabulary = {tokenizer.token(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    unknown = next((name for name in UNKNOWN_TOKENS if name in specials), None)
    fast = FastTokenizer(models.WordLevel(vocabulary, unknown) if unknown else models.WordLevel(vocabulary))
    if isinstance(tokenizer, CharTokenizer):
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?m:.)"), "isolated")  # there, m is what s is in Python
        fast.decoder = decoders.Fuse()
    elif isinstance(tokenizer, WordTokenizer):
        if tokenizer.pattern == "lowercase":
            fast.normalizer = normalizers.Lowercase()
            fast.pre_tokenizer = pre_tokenizers.Split(Regex(_NO_LETTERS), "removed")
        else:
            space = _white_space()
            pattern = PATTERNS[tokenizer.pattern].pattern.replace(r"\s", space)
            fast.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.Split(Regex(space), "removed")]
            )
        before = "".join(sorted(NO_SPACE_BEFORE))
        fast.decoder = decoders.Sequence(
            [
                decoders.WordPiece(prefix=_NO_TOKEN, cleanup=False),
                decoders.Fuse(),
                decoders.Replace(Regex(f" (?=[{before}])"), ""),
            ]
        )
    else:
        raise TokenizerError(f"no tokenizer file can say what {tokenizer!r} does")
    fast.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    return fast


def _white_space() -> str:
    """A class of the characters that Python takes for white space; the library's own differs in four."""
    return "[" + "".join(rf"\x{{{code:X}}}" for code in range(sys.maxunicode + 1) if chr(code).isspace()) + "]"
