"""Token ids as text: what a model without a tokenizer can be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers.base import Tokenizer


class IdTokenizer(Tokenizer):
    """Token ids written as numbers with white space between them, such as `17 4 9`.

    Args:
        vocab_size: V.
        reason: why there is no other tokenizer, if that is known; said where a text is given.
    """

    kind: ClassVar[str] = "ids"
    lossless = False

    def __init__(self, vocab_size: int, reason: str = "") -> None:
        self._vocab_size = vocab_size
        self._reason = f" ({reason})" if reason else ""

    @classmethod
    def build(cls, texts: Iterable[str], config: TokenizerConfig) -> Self:
        """None is built from a configuration.

        Raises:
            TokenizerError: always.
        """
        del texts, config
        raise TokenizerError("token ids need no tokenizer: give the corpus as a .bin file or a folder of token ids")

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._vocab_size

    @property
    def special_ids(self) -> dict[str, int]:
        """None is known."""
        return {}

    def encode(self, text: str, *, as_text: bool = False) -> list[int]:
        """The numbers in the text.

        Raises:
            TokenizerError: there is something else in it, or a number is outside the vocabulary.
        """
        del as_text
        words = text.split()
        if wrong := next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 20)), None):
            raise TokenizerError(
                f"this model has no tokenizer{self._reason}, so it reads token ids such as '1 2 3', not {wrong[:40]!r}"
                "; to read text, import it with its vocabulary: python -m llm import --tokenizer meta.pkl, or another"
            )
        return [self._check_id(int(word)) for word in words]

    def decode(self, ids: Iterable[int]) -> str:
        """The numbers with spaces between them."""
        return "".join(self.stream(ids))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The numbers one after the other, a space before each but the first."""
        for number, token_id in enumerate(ids):
            yield f"{' ' if number else ''}{self._check_id(token_id)}"
        yield ""

    def token_bytes(self, token_id: int) -> bytes:
        """The number."""
        return str(self._check_id(token_id)).encode()

    def with_special(self, name: str) -> Self:
        """Not possible.

        Raises:
            TokenizerError: always.
        """
        raise TokenizerError(f"a model without a tokenizer can't have the special token {name!r}")

    def without_special(self, name: str) -> Self:
        """This tokenizer, which has none."""
        del name
        return self

    def state(self) -> dict[str, Any]:
        """The size of the vocabulary."""
        return {"vocab_size": self._vocab_size}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The tokenizer that `state` described."""
        return cls(int(state["vocab_size"]))
