"""Tokens as readable labels."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llm.errors import TokenizerError
from llm.tokenizers import Tokenizer

SPACE, NEWLINE, TAB, RETURN, NOTHING = "·", "↵", "⇥", "⏎", "∅"
_VISIBLE = str.maketrans({" ": SPACE, "\n": NEWLINE, "\t": TAB, "\r": RETURN})
_LONGEST = 14
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+.!|~>-])")


def visible(token: bytes, longest: int = _LONGEST) -> str:
    """One token with its white space made visible; bytes that are a part of a character in hexadecimal.

    The result is never empty, has no line break and no unprintable character.

    Args:
        token: the bytes of a token.
        longest: characters kept; what is cut ends in `…`.
    """
    text = token.decode("utf-8", errors="backslashreplace").translate(_VISIBLE)
    text = "".join(c if c.isprintable() else code_point(c) for c in text) or NOTHING
    return text if len(text) <= longest else text[: longest - 1] + "…"


def code_point(character: str) -> str:
    """A character by its number, such as `U+4F60`."""
    return f"U+{ord(character):04X}"


def tick_labels(tokenizer: Tokenizer, ids: Iterable[int], longest: int = _LONGEST) -> list[str]:
    """A label for each token id; one without bytes is shown by its number, such as `#50300`."""

    def label(token_id: int) -> str:
        try:
            return visible(tokenizer.token_bytes(token_id), longest)
        except TokenizerError:
            return f"#{token_id}"

    return [label(token_id) for token_id in ids]


def markdown(label: str) -> str:
    """A label that Markdown shows as it is, also inside a table and also where HTML is stripped."""
    return _MARKDOWN.sub(r"\\\1", label.replace("&", "&amp;").replace("<", "&lt;").replace("|", "│"))
