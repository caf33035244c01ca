"""Any tokenizer of Hugging Face's: what its `tokenizer.json` says, done by their library."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers.base import Tokenizer, check_specials
from llm.tokenizers.bpe import CUTS, SPLIT_PATTERNS, check_unicode
from llm.tokenizers.byte_pairs import to_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

_BYTES = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
"""How a vocabulary with byte fallback names the token of a byte."""

_WORD = "▁"
"""Stands for a space in SentencePiece's vocabularies."""

_PATTERNS = {*SPLIT_PATTERNS.values(), SPLIT_PATTERNS["gpt4"].replace(r"\p{N}{1,3}", r"\p{N}")}
"""Split patterns that never join white space with a letter before it: GPT's, Llama 3's, and Qwen's."""


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer that Hugging Face's `tokenizers` runs: byte pairs, WordPiece, Unigram or words, with whatever changes
    and splits a text before, and puts it together after.

    Args:
        definition: the content of a `tokenizer.json`. Padding, truncation and dropout in it are left out.

    Raises:
        TokenizerError: the library can't make a tokenizer of it.
    """

    kind: ClassVar[str] = "hugging_face"
    end_names: ClassVar[tuple[str, ...]] = ("<|endoftext|>", "</s>", "[EOS]")

    def __init__(self, definition: str) -> None:
        self._fast = _load(definition)
        self.definition = self._fast.to_str()
        content = json.loads(self.definition)
        self._ids: dict[str, int] = self._fast.get_vocab()
        added = self._fast.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in sorted(added.items())}
        self._specials = {self._added[token_id]: token_id for token_id in self._added if added[token_id].special}
        self._is_bytes = _kinds(content["decoder"]) == ["ByteLevel"]
        model = content["model"]
        if model["type"] == "WordPiece":
            self.continuing_prefix = model.get("continuing_subword_prefix") or ""
        # Of a run of these, every one is U+FFFD if they are not valid together.
        self._byte_ids = {self._ids[name] for name in _BYTES if name in self._ids} - self._added.keys()
        self.lossless = self._is_bytes and _keeps_text(content)
        self.cuts = _cuts(content) if not any(sign in name for name in self._added.values() for sign in CUTS) else ""
        self.prefix_ids, self.suffix_ids = self._around()

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the post-processor puts before and after a text."""
        for text in "aA0.":  # the first that has a token
            if inner := self._fast.encode(text, add_special_tokens=False).ids:
                whole = self._fast.encode(text).ids
                starts = range(len(whole) - len(inner) + 1)
                start = next((start for start in starts if whole[start : start + len(inner)] == inner), 0)
                return tuple(whole[:start]), tuple(whole[start + len(inner) :])
        return (), ()

    @classmethod
    def build(cls, texts: Iterable[str], config: TokenizerConfig) -> Self:
        """None is built from a configuration.

        Raises:
            TokenizerError: always.
        """
        del texts, config
        raise TokenizerError("a tokenizer.json is read, not learned: give it as tokenizer.checkpoint")

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        return max(self._ids.values(), default=-1) + 1

    @property
    def special_ids(self) -> dict[str, int]:
        """The added tokens that are special, and their ids."""
        return dict(self._specials)

    def encode(self, text: str, *, as_text: bool = False) -> list[int]:
        """The ids of `text`, without what the post-processor puts around it.

        Raises:
            TokenizerError: the text has half a surrogate pair in it, which UTF-8 can't hold.
        """
        check_unicode(text)
        # Releases the GIL and finds no offsets, which encode does not and does.
        (found,) = (self._ordinary if as_text else self._fast).encode_batch_fast([text], add_special_tokens=False)
        return list(found.ids)

    @functools.cached_property
    def _ordinary(self) -> FastTokenizer:
        """The same where no text spells a special token: not as an added one, and not as one of the model's own."""
        content = json.loads(self.definition)
        model, hidden = content["model"], {name: f"\ue000{name}\ue001" for name in self._specials}
        if isinstance(model["vocab"], dict):
            model["vocab"] = {hidden.get(token, token): token_id for token, token_id in model["vocab"].items()}
        else:  # Unigram's, with scores
            model["vocab"] = [[hidden.get(token, token), score] for token, score in model["vocab"]]
        model["unk_token"] = hidden.get(model.get("unk_token"), model.get("unk_token"))
        for token in content["added_tokens"]:
            token["content"] = hidden.get(token["content"], token["content"])
        return _load(json.dumps({**content, "post_processor": None}))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens as their names."""
        return self._fast.decode([self._check_id(token_id) for token_id in ids], skip_special_tokens=False)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids` as a stream. How a token is written depends on the one before, which is decoded again."""
        seen: list[int] = []
        start = end = 0  # seen[start:end] was given already, and says how what follows is joined to it
        for token_id in ids:
            seen.append(token_id)
            before, text = self.decode(seen[start:end]), self.decode(seen[start:])
            is_part = text.endswith("\ufffd") or token_id in self._byte_ids  # of a character, perhaps
            if len(text) <= len(before) or is_part:
                yield ""
                continue
            yield text[len(before) :]
            start, end = end, len(seen)
        yield self.decode(seen[start:])[len(self.decode(seen[start:end])) :]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, possibly a part of a character; where a token of WordPiece goes on, with its `##`."""
        if (token := self._fast.id_to_token(self._check_id(token_id))) is None:
            raise TokenizerError(f"token id {token_id} stands for nothing in this vocabulary")
        if token_id in self._added:
            return self._added[token_id].encode()
        if self._is_bytes:
            return to_bytes(token)
        return _BYTES[token] if token in _BYTES else token.replace(_WORD, " ").encode()

    def with_special(self, name: str) -> Self:
        """This tokenizer with one more special token, whose id is the next; itself if it has that token."""
        from tokenizers import AddedToken

        if name in self._specials:
            return self
        (name,) = check_specials([name])
        fast = _load(self.definition)
        fast.add_special_tokens([AddedToken(name, normalized=False)])
        return self.from_dict({**self.to_dict(), "definition": fast.to_str()})

    def without_special(self, name: str) -> Self:
        """The tokenizer of which `with_special` made this one; itself if that token is not its last."""
        content = json.loads(self.definition)
        if self._specials.get(name) != self.vocab_size - 1 or name in content["model"]["vocab"]:
            return self
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != name]
        return self.from_dict({**self.to_dict(), "definition": json.dumps(content)})

    def state(self) -> dict[str, Any]:
        """The content of `tokenizer.json`, as a string."""
        return {"definition": self.definition}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The tokenizer that `state` described."""
        return cls(state["definition"])


def _load(definition: str) -> FastTokenizer:
    """The library's tokenizer, which neither pads nor cuts and does the same each time."""
    from tokenizers import Tokenizer as FastTokenizer

    try:
        fast = FastTokenizer.from_str(definition)
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"the library `tokenizers` can't use this tokenizer.json: {str(error)[:200]}") from error
    fast.no_padding()
    fast.no_truncation()
    if getattr(fast.model, "dropout", None):
        fast.model.dropout = None
    return fast


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, those of a sequence one by one."""
    if part is None:
        return []
    names = ("normalizers", "pretokenizers", "decoders")
    inner = next((part[name] for name in names if name in part), None)
    return [part] if inner is None else [step for steps in inner for step in _steps(steps)]


def _kinds(part: dict[str, Any] | None) -> list[str]:
    return [str(step.get("type")) for step in _steps(part)]


def _keeps_text(content: dict[str, Any]) -> bool:
    """Whether a text goes in as it is: nothing changes it, nothing is put before it, and added tokens eat no space."""
    splits = _steps(content["pre_tokenizer"])
    return (
        content["normalizer"] is None
        and all(step.get("behavior", "Isolated") == "Isolated" for step in splits)
        and {step["type"] for step in splits} <= {"ByteLevel", "Split", "Digits", "Punctuation"}
        and "ByteLevel" in _kinds(content["pre_tokenizer"])
        and not any(step.get("add_prefix_space") for step in splits)
        and not any(token["lstrip"] or token["rstrip"] for token in content["added_tokens"])
    )


def _cuts(content: dict[str, Any]) -> str:
    """Where a text may be cut; see `Tokenizer.cuts`."""
    if not _keeps_text(content):
        return ""
    known = all(
        step["pattern"].get("Regex") in _PATTERNS
        for step in _steps(content["pre_tokenizer"])
        if step["type"] == "Split"
    )
    splits = any(step.get("use_regex") or step["type"] == "Split" for step in _steps(content["pre_tokenizer"]))
    return CUTS if known and splits else ""
