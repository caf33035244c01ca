"""A byte-pair encoding with a vocabulary of its own: learned from a text, or come with weights."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import tiktoken

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.runtime.words import counted
from llm.tokenizers.base import END_OF_TEXT, check_specials
from llm.tokenizers.bpe import CUTS, SPLIT_PATTERNS, BPETokenizer

_SPECIAL = re.compile(r"<.*>|\[.*\]", re.DOTALL)
"""How special tokens are written, such as `<|endoftext|>`, `</s>` and `[EOS]`."""


class BytePairTokenizer(BPETokenizer):
    """Byte-pair encoding on bytes (Radford et al. 2019, section 2.2) with a vocabulary of its own.

    Args:
        vocabulary: every token and its id, in GPT-2's printable form, where a space is `Ġ` and a line break `Ċ`. A
            token with a lower id is joined before one with a higher id.
        specials: special tokens and their ids.
        pattern: how a text is split before pairs are joined, `gpt2` or `gpt4`; see `SPLIT_PATTERNS`.

    Raises:
        TokenizerError: the ids are not 0, 1, 2, ...; or a byte has no token; or a special token is in the
            vocabulary too; or there is no such pattern.
    """

    kind: ClassVar[str] = "byte_pairs"
    end_names: ClassVar[tuple[str, ...]] = (END_OF_TEXT, "</s>", "[EOS]")

    def __init__(self, vocabulary: Mapping[str, int], specials: Mapping[str, int], pattern: str = "gpt2") -> None:
        if pattern not in SPLIT_PATTERNS:
            raise TokenizerError(f"pattern must be one of {', '.join(SPLIT_PATTERNS)}; got {pattern!r}")
        self.encoding = "byte_pairs"
        self.pattern = pattern
        self.vocabulary = dict(vocabulary)
        self.specials = dict(specials)
        self.cuts = "".join(character for character in CUTS if not any(character in special for special in specials))
        ids = sorted([*self.vocabulary.values(), *self.specials.values()])
        if ids != list(range(len(ids))):
            raise TokenizerError(
                f"the ids of a vocabulary of {len(ids)} tokens should be 0 to {len(ids) - 1}, each once"
            )
        if both := self.vocabulary.keys() & self.specials.keys():
            raise TokenizerError(f"{min(both)!r} can't be a special token: it is a token of the vocabulary already")
        ranks = {to_bytes(token): token_id for token, token_id in self.vocabulary.items()}
        if without := [byte for byte in range(256) if bytes([byte]) not in ranks]:
            raise TokenizerError(f"the vocabulary has no token for the byte 0x{without[0]:02x}")
        self._encoding = tiktoken.Encoding(
            name="byte_pairs",
            pat_str=SPLIT_PATTERNS[pattern],
            mergeable_ranks=ranks,
            special_tokens=self.specials,
        )

    @classmethod
    def build(cls, texts: Iterable[str], config: TokenizerConfig) -> Self:
        """Learn the vocabulary of all texts.

        Raises:
            TokenizerError: `config.vocab_size` has no room for the 256 bytes and the special tokens.
        """
        from llm.tokenizers.learning import learn_byte_pairs

        specials = (END_OF_TEXT,) if config.specials is None else config.specials
        pattern = config.pattern or "gpt2"
        return cls(*learn_byte_pairs(texts, config.vocab_size, pattern, specials, config.min_frequency), pattern)

    @property
    def vocab_size(self) -> int:
        """Number of tokens and special tokens."""
        return len(self.vocabulary) + len(self.specials)

    def merges(self) -> list[tuple[str, str]]:
        """The merges: pairs of tokens that are joined, in order.

        A token's pair is its encoding with the tokens before it alone.
        """
        found = []
        for token in sorted(self.vocabulary, key=self.vocabulary.__getitem__):
            if len(token) > 1:
                first, second = self._parts(token)
                found.append((first, second))
        return found

    def _parts(self, token: str) -> tuple[str, str]:
        """The two tokens that are the last to be joined on the way to `token`."""
        parts, rank = list(token), self.vocabulary[token]
        while len(parts) > 2:
            joins = [self.vocabulary.get(first + second, rank) for first, second in itertools.pairwise(parts)]
            best = min(range(len(joins)), key=joins.__getitem__)
            if joins[best] >= rank:
                raise TokenizerError(f"the token {token!r} can't be joined from the tokens before it")
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return parts[0], parts[1]

    def with_special(self, name: str) -> Self:
        """This tokenizer with one more special token, whose id is the next; itself if it has that token."""
        if name in self.specials:
            return self
        (name,) = check_specials([name])
        return self.from_dict({**self.to_dict(), "specials": {**self.specials, name: self.vocab_size}})

    def without_special(self, name: str) -> Self:
        """The tokenizer of which `with_special` made this one; itself if that token is not its last."""
        if self.specials.get(name) != self.vocab_size - 1:
            return self
        others = {other: token_id for other, token_id in self.specials.items() if other != name}
        return self.from_dict({**self.to_dict(), "specials": others})

    def state(self) -> dict[str, Any]:
        """Tokens and special tokens, and the split pattern where it is not GPT-2's."""
        pattern = {} if self.pattern == "gpt2" else {"pattern": self.pattern}
        return {"vocabulary": self.vocabulary, "specials": self.specials, **pattern}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The tokenizer that `state` described."""
        return cls(state["vocabulary"], state["specials"], state.get("pattern", "gpt2"))


class UnorderedError(TokenizerError):
    """The ids of a vocabulary are not in the order in which its tokens are joined, as tiktoken needs them."""


def from_merges(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    specials: Mapping[str, int],
    pattern: str = "gpt2",
) -> BytePairTokenizer:
    """The tokenizer of a vocabulary and the pairs that are joined, in their order.

    What is in the vocabulary but neither a byte nor joined from others is a special token, if it looks like one.

    Raises:
        UnorderedError: the order of the ids is not that of the joins, so that the vocabulary alone does not say it.
        TokenizerError: joins are missing, or what they join has no id.
    """
    joined = [first + second for first, second in merges]
    if unnamed := next((token for token in joined if token not in vocabulary), None):
        raise TokenizerError(f"the merges join {unnamed!r}, which is not in the vocabulary")
    if any(vocabulary[before] >= vocabulary[after] for before, after in itertools.pairwise(joined)):
        raise UnorderedError("the ids of the vocabulary are not in the order of its merges")
    plain = set(PRINTABLE.values()) | set(joined)
    others = {token: token_id for token, token_id in vocabulary.items() if token not in plain}
    if unjoined := [token for token in others if token not in specials and not _SPECIAL.fullmatch(token)]:
        raise TokenizerError(
            f"neither bytes, nor joined by the merges, nor special: {counted(len(unjoined), 'token')} such as "
            f"{unjoined[0]!r}; the merges are empty or cut short"
        )
    tokens = {token: token_id for token, token_id in vocabulary.items() if token in plain}
    return BytePairTokenizer(tokens, others | {name: i for name, i in specials.items() if name not in tokens}, pattern)


def _printable_bytes() -> dict[int, str]:
    """GPT-2's printable sign for each byte: itself where it is one, otherwise one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


PRINTABLE = _printable_bytes()
"""GPT-2's printable sign for each byte."""
_BYTES = {sign: byte for byte, sign in PRINTABLE.items()}


def to_bytes(token: str) -> bytes:
    """The bytes of a token in GPT-2's printable form.

    Raises:
        TokenizerError: a sign in it stands for no byte.
    """
    try:
        return bytes(_BYTES[sign] for sign in token)
    except KeyError as error:
        raise TokenizerError(f"{error.args[0]!r} in the token {token!r} stands for no byte") from error
