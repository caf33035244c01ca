"""Tokens as labels that anyone can read."""

from __future__ import annotations

from collections.abc import Iterable

from llm.tokenizers import Tokenizer

SPACE, NEWLINE, TAB, RETURN = "·", "↵", "⇥", "␍"
_VISIBLE = str.maketrans({" ": SPACE, "\n": NEWLINE, "\t": TAB, "\r": RETURN})
_LONGEST = 14


def visible(token: bytes, longest: int = _LONGEST) -> str:
    """One token with its white space made visible; bytes that are a part of a character in hexadecimal.

    Args:
        token: the bytes of a token.
        longest: characters kept; what is cut ends in `…`.
    """
    try:
        text = token.decode()
    except UnicodeDecodeError:
        text = token.decode("utf-8", errors="backslashreplace")
    text = text.translate(_VISIBLE)
    text = "".join(c if c.isprintable() else f"u{ord(c):04x}" for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def tick_labels(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """A label for each token id."""
    return [visible(tokenizer.token_bytes(token_id)) for token_id in ids]
