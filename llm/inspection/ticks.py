"""Tokens as readable labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llm.errors import TokenizerError
from llm.tokenizers import Tokenizer

SPACE, NEWLINE, TAB, RETURN, NOTHING = "·", "↵", "⇥", "⏎", "∅"
_VISIBLE = str.maketrans({" ": SPACE, "\n": NEWLINE, "\t": TAB, "\r": RETURN})
_LONGEST = 14
_NEVER_IN_UTF8 = b"\xff"
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
    return _shortened(text, longest)


def code_point(character: str) -> str:
    """A character by its number, such as `U+4F60`."""
    return f"U+{ord(character):04X}"


def tick_labels(tokenizer: Tokenizer, ids: Iterable[int], longest: int = _LONGEST) -> list[str]:
    """A label for each token id by itself; one without bytes is shown by its number, such as `#50300`."""
    tokens = ((token_id, _bytes_of(tokenizer, token_id)) for token_id in ids)
    return [f"#{token_id}" if token is None else visible(token, longest) for token_id, token in tokens]


def text_labels(tokenizer: Tokenizer, ids: Sequence[int], longest: int = _LONGEST) -> list[str]:
    """A label for each token of a text: as `tick_labels`, but parts of a character are labelled with it, `时 1/2`.

    Args:
        tokenizer: whose tokens they are.
        ids: of tokens that follow one another.
        longest: characters kept of a label.
    """
    tokens = [_bytes_of(tokenizer, token_id) for token_id in ids]
    known = [_NEVER_IN_UTF8 if token is None else token for token in tokens]
    owners = [index for index, token in enumerate(known) for _ in token]  # of each byte
    pieces, start = [""] * len(ids), 0
    for character in b"".join(known).decode(errors="surrogateescape"):
        encoded = character.encode(errors="surrogateescape")
        parts = sorted(set(owners[start : start + len(encoded)]))
        for number, owner in enumerate(parts, 1):
            shown = visible(encoded)
            pieces[owner] += shown if len(parts) == 1 else f" {shown} {number}/{len(parts)}"
        start += len(encoded)
    return [
        label if token is None or _is_utf8(token) else _shortened(piece.strip(), longest)
        for label, token, piece in zip(tick_labels(tokenizer, ids, longest), tokens, pieces, strict=True)
    ]


def markdown(label: str) -> str:
    """A label that Markdown shows as it is, also inside a table and also where HTML is stripped."""
    return _MARKDOWN.sub(r"\\\1", label.replace("&", "&amp;").replace("<", "&lt;").replace("|", "│"))


def _bytes_of(tokenizer: Tokenizer, token_id: int) -> bytes | None:
    try:
        return tokenizer.token_bytes(token_id)
    except TokenizerError:
        return None


def _is_utf8(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
